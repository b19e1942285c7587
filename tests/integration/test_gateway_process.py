"""`python -m gateway` as it runs in production: gunicorn, sockets, the mirror instead of Firestore."""

import base64
import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime

import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from gateway_stage import SECRET, client, new_payment, partner_with, pem, rsa_key
from kms_server import PARTY_KEY, KmsServer
from stand_ins import REPOSITORY, accepts_connections, free_port
from waiting import DEADLINE_SECONDS, wait_until

from bridge.gcp.kms import cloud_kms
from bridge.key_ring_file import RingDocument, WrappedKey, bound_to
from bridge.storage import partner_configs
from bridge.storage.migrate import add_sap_systems

pytestmark = pytest.mark.integration


@pytest.fixture
def environment(database, tmp_path):
    partner = partner_with(client("acme"))
    with database.engine.begin() as connection:
        add_sap_systems(connection, {"s4-main": 4})
        partner_configs.upsert(
            connection,
            partner_id=partner.partner_id,
            version=1,
            document=partner.model_dump(mode="json"),
            seen_at=datetime.now(UTC),
        )
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "20261101-a.pem").write_bytes(pem(rsa_key(1)))
    (tmp_path / "receipt.pem").write_bytes(pem(ed25519.Ed25519PrivateKey.generate()))
    key = base64.b64encode(os.urandom(32))
    (tmp_path / "fingerprint.key").write_bytes(key)
    (tmp_path / "parties.json").write_text(json.dumps({"current": "k1", "keys": {"k1": key.decode()}}))
    port = free_port()
    return {
        "PATH": os.environ["PATH"],
        "PORT": str(port),
        "THREADS": "4",
        "DATABASE_URL": database.url_for("gateway"),
        "GOOGLE_CLOUD_PROJECT": "test-project",
        "FIRESTORE_EMULATOR_HOST": f"127.0.0.1:{free_port()}",
        "TOKEN_ISSUER": f"http://127.0.0.1:{port}",
        "TOKEN_AUDIENCE": f"http://127.0.0.1:{port}",
        "TOKEN_SIGNING_KEYS_DIR": str(tmp_path / "tokens"),
        "PARTY_KEY_RING": str(tmp_path / "parties.json"),
        "FINGERPRINT_KEY": str(tmp_path / "fingerprint.key"),
        "RECEIPT_SIGNING_KEY": str(tmp_path / "receipt.pem"),
        "WEBHOOK_KEY_RING": str(tmp_path / "parties.json"),
    }


def wrapped_ring(tmp_path, kms):
    with cloud_kms(kms.host) as wrapper:
        wrapped = wrapper.wrap(PARTY_KEY, os.urandom(32), bound_to("party-data", "k1"))
    path = tmp_path / "wrapped.json"
    path.write_text(json.dumps(RingDocument("k1", {"k1": WrappedKey(PARTY_KEY, wrapped)}).as_json()))
    return {"PARTY_KEY_RING": str(path)}


class Process:
    def __init__(self, environment, tmp_path):
        self.port = int(environment["PORT"])
        self.log = tmp_path / "gateway.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gateway"], cwd=REPOSITORY, env=environment, stdout=log, stderr=log
            )

    def ready(self):
        wait_until(lambda: accepts_connections(self.port), what=self.log.read_text())
        return self

    def stop(self, timeout_seconds=DEADLINE_SECONDS):
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout_seconds)

    def wait(self, timeout_seconds=DEADLINE_SECONDS):
        return self._process.wait(timeout_seconds)

    def call(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_SECONDS)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): v for name, v in headers.items()})
            answer = connection.getresponse()
            content = answer.read()
            return answer.status, json.loads(content)
        finally:
            connection.close()

    def token(self):
        credentials = base64.b64encode(f"acme:{SECRET}".encode()).decode()
        status, body = self.call(
            "POST",
            "/oauth2/token",
            "grant_type=client_credentials",
            Authorization=f"Basic {credentials}",
            Content_Type="application/x-www-form-urlencoded",
        )
        assert status == 200, body
        return f"Bearer {body['access_token']}"


@pytest.fixture
def process(environment, tmp_path):
    made = Process(environment, tmp_path).ready()
    yield made
    assert made.stop() == 0, made.log.read_text()


def test_a_payment_goes_through_the_real_server(process, database):
    token = process.token()
    status, body = process.call(
        "POST",
        "/v1/payments",
        json.dumps(new_payment()).encode(),
        Authorization=token,
        Idempotency_Key="once",
        Content_Type="application/json",
    )
    assert status == 202, body
    assert process.call("GET", f"/v1/payments/{body['id']}", Authorization=token)[1] == body
    assert process.call("GET", "/readyz") == (200, {"status": "ok"})


def test_a_body_without_a_length_is_counted_while_it_is_read(process):
    token = process.token()
    headers = {"Authorization": token, "Idempotency_Key": "k", "Content_Type": "application/json"}
    whole = json.dumps(new_payment()).encode()
    status, body = process.call("POST", "/v1/payments", iter([whole[:50], whole[50:]]), **headers)
    assert status == 202, body
    # a whole payment, and after it more than anybody may send
    padded = itertools.chain([whole], itertools.repeat(b" " * 1024, 64))
    status, body = process.call("POST", "/v1/payments", padded, **headers)
    assert (status, body["status"]) == (413, 413)


def test_each_request_is_one_json_line_without_personal_data(process):
    token = process.token()
    process.call(
        "POST",
        "/v1/payments",
        json.dumps(new_payment()).encode(),
        Authorization=token,
        Idempotency_Key="secret-key",
        Content_Type="application/json",
        X_Request_ID="request-7",
    )
    listing = {"Authorization": token, "X_Request_ID": "request-8"}
    assert process.call("GET", "/v1/payments?external_id=secret-query", **listing)[0] == 200
    wait_until(lambda: "request-8" in process.log.read_text())
    lines = [json.loads(line) for line in process.log.read_text().splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == "request-7"]
    assert line["severity"] == "INFO"
    assert line["message"] == "request"
    assert line["time"].endswith("Z")
    assert (line["method"], line["route"], line["status"]) == ("POST", "/v1/payments", 202)
    assert line["payment_id"].startswith("pay_")
    for secret in ("Muster", "DE893704", "secret", token.partition(" ")[2], SECRET):
        assert secret not in process.log.read_text()


def test_at_sigterm_a_running_request_is_finished(environment, tmp_path):
    process = Process(environment, tmp_path).ready()
    token = process.token()
    body = json.dumps(new_payment()).encode()
    connection = socket.create_connection(("127.0.0.1", process.port), 10)
    head = (
        "POST /v1/payments HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
        f"Authorization: {token}\r\nIdempotency-Key: k\r\nContent-Length: {len(body)}\r\n"
        "Expect: 100-continue\r\n\r\n"
    )
    with connection:
        connection.sendall(head.encode())
        # the server says so when a thread has taken the request up
        assert connection.recv(4096).startswith(b"HTTP/1.1 100")
        process._process.send_signal(signal.SIGTERM)
        # the master closes the port and hands the signal on; its worker finishes what runs
        wait_until(lambda: not psutil.Process(process._process.pid).net_connections(), what="the port closed")
        connection.sendall(body)
        answer = connection.recv(4096)
    assert process.wait() == 0
    assert answer.startswith(b"HTTP/1.1 202")


def test_a_header_that_is_too_long_for_its_meaning_gets_a_problem(environment, tmp_path):
    process = Process(environment, tmp_path).ready()
    headers = {
        "Authorization": process.token(), "Idempotency_Key": "k" * 9000, "Content_Type": "application/json",
    }  # fmt: skip
    status, problem = process.call("POST", "/v1/payments", json.dumps(new_payment()).encode(), **headers)
    assert (status, problem["status"]) == (400, 400)
    assert process.stop() == 0


def test_a_port_in_use_is_one_clear_line(environment, tmp_path):
    with socket.create_server(("127.0.0.1", int(environment["PORT"]))):
        process = Process(environment, tmp_path)
        assert process.wait() == 1
    assert process.log.read_text() == (
        f"gateway: can't listen on 127.0.0.1:{environment['PORT']}: Address already in use\n"
    )


def test_a_wrong_setting_is_one_clear_line(environment, tmp_path):
    process = Process(environment | {"FINGERPRINT_KEY": "/nowhere"}, tmp_path)
    assert process.wait() == 2
    assert process.log.read_text() == "gateway: FINGERPRINT_KEY /nowhere: No such file or directory\n"


def test_a_gateway_on_a_wrapped_key_ring_asks_cloud_kms_once_and_takes_payments(environment, tmp_path):
    with KmsServer() as kms:
        ring = wrapped_ring(tmp_path, kms)
        process = Process(environment | ring | {"KMS_EMULATOR_HOST": kms.host}, tmp_path).ready()
        token = process.token()
        for key in ("one", "two"):
            headers = {"Authorization": token, "Idempotency_Key": key, "Content_Type": "application/json"}
            body = json.dumps(new_payment()).encode()
            assert process.call("POST", "/v1/payments", body, **headers)[0] == 202
        assert kms.calls == [("encrypt", PARTY_KEY), ("decrypt", PARTY_KEY)]
        assert process.stop() == 0


def test_a_key_ring_that_cloud_kms_does_not_open_is_one_clear_line(environment, tmp_path):
    with KmsServer() as kms:
        ring = wrapped_ring(tmp_path, kms)
        kms.denied = {PARTY_KEY}
        process = Process(environment | ring | {"KMS_EMULATOR_HOST": kms.host}, tmp_path)
        assert process.wait() == 2
    assert process.log.read_text() == (
        f"gateway: key ring {ring['PARTY_KEY_RING']}: key k1 does not open as one of party-data: Cloud KMS "
        "refuses: PERMISSION_DENIED: Permission 'cloudkms.cryptoKeyVersions.useToDecrypt' denied on "
        f"resource '{PARTY_KEY}'\n"
    )
