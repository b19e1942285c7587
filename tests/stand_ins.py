"""Real processes of the local stack's stand-ins, and an HTTP server that plays a task's worker."""

import http.server
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from google.cloud.tasks_v2 import CloudTasksClient
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport
from waiting import DEADLINE_SECONDS, wait_until

REPOSITORY = Path(__file__).parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def accepts_connections(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class StandIn:
    """`python -m <module> --port … --data …`, with what it printed kept in a file."""

    def __init__(self, module, folder, *arguments):
        self.module = module
        self.folder = folder
        self.data = folder / "data.sqlite"
        self.port = free_port()
        self.arguments = arguments
        self.process = None

    @property
    def output(self):
        return (self.folder / "output.log").read_text()

    def start(self):
        with (self.folder / "output.log").open("ab") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    self.module,
                    "--port",
                    str(self.port),
                    "--data",
                    str(self.data),
                    *self.arguments,
                ],
                cwd=REPOSITORY,
                stdout=output,
                stderr=output,
            )
        wait_until(
            lambda: accepts_connections(self.port) or self.process.poll() is not None,
            what=f"start of {self.module}",
        )
        assert self.process.poll() is None, self.output
        return self

    def kill(self):
        self.process.kill()
        self.process.wait(timeout=DEADLINE_SECONDS)

    def stop(self, timeout_seconds=DEADLINE_SECONDS):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            return self.process.wait(timeout=timeout_seconds)
        return None


class CloudTasksProcess(StandIn):
    LOCATION = "projects/test-project/locations/europe-west3"

    def __init__(self, folder, *arguments):
        super().__init__("devstack.cloud_tasks", folder, *arguments)
        self._channels = []

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def client(self):
        channel = grpc.insecure_channel(self.address)
        self._channels.append(channel)
        return CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))

    def create_queue(self, client, queue_id, **settings):
        name = f"{self.LOCATION}/queues/{queue_id}"
        client.create_queue(parent=self.LOCATION, queue={"name": name, **settings})
        return name

    def close(self):
        for channel in self._channels:
            channel.close()
        self.stop()


@dataclass(frozen=True)
class ReceivedRequest:
    method: str
    path: str
    headers: dict
    body: bytes


@dataclass
class Worker:
    """Records what it is sent. `statuses` are answered one after the other, then 200 for ever.

    While `gate` is cleared, requests wait in it (up to its own bound).
    """

    requests: list = field(default_factory=list)
    statuses: list = field(default_factory=list)
    answer_headers: dict = field(default_factory=dict)
    gate: threading.Event = field(default_factory=threading.Event)
    max_together: int = 0
    answer_body: bytes = b""
    # longer than a test waits
    GATE_SECONDS = 2 * DEADLINE_SECONDS

    def __post_init__(self):
        self.gate.set()
        self._lock = threading.Lock()
        self._together = 0
        worker = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle_any(self):
                worker._handle(self)

            do_GET = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815 - names the base class asks for

            def log_message(self, *_arguments):
                """Keep the tests' output clean."""

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 128  # with the default of 5, a burst waits a second for TCP to try again

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_port}"

    def bodies(self):
        return [request.body for request in self.requests]

    def close(self):
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()

    def _handle(self, handler):
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        with self._lock:
            self._together += 1
            self.max_together = max(self.max_together, self._together)
            status = self.statuses.pop(0) if self.statuses else 200
            self.requests.append(ReceivedRequest(handler.command, handler.path, dict(handler.headers), body))
        self.gate.wait(self.GATE_SECONDS)
        with self._lock:
            self._together -= 1
        try:
            handler.send_response(status)
            for name, value in self.answer_headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(self.answer_body)))
            handler.end_headers()
            handler.wfile.write(self.answer_body)
        except OSError:
            return  # the caller is gone, as some tests want it
