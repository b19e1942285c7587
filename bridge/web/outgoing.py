"""What a thread writes an answer to: memory, and from there as much as the peer takes at once."""

import socket


class Outgoing:
    """Stands for a socket in gunicorn's code. `flush` sends; nothing here blocks or receives."""

    __slots__ = ("_peer", "_pending")

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        self._pending = bytearray()

    @property
    def pending_bytes(self) -> int:
        return len(self._pending)

    def flush(self) -> bool:
        """Send; return whether nothing is left. OSError: the peer is gone."""
        while self._pending:
            try:
                sent = self._peer.send(self._pending)
            except (BlockingIOError, InterruptedError):
                return False
            del self._pending[:sent]
        return True

    def sendall(self, data: bytes) -> None:
        self._pending += data

    def send(self, data: bytes) -> int:
        self._pending += data
        return len(data)

    def recv(self, _size: int) -> bytes:
        return b""

    def setblocking(self, _is_blocking: bool) -> None:
        """Never."""

    def settimeout(self, _seconds: float | None) -> None:
        """There is nothing to wait for."""

    def shutdown(self, _how: int) -> None:
        """The main loop ends the connection."""

    def close(self) -> None:
        """As above."""
