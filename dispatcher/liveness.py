"""What Cloud Run's liveness probe asks of the worker: whether each of its threads still goes round.

A round that fails has ended: while the database or the broker is away the worker lives, and a restart would
change nothing. What a restart does mend is a thread that hangs in one round, or has died.
"""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import structlog

PATH = "/livez"
PEER_TIMEOUT_SECONDS = 5.0

_log = structlog.get_logger(__name__)


class LivenessServer:
    """Answers GET /livez: 200, or 503 with the names that `stuck` returns. `port` 0 takes a free one."""

    def __init__(self, host: str, port: int, stuck: Callable[[], list[str]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = PEER_TIMEOUT_SECONDS

            def do_GET(self) -> None:
                if self.path != PATH:
                    self.send_error(404)
                    return
                names = stuck()
                if names:
                    _log.error("worker is stuck", workers=names)
                body = json.dumps({"stuck": names}).encode()
                self.send_response(503 if names else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it has
                """Probes are not worth a line each."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="liveness", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
