"""Envoy as the local stack starts it, before a gateway that records what arrives and serves keys."""

import base64
import http.client
import http.server
import json
import signal
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field

from joserfc import jwt
from joserfc.jwk import RSAKey
from stand_ins import free_port
from waiting import DEADLINE_SECONDS, wait_until

from devstack import edge
from devstack.layout import REPOSITORY

ISSUER = "https://tokens.test"
AUDIENCE = "https://api.test"
# Envoy fetches again 5 s before the end, or at the end if there is less
JWKS_CACHE_SECONDS = 1.0
CALL_SECONDS = DEADLINE_SECONDS
JWKS = "/.well-known/jwks.json"


@dataclass(frozen=True)
class Arrived:
    method: str
    target: str
    headers: http.client.HTTPMessage
    body: bytes


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


@dataclass
class RecordingGateway:
    """Answers 200 to everything. `keys` are public; while `gate` is cleared, requests wait in it."""

    port: int = field(default_factory=free_port)
    keys: list = field(default_factory=lambda: [new_key("2026-01")])
    arrived: list = field(default_factory=list)
    key_fetches: int = 0
    resets: int = 0
    gate: threading.Event = field(default_factory=threading.Event)

    def start(self):
        self.gate.set()
        gateway = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # an answer in one packet

            def handle_any(self):
                gateway._handle(self)

            do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = handle_any  # noqa: N815 - names asked for

            def log_message(self, *_arguments):
                """Keep the tests' output clean."""

        self._connections = set()

        class Server(http.server.ThreadingHTTPServer):
            def process_request(self, request, client_address):
                gateway._connections.add(request)
                super().process_request(request, client_address)

            def handle_error(self, *_arguments):
                """A connection that the test has cut."""

        self._server = Server(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()
        return self

    def stop(self):
        """Go away: nobody listens, and open connections are gone."""
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        for connection in self._connections:
            self._server.shutdown_request(connection)

    def _handle(self, handler):
        body = self._body(handler)
        if handler.path == JWKS and "Authorization" not in handler.headers:
            self.key_fetches += 1
            content = json.dumps({"keys": [key.as_dict(private=False) for key in self.keys]}).encode()
        else:
            self.arrived.append(Arrived(handler.command, handler.path, handler.headers, body))
            if self.resets > 0:
                self.resets -= 1
                handler.close_connection = True
                return
            self.gate.wait(CALL_SECONDS)
            content = b'{"from": "gateway"}'
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    @staticmethod
    def _body(handler):
        if handler.headers.get("Transfer-Encoding") != "chunked":
            return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        body = b""
        while size := int(handler.rfile.readline(), 16):
            body += handler.rfile.read(size)
            handler.rfile.readline()
        handler.rfile.readline()
        return body


class Edge:
    """One Envoy process, started by the command that the local stack starts it by."""

    def __init__(self, folder, gateway_port, **settings):
        self.port = free_port()
        self.output_file = folder / "envoy.log"
        self.command = edge.command(
            self.port,
            gateway_port,
            folder,
            token_issuer=ISSUER,
            token_audience=AUDIENCE,
            jwks_cache_seconds=JWKS_CACHE_SECONDS,
            **settings,
        )
        self.process = None

    @property
    def output(self):
        return self.output_file.read_text()

    def start(self, command=None):
        with self.output_file.open("ab") as output:
            self.process = subprocess.Popen(
                command or self.command, cwd=REPOSITORY, stdout=output, stderr=output
            )
        ready = edge.is_ready(self.port)
        wait_until(
            lambda: self.process.poll() is not None or ready(),
            what="start of the edge",
        )
        assert self.process.poll() is None, self.output
        return self

    def stop(self):
        """Send SIGTERM; return how long the end took, in seconds."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=DEADLINE_SECONDS)
        return time.monotonic() - began

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=DEADLINE_SECONDS)

    @contextmanager
    def connection(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=CALL_SECONDS)
        try:
            yield connection
        finally:
            connection.close()

    def call(self, method, target, headers=None, body=None, *, token=None):
        """One request on a connection of its own; the target is sent as it is."""
        with self.connection() as connection:
            return call_on(connection, method, target, headers, body, token=token)


def call_on(connection, method, target, headers=None, body=None, *, token=None):
    sent = dict(headers or {}) | ({"Authorization": f"Bearer {token}"} if token else {})
    connection.request(
        method, target, body=body, headers=sent, encode_chunked=not isinstance(body, bytes | None)
    )
    answer = connection.getresponse()
    return Answer(answer.status, answer.headers, answer.read())


def new_key(kid):
    return RSAKey.generate_key(2048, {"kid": kid, "use": "sig", "alg": "RS256"}, private=True)


def token_by(key, header=None, **changes):
    """An access token; `changes` overwrite claims, None takes one away."""
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "client-1",
        "iat": now,
        "exp": now + 900,
        "client_id": "client-1",
        "partner_id": "par_1",
        "scope": "payments:write",
    } | changes
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode({"alg": "RS256", "typ": "at+jwt", "kid": key.kid} | (header or {}), claims, key)


def from_base64url(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
