"""How a receiver's answer begins, as the attempts log keeps it for the partner: text, bounded, no secrets."""

import re

MAX_EXCERPT_BYTES = 1024
# What a receiver that repeats its request, its settings or its own credentials would leave in our log.
_SECRET = re.compile(
    r"wh(?:sec|sk)_[A-Za-z0-9+/=_-]+"
    r"|\bey[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?"
    r"|(?i:\b(?:bearer|basic)\s+[A-Za-z0-9+/=._~-]{8,})"
    r"|(?i:\b(?:password|secret|token|api[_-]?key)[\"']?\s*[:=]\s*[\"']?)[^\s\"',;&}]+"
)
# PostgreSQL stores no NUL, and a log is no terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def excerpt_of(body: bytes) -> str | None:
    """Return the first kibibyte of `body` as text; None if there is none."""
    if not body:
        return None
    # one more than is kept: a secret that is cut off in the middle would not be recognised
    text = _SECRET.sub("[redacted]", body[: 2 * MAX_EXCERPT_BYTES].decode("utf-8", "replace"))
    return _CONTROL.sub(" ", text).encode()[:MAX_EXCERPT_BYTES].decode("utf-8", "ignore")
