"""The real Envoy before a gateway that records what arrives: bodies, connections, ids, limits, logs."""

import contextlib
import json
import socket

import pytest
from edge_stage import call_on
from waiting import wait_until

pytestmark = pytest.mark.integration

MEBIBYTE = 1024 * 1024
CLIENTS_REQUEST_ID = "11111111-2222-3333-4444-555555555555"


def own_answer(answer, status):
    assert (answer.status, answer.json["code"]) == (status, status)
    return answer.json["message"]


def test_a_body_of_32_mebibytes_passes_and_one_byte_more_is_413(edge, gateway, token):
    assert edge.call("POST", "/v1/payments", {}, bytes(32 * MEBIBYTE), token=token).status == 200
    assert [len(arrived.body) for arrived in gateway.arrived] == [32 * MEBIBYTE]
    answer = edge.call("POST", "/v1/payments", {}, bytes(32 * MEBIBYTE + 1), token=token)
    assert own_answer(answer, 413) == "Payload Too Large"
    assert len(gateway.arrived) == 1


def test_a_chunked_body_arrives_whole_and_with_its_length(edge, gateway, token):
    parts = [b'{"a": ', b'"' + b"x" * 100_000 + b'"', b"}"]
    assert edge.call("POST", "/v1/payments", {}, iter(parts), token=token).status == 200
    [arrived] = gateway.arrived
    assert arrived.body == b"".join(parts)
    assert arrived.headers["Content-Length"] == str(len(arrived.body))


def test_a_chunked_body_that_never_ends_is_413_when_it_is_too_long(edge, gateway, token):
    with edge.connection() as connection:
        connection.putrequest("POST", "/v1/payments")
        connection.putheader("Authorization", f"Bearer {token}")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        for _ in range(33):
            try:
                connection.send(b"%x\r\n%s\r\n" % (MEBIBYTE, bytes(MEBIBYTE)))
            except (BrokenPipeError, ConnectionResetError):
                break  # it has answered and closed
        answer = connection.getresponse()
        assert answer.status == 413
    assert gateway.arrived == []


def test_without_a_token_a_large_body_is_not_waited_for(edge, gateway):
    with edge.connection() as connection:
        connection.putrequest("POST", "/v1/payments")
        connection.putheader("Content-Length", str(20 * MEBIBYTE))
        connection.endheaders()
        assert connection.getresponse().status == 401
    assert gateway.arrived == []


@pytest.mark.parametrize("connections", [16, 100, 1000])
def test_half_requests_wait_at_the_edge_and_keep_nobody_from_being_served(edge, gateway, token, connections):
    """As API Gateway does: the gateway behind it gets a request once it is whole (docs/performance.md)."""
    half = b"POST /oauth2/token HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf"
    with contextlib.ExitStack() as slow:
        for _ in range(connections):
            peer = slow.enter_context(socket.create_connection(("127.0.0.1", edge.port)))
            peer.sendall(half)
        for _ in range(20):
            assert edge.call("GET", "/v1/payments/1", token=token).status == 200
        assert [arrived.method for arrived in gateway.arrived] == ["GET"] * 20


def test_a_connection_serves_many_requests(edge, gateway, token):
    with edge.connection() as connection:
        for method, target, expected in (
            ("GET", "/v1/payments", 200),
            ("GET", "/nowhere", 404),
            ("GET", "/v1/payments/pay_1", 200),
            ("DELETE", "/v1/payments", 405),
            ("POST", "/v1/payments", 200),
        ):
            answer = call_on(connection, method, target, token=token)
            assert answer.status == expected
            assert connection.sock is not None, "the edge has closed the connection"
    assert len(gateway.arrived) == 3


def test_the_clients_request_id_arrives_unchanged_and_every_request_has_one(edge, gateway, token):
    edge.call("GET", "/v1/payments", {"X-Request-ID": CLIENTS_REQUEST_ID}, token=token)
    edge.call("GET", "/v1/payments", token=token)
    edge.call("GET", "/v1/payments", token=token)
    first, second, third = (arrived.headers["X-Request-ID"] for arrived in gateway.arrived)
    assert first == CLIENTS_REQUEST_ID
    assert second
    assert second != third


def test_the_edges_own_answer_repeats_a_valid_request_id_only(edge):
    sent = {"X-Request-ID": CLIENTS_REQUEST_ID}
    for answer in (edge.call("GET", "/nowhere", sent), edge.call("GET", "/v1/payments", sent)):
        assert answer.headers["X-Request-ID"] == CLIENTS_REQUEST_ID
    assert edge.call("GET", "/nowhere").headers["X-Request-ID"]
    for invalid in ("two words", "x" * 129):
        assert "X-Request-ID" not in edge.call("GET", "/nowhere", {"X-Request-ID": invalid}).headers


def test_trace_context_and_forwarded_addresses_arrive(edge, gateway, token):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    edge.call("GET", "/v1/payments", {"traceparent": trace, "X-Forwarded-For": "203.0.113.7"}, token=token)
    [arrived] = gateway.arrived
    assert arrived.headers["traceparent"] == trace
    assert arrived.headers["X-Forwarded-For"].replace(" ", "") == "203.0.113.7,127.0.0.1"


def test_a_client_can_not_change_the_edges_timeouts_or_retries(edge, gateway, token):
    gateway.gate.clear()
    headers = {"x-envoy-upstream-rq-timeout-ms": "1", "x-envoy-retry-on": "5xx", "x-envoy-max-retries": "9"}
    with edge.connection() as connection:
        connection.request("GET", "/v1/payments", headers=headers | {"Authorization": f"Bearer {token}"})
        wait_until(lambda: gateway.arrived, what="arrival of the request")
        connection.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.sock.recv(1)  # a timeout of 1 ms would have been answered long ago
        connection.sock.settimeout(10)
        gateway.gate.set()
        assert connection.getresponse().status == 200
    [arrived] = gateway.arrived
    assert not [name for name in arrived.headers if name.lower().startswith("x-envoy")]


def test_a_request_whose_connection_breaks_is_sent_once_more(edge, gateway, token):
    gateway.resets = 1
    answer = edge.call("POST", "/v1/payments", {"Idempotency-Key": "k"}, b"{}", token=token)
    assert answer.status == 200
    assert [arrived.body for arrived in gateway.arrived] == [b"{}", b"{}"]


def test_the_log_tells_routes_not_contents(edge, gateway, token):
    secret = "DE89370400440532013000"
    sent = {"X-Request-ID": f"{secret} {secret}"}
    edge.call("POST", f"/v1/payments/{secret}/refunds?q={secret}", sent, secret.encode(), token=token)
    edge.call("GET", f"/{secret}", {"X-Request-ID": "last-one"})
    lines = wait_until(lambda: [line for line in edge.output.splitlines() if "last-one" in line])
    entry = json.loads(lines[0])
    assert (entry["status"], entry["method"], entry["severity"]) == (404, "GET", "INFO")
    assert '"route":"refund_payment"' in edge.output
    assert secret not in edge.output
    assert token not in edge.output
