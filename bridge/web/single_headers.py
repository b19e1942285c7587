"""Headers that say one thing: a request in which one comes twice has two meanings and is refused.

RFC 9110 section 5.3 lets every recipient join repeated lines with a comma, and gunicorn and Envoy do. Both
forms are looked for: two lines by the worker, which sees the request as it came, and a comma in a value that
can't have one by every app (bridge.web.strict).
"""

from collections.abc import Iterable, Mapping
from typing import Any

# Whatever a service reads one value of, and what frames a message. X-Forwarded-For and others are lists.
SINGLE_HEADERS = (
    "Authorization", "Content-Length", "Content-Type", "Host", "Idempotency-Key", "If-Match", "If-None-Match",
    "traceparent", "X-Edge-Client-Address", "X-Edge-Key", "X-Forwarded-Authorization", "X-Operator",
    "X-Reason", "X-Request-ID",
)  # fmt: skip
_BY_UPPER_NAME = {name.upper(): name for name in SINGLE_HEADERS}
# by WSGI's names (PEP 3333)
_BY_ENVIRON_NAME = {
    f"{'' if name.startswith('Content-') else 'HTTP_'}{name.upper().replace('-', '_')}": name
    for name in SINGLE_HEADERS
}


def repeated_header(headers: Iterable[tuple[str, str]]) -> str | None:
    """Return a single header that comes twice among `headers` (names in capital letters)."""
    seen = set()
    for name, _ in headers:
        if name in _BY_UPPER_NAME:
            if name in seen:
                return _BY_UPPER_NAME[name]
            seen.add(name)
    return None


def joined_header(environ: Mapping[str, Any]) -> str | None:
    """Return a single header of a WSGI environment whose value has been joined from several."""
    for key, name in _BY_ENVIRON_NAME.items():
        if "," in environ.get(key, ""):
            return name
    return None
