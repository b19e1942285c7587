"""How much of an HTTP/1.1 request has arrived (RFC 9112): enough for a thread to be spent on it, or not yet.

This only counts bytes. gunicorn's parser judges whether the request is a good one, and it gets nothing but
what has arrived here: where the two disagree the request is refused, and no thread waits for a sender.
"""

import re

MAX_HEAD_BYTES = 128 * 1024
# Above the largest body that any service takes: a Pub/Sub push.
MAX_BODY_BYTES = 17 * 1024 * 1024
MAX_CHUNK_LINE_BYTES = 256
_HEAD_END = b"\r\n\r\n"
# of a head in small letters
_LENGTH = re.compile(rb"\r\ncontent-length[ \t]*:[ \t]*([0-9]+)[ \t]*(?=\r\n)")
# Python converts no more than some thousand; with so many a length is above every limit.
_MAX_DIGITS = 18
_CODED = re.compile(rb"\r\ntransfer-encoding[ \t]*:")
_EXPECTS = re.compile(rb"\r\nexpect[ \t]*:[ \t]*100-continue[ \t]*(?=\r\n)")
# Its senders do not know 100 Continue (RFC 9110 section 10.1.1).
_VERSION_1_0 = re.compile(rb"\A[^\r]* http/1\.0\r\n")
_CHUNK_SIZE = re.compile(rb"[ \t]*([0-9a-fA-F]{1,8})[ \t]*(?:;|$)")


class Arrival:
    """One request while it comes in.

    `is_whole`: there is nothing more to wait for. `is_cut`: the rest of it, malformed or too much, will not
    be read, so its connection can't be used again. `is_oversized`: its head has no end.
    """

    __slots__ = (
        "_end", "_head_end", "_is_chunked", "_looked_at", "expects_continue", "is_cut", "is_oversized",
        "is_whole", "received",
    )  # fmt: skip

    def __init__(self) -> None:
        self.received = bytearray()
        self.is_whole = False
        self.is_cut = False
        self.is_oversized = False
        self.expects_continue = False
        self._head_end: int | None = None
        # where the body ends, as far as that is known; of a chunked one, where the next chunk begins
        self._end = 0
        self._is_chunked = False
        self._looked_at = 0

    @property
    def has_head(self) -> bool:
        return self._head_end is not None

    def add(self, data: bytes) -> None:
        """Take what has come; line ends before a request mean nothing (RFC 9112 section 2.2)."""
        self.received += data if self.received else data.lstrip(b"\r\n")
        if self._head_end is None:
            self._look_for_head()
        if self._head_end is not None and not self.is_whole:
            self._look_for_body(self._head_end)

    def take(self) -> bytes:
        """Return what has come, and keep nothing of it."""
        taken = bytes(self.received)
        self.received.clear()
        return taken

    def _look_for_head(self) -> None:
        found = self.received.find(_HEAD_END, max(self._looked_at - len(_HEAD_END) + 1, 0))
        self._looked_at = len(self.received)
        if found < 0:
            self.is_oversized = self._looked_at > MAX_HEAD_BYTES
            return
        self._head_end = self._end = found + len(_HEAD_END)
        # plain searches first: a regular expression that ignores case looks at every byte
        head = bytes(self.received[: self._head_end]).lower()
        self.expects_continue = (
            b"\r\nexpect" in head and _EXPECTS.search(head) is not None and not _VERSION_1_0.search(head)
        )
        self._is_chunked = b"\r\ntransfer-encoding" in head and _CODED.search(head) is not None
        begin = head.find(b"\r\ncontent-length")
        lengths = _LENGTH.findall(head, begin) if begin >= 0 else []
        if not self._is_chunked and len(lengths) == 1:
            self._end += int(lengths[0].lstrip(b"0")[:_MAX_DIGITS] or b"0")

    def _look_for_body(self, begin: int) -> None:
        if self._is_chunked:
            self._walk_chunks()
        else:
            self.is_whole = len(self.received) >= self._end
        if not self.is_whole and max(self._end, len(self.received)) - begin > MAX_BODY_BYTES:
            self._cut()

    def _cut(self) -> None:
        self.is_whole = self.is_cut = True

    def _walk_chunks(self) -> None:
        while True:
            line_end = self.received.find(b"\r\n", self._end)
            if line_end < 0:
                if len(self.received) - self._end > MAX_CHUNK_LINE_BYTES:
                    self._cut()
                return
            size = _CHUNK_SIZE.match(bytes(self.received[self._end : min(line_end, self._end + 64)]))
            if size is None:
                self._cut()
                return
            if int(size[1], 16) == 0:
                # after the last chunk trailers may follow, and then an empty line
                self.is_whole = self.received.find(_HEAD_END, line_end) >= 0
                if not self.is_whole and len(self.received) - line_end > MAX_HEAD_BYTES:
                    self._cut()
                return
            self._end = line_end + 2 + int(size[1], 16) + 2
            if self._end > len(self.received):
                return
