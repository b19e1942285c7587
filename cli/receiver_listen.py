"""A receiver to look at deliveries with: it verifies each one and prints a line."""

import http.server
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

MAX_BODY_BYTES = 1024 * 1024
READ_TIMEOUT_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Received:
    """A delivery as it came in. `problem` says why it is not to be trusted; None: its signature is good."""

    event_id: str | None
    event_type: str | None
    sequence: int | None
    previous_sequence: int | None
    problem: str | None


def read(webhook: Webhook, body: bytes, headers: dict[str, str]) -> Received:
    """Verify the signature over the raw body, then read the event."""
    problem = None
    try:
        webhook.verify(body, headers, json_parse=False)
    except (WebhookVerificationError, ValueError) as error:
        problem = str(error) or type(error).__name__
    try:
        event = json.loads(body)
    except ValueError:
        event = {}
    if not isinstance(event, dict):
        event = {}
    return Received(
        headers.get("webhook-id"),
        event.get("type"),
        event.get("sequence"),
        event.get("previous_sequence"),
        problem,
    )


class Gaps:
    """Tells which events are missing, by `previous_sequence`: the event before in the endpoint's stream."""

    def __init__(self) -> None:
        self._newest: int | None = None

    def before(self, received: Received) -> tuple[int, int] | None:
        """Return (last seen, expected before this one) if something between is missing."""
        previous, sequence = received.previous_sequence, received.sequence
        if received.problem is not None or previous is None or not sequence:
            return None
        newest = self._newest
        self._newest = max(sequence, newest or 0)
        return (newest, previous) if newest is not None and previous > newest else None


def make_server(
    port: int, webhook: Webhook, status: int, tell: Callable[[Received], None]
) -> http.server.ThreadingHTTPServer:
    """Return a server on 127.0.0.1 that answers `status` to what verifies, and 401 to the rest."""

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = READ_TIMEOUT_SECONDS

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length") or ""
            if not length.isdigit() or int(length) > MAX_BODY_BYTES:
                self._answer(413)
                return
            body = self.rfile.read(int(length))
            received = read(webhook, body, {name.lower(): value for name, value in self.headers.items()})
            tell(received)
            self._answer(status if received.problem is None else 401)

        def _answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_arguments: Any) -> None:
            """The line that `tell` prints is enough."""

    return http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
