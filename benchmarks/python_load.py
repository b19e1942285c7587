"""The load without wrk: one thread, non-blocking sockets, requests as bytes. The same RESULT line.

`python -m benchmarks.python_load URL CONNECTIONS SECONDS FIRST_NUMBER PATH TOKEN BODY`
"""

import json
import selectors
import socket
import sys
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from benchmarks.payments import NUMBER

RECEIVE_BYTES = 65_536
END_OF_HEAD = b"\r\n\r\n"


@dataclass
class Tally:
    latencies: list[float] = field(default_factory=list)
    failed: int = 0


class Requests:
    """Makes the next request."""

    def __init__(self, first: int, path: str, token: str, body: str) -> None:
        self._number = first
        self._before, self._after = (part.encode() for part in body.split(NUMBER))
        self._head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\nIdempotency-Key: bench-"
        ).encode()

    def next(self) -> bytes:
        self._number += 1
        number = b"%012d" % self._number
        return b"".join((self._head, number, END_OF_HEAD, self._before, number, self._after))


@dataclass
class Caller:
    """One keep-alive connection with one request under way."""

    connection: socket.socket
    sent_at: float = 0.0
    answer: bytes = b""

    def send(self, request: bytes) -> None:
        self.answer = b""
        self.sent_at = time.perf_counter()
        self.connection.sendall(request)

    def is_answered(self) -> bool:
        """Take in what has come; True when the answer is whole. OSError when the server has gone."""
        received = self.connection.recv(RECEIVE_BYTES)
        if not received:
            raise ConnectionResetError
        self.answer += received
        head, found, body = self.answer.partition(END_OF_HEAD)
        if not found:
            return False
        _, _, rest = head.lower().partition(b"\r\ncontent-length:")
        return len(body) >= int(rest.partition(b"\r\n")[0])


def run(address: tuple[str, int], connections: int, seconds: float, requests: Requests) -> Tally:
    tally = Tally()
    with selectors.DefaultSelector() as selector:
        for _ in range(connections):
            caller = Caller(socket.create_connection(address))
            selector.register(caller.connection, selectors.EVENT_READ, caller)
            caller.send(requests.next())
        ends_at = time.perf_counter() + seconds
        while time.perf_counter() < ends_at:
            for key, _events in selector.select(1.0):
                _go_on(key.data, requests, tally)
    return tally


def _go_on(caller: Caller, requests: Requests, tally: Tally) -> None:
    if caller.is_answered():
        tally.latencies.append(time.perf_counter() - caller.sent_at)
        tally.failed += caller.answer[9:10] != b"2"
        caller.send(requests.next())


def main() -> int:
    url, connections, seconds, first, path, token, body = sys.argv[1:]
    parts = urlsplit(url)
    requests = Requests(int(first), path, token, body)
    tally = run((parts.hostname or "", parts.port or 80), int(connections), float(seconds), requests)
    ordered = sorted(tally.latencies)
    result = {
        "requests": len(ordered),
        "seconds": float(seconds),
        "p50_ms": ordered[len(ordered) // 2] * 1000,
        "p99_ms": ordered[len(ordered) * 99 // 100] * 1000,
        "failed": tally.failed,
    }
    sys.stdout.write(f"RESULT {json.dumps(result)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
