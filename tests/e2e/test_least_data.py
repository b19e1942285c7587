"""Names, account numbers and texts reach SAP and our encrypted columns, and nothing else that exists."""

import base64
import contextlib
import json
import re
import secrets
import sqlite3
import subprocess
from dataclasses import dataclass

import grpc
import pytest
import requests
from google.api_core.exceptions import DeadlineExceeded
from google.pubsub_v1 import SubscriberClient
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from partner_run import PartnerRun
from sqlalchemy import text
from waiting import DEADLINE_SECONDS, wait_until

from bridge.key_ring_file import KeyRingSettings, open_key_ring
from bridge.messages import EVENTS_TOPIC, dead_letter_topic, operations_topic
from bridge.parties import COLUMN, TABLE
from devstack.demo.instructions import german_iban
from devstack.evidence import open_database
from devstack.layout import MEASURED, PROJECT_ID, SAP_SYSTEMS
from devstack.leaks import find_leaks
from devstack.postgres import DATABASE, OWNER, Postgres
from devstack.running_stack import RunningStack

pytestmark = pytest.mark.e2e

# in every note of a refusal by the mock (sap_mock/README.md)
SAPS_OWN_WORDS = "Erika Mustermann GmbH"
REFUSAL = "SBX-CUSTOMER-UNKNOWN"
PULL_TIMEOUT_SECONDS = 0.5
TOPICS = [EVENTS_TOPIC, *map(operations_topic, SAP_SYSTEMS)]
HEX = re.compile(r"\\\\x((?:[0-9a-f]{2})+)")
BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
SQLITE_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table'"
PARTIES = text("SELECT encrypted_parties FROM payments WHERE payment_id = :payment_id")


@dataclass(frozen=True)
class Planted:
    """What must not leak. A refused payment's text makes the mock refuse, so its mark stands behind."""

    mark: str
    debtor_iban: str
    creditor_iban: str

    @property
    def debtor_name(self):
        return f"Ottokar Wendelbörg {self.mark}"

    @property
    def creditor_name(self):
        return f"Fridolin Querschnäbel {self.mark}"

    @property
    def text(self):
        return f"Zwiebelrost {self.mark}"

    @property
    def words(self):
        return (
            *("Wendelbörg", "Querschnäbel", f"Zwiebelrost {self.mark}", f"{REFUSAL}-{self.mark}"),
            *(self.debtor_iban, self.creditor_iban, SAPS_OWN_WORDS),
        )

    def body(self, external_id, **changes):
        return {
            "external_id": f"{external_id}-{secrets.token_hex(4)}",
            "amount": {"value": "12.50", "currency": "EUR"},
            "capture": "automatic",
            "debtor": {"name": self.debtor_name, "account": {"iban": self.debtor_iban}},
            "creditor": {"name": self.creditor_name, "account": {"iban": self.creditor_iban}},
            "remittance_information": self.text,
        } | changes


def shown_in(found, words):
    """The words in `found`: as they are, as JSON escapes, or under base64 or hex (as bytea is dumped)."""
    readings = [found, ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), found)]
    readings += [bytes.fromhex(run[1]).decode(errors="ignore") for run in HEX.finditer(found)]
    for run in BASE64.finditer(found):
        body = run[0].rstrip("=").replace("-", "+").replace("_", "/")
        for start in range(4):  # a run may begin before the value does
            part = body[start:]
            part = part[:-1] if len(part) % 4 == 1 else part
            decoded = base64.b64decode(part + "=" * (-len(part) % 4))
            readings.append(decoded.decode(errors="ignore"))
    everything = "\n".join(readings)
    return [word for word in words if word in everything]


class Tap:
    """A subscription of our own on every topic, made before anything is sent."""

    def __init__(self, address):
        self._channel = grpc.insecure_channel(address)
        self._client = SubscriberClient(transport=SubscriberGrpcTransport(channel=self._channel))
        self._name = f"tap-{secrets.token_hex(4)}"
        self.messages = []

    def __enter__(self):
        for topic in [*TOPICS, *map(dead_letter_topic, TOPICS)]:
            request = {"name": self._path(topic), "topic": f"projects/{PROJECT_ID}/topics/{topic}"}
            self._client.create_subscription(request)
        return self

    def __exit__(self, *_error):
        for topic in [*TOPICS, *map(dead_letter_topic, TOPICS)]:
            self._client.delete_subscription(subscription=self._path(topic))
        self._channel.close()

    def read(self, topic):
        subscription = self._path(topic)
        try:
            pulled = self._client.pull(
                subscription=subscription, max_messages=1000, timeout=PULL_TIMEOUT_SECONDS, retry=None
            ).received_messages
        except DeadlineExceeded:  # there is nothing
            return
        for item in pulled:
            self.messages.append(json.dumps([dict(item.message.attributes), item.message.data.decode()]))
        if pulled:
            self._client.acknowledge(subscription=subscription, ack_ids=[item.ack_id for item in pulled])

    def read_until_they_name(self, payment_ids):
        def is_done():
            for topic in [*TOPICS, *map(dead_letter_topic, TOPICS)]:
                self.read(topic)
            return all(any(payment in message for message in self.messages) for payment in payment_ids)

        wait_until(is_done, what="the payments' messages")

    def _path(self, topic):
        return f"projects/{PROJECT_ID}/subscriptions/{self._name}-{topic}"


def dump(stack):
    """All of the database, as a backup would hold it."""
    postgres = Postgres(stack.layout.data("postgres"), stack.layout.ports["postgres"])
    program = str(postgres._bin / "pg_dump")
    done = subprocess.run(
        [program, "--host=127.0.0.1", f"--port={postgres.port}", f"--username={OWNER}", DATABASE],
        capture_output=True,
        check=True,
        timeout=DEADLINE_SECONDS,
        cwd="/",
        env=postgres.environment(),
    )
    return done.stdout.decode()


def rows_of(path):
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        tables = [name for (name,) in database.execute(SQLITE_TABLES)]
        rows = [row for table in tables for row in database.execute(f'SELECT * FROM "{table}"')]
    readable = [
        [value.decode(errors="ignore") if isinstance(value, bytes) else value for value in row]
        for row in rows
    ]
    return json.dumps(readable, ensure_ascii=False)


@pytest.fixture
def planted():
    return Planted(secrets.token_hex(4), german_iban(), german_iban())


def bad_requests(stack, token, planted):
    """Personal data where it does not belong: whatever answers must not repeat it."""
    name, iban = planted.debtor_name, planted.debtor_iban
    account = {"iban": iban}
    bodies = [
        planted.body("bad", surprise=name),
        planted.body("bad", capture=name),
        planted.body("bad", debtor=name),
        planted.body("bad", debtor={"name": iban, "account": {"iban": f"{iban}{name}"}}),
        planted.body("bad", debtor={"name": name * 20, "account": account}),
        planted.body("bad", creditor={"name": name, "account": account, name: iban}),
        planted.body("bad", amount={"value": iban, "currency": name}),
        planted.body("bad", requested_execution_date=planted.text),
        planted.body("bad", remittance_information=planted.text * 20),
        planted.body("bad", metadata={name * 3: iban * 20}),
        planted.body("bad") | {"external_id": planted.text * 5},
        planted.body("bad") | {name: planted.text},
        [name, iban],
    ]
    for body in bodies:
        yield stack.request("POST", "/v1/payments", token, json=body, headers={"Idempotency-Key": "bad"})
        batch = {"payments": [body if isinstance(body, dict) else {"bad": body}]}
        yield stack.request("POST", "/v1/payments/batch", token, json=batch)
    twice = json.dumps(planted.body("bad"))[:-1] + f', "{name}": 1, "{name}": 2}}'
    for data in (twice, '{"debtor": "' + name, name):
        headers = {"Idempotency-Key": "bad", "Content-Type": "application/json"}
        yield stack.request("POST", "/v1/payments", token, data=data.encode(), headers=headers)
    junk = {"X-Request-ID": f"{iban} ".encode() + name.encode(), "traceparent": f"00-{iban}-{iban}-01"}
    yield stack.request("GET", "/v1/payments", token, headers=junk)
    for query in ({"cursor": name}, {"status": name}, {"limit": iban}, {"created_from": iban}, {name: iban}):
        yield stack.request("GET", "/v1/payments", token, params=query)
        yield stack.request("GET", "/v1/events", token, params=query | {"after": name})
    form = {"grant_type": name, "scope": iban, "client_id": planted.text}
    yield stack.request("POST", "/oauth2/token", data=form)


def answer_of(response):
    return json.dumps(dict(response.headers), ensure_ascii=False) + response.text


def test_nothing_that_exists_shows_a_name_an_account_or_a_text(stack, planted):
    run = PartnerRun.on(stack)
    token = stack.token()
    with Tap(stack.layout.address("pubsub")) as tap:
        good = [stack.pay(token, secrets.token_hex(8), planted.body("good")) for _ in range(2)]
        refused_body = planted.body("refused", remittance_information=f"{REFUSAL}-{planted.mark}")
        refused = stack.pay(token, secrets.token_hex(8), refused_body)
        accepted = [*good, refused]
        assert [answer.status_code for answer in accepted] == [202] * 3
        bad = list(bad_requests(stack, token, planted))
        assert not [answer.status_code for answer in bad if answer.status_code >= 500]
        ids = [answer.json()["id"] for answer in accepted]
        wait_until(lambda: has_ended(stack, token, ids), what="every payment's end")
        wait_until(lambda: len(told(stack, ids)) == 2 * len(ids), what="the webhooks")
        tap.read_until_they_name(ids)

    running: RunningStack = run.running
    feed = stack.request("GET", "/v1/events?after=0&limit=500", token)
    readings = [stack.request("GET", f"/v1/payments/{payment}{rest}", token)
                for payment in ids for rest in ("", "/events")]  # fmt: skip
    places = {
        "answers": "\n".join(map(answer_of, [*accepted, *bad, feed, *readings])),
        "messages": "\n".join(tap.messages),
        "webhooks": json.dumps(told(stack, ids), ensure_ascii=False),
        "backup": dump(stack),
        "logs": "\n".join(
            path.read_text(errors="ignore") for path in sorted(running.logs_folder.glob("*.log*"))
        ),
    }
    places["metrics"] = "\n".join(
        requests.get(f"{stack.layout.url(f'{service}_metrics')}/metrics", timeout=DEADLINE_SECONDS).text
        for service in MEASURED
    )
    places["tasks"] = rows_of(database_of(stack, "cloud_tasks"))
    places["received"] = rows_of(database_of(stack, "receiver"))
    assert all(places.values())
    assert {place: shown_in(found, planted.words) for place, found in places.items()} == {
        place: [] for place in places
    }
    assert find_leaks(running, planted.words) == []

    # the search is no blind one: it finds them where they belong
    ledger = rows_of(database_of(stack, "sap_mock"))
    assert planted.text in shown_in(ledger, planted.words)
    shown = shown_in(decrypted(stack, running, ids[0]), planted.words)
    assert {"Wendelbörg", planted.text, planted.debtor_iban} <= set(shown)


def database_of(stack, name):
    return f"{stack.layout.data(name)}.sqlite"


def has_ended(stack, token, ids):
    return [stack.payment(token, payment)["status"] for payment in ids] == ["paid", "paid", "rejected"]


def told(stack, ids):
    return [webhook for webhook in stack.received() if webhook["payment_id"] in ids]


def decrypted(stack, running, payment_id):
    with open_database(running).connect() as connection:
        sealed = connection.execute(PARTIES, {"payment_id": payment_id}).scalar_one()
    ring = open_key_ring(KeyRingSettings(str(stack.layout.keys_folder / "party-data.json"), "party-data"))
    return ring.decrypt(sealed, table=TABLE, column=COLUMN, row=payment_id).decode()


@pytest.mark.parametrize("hide", [
    lambda word: word,
    lambda word: json.dumps({"name": word}),
    lambda word: base64.b64encode(f"xy{word}".encode()).decode(),
    lambda word: base64.urlsafe_b64encode(f"x{word}".encode()).decode(),
    lambda word: "\\\\x" + word.encode().hex(),
])  # fmt: skip
def test_the_search_sees_through_the_encodings(hide):
    word = "Fridolin Querschnäbel of Somewhere"
    assert shown_in(f"a row\t{hide(word)}\tmore", [word]) == [word]
