"""What gunicorn's parser reads a request from: memory, in the small pieces that it asks for.

Given all at once, it would copy what is left of the body for each chunk.
"""


class Incoming:
    """Stands for a socket in gunicorn's code. What has not been fed is the end of the input."""

    __slots__ = ("_at", "_data")

    def __init__(self) -> None:
        self._data = b""
        self._at = 0

    def feed(self, data: bytes) -> None:
        """Give the bytes of the next request, and what has come behind it."""
        self._data, self._at = data, 0

    def recv(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def take_rest(self) -> bytes:
        """Return what nobody has received."""
        rest = self._data[self._at :]
        self.feed(b"")
        return rest
