"""A TCP server whose answers are bytes, right or wrong: what an HTTP library would never send."""

import contextlib
import socket
import threading


class RawServer:
    """A TCP server whose answer is a function of the connection; what it was sent is kept."""

    def __init__(self, answer):
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.connections = 0
        self.closing = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._handle, args=(connection,), daemon=True).start()

    def _handle(self, connection):
        with connection, contextlib.suppress(OSError):
            self._answer(connection, self.closing)

    def close(self):
        self.closing.set()
        self._listener.close()


@contextlib.contextmanager
def serving(answer):
    server = RawServer(answer)
    try:
        yield server
    finally:
        server.close()


def read_request(connection):
    """Read up to the end of the body, which is {} in all of these tests; False if there is no more."""
    received = b""
    while not received.endswith(b"{}"):
        more = connection.recv(65_536)
        if not more:
            return False
        received += more
    return True


def says(*parts):
    def answer(connection, _closing):
        read_request(connection)
        for part in parts:
            connection.sendall(part)

    return answer
