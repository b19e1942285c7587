"""Idempotency keys and fingerprints (draft-ietf-httpapi-idempotency-key-header; docs/api.md)."""

import hashlib
import hmac
import json
import re
from typing import Any

import rfc8785

from bridge.errors import RejectedError
from bridge.storage.accept import TakenKey

HEADER = "Idempotency-Key"
REPLAYED_HEADER = "Idempotency-Replayed"
IN_PROGRESS_RETRY_SECONDS = 1
# visible ASCII but the comma, by which two headers are joined (bridge.web.single_headers)
_KEY = re.compile(r"[!-+\--~]{1,255}")
# Where a number may begin in JSON; within a string it means nothing, and costs only the slower way.
_MAY_BE_NUMBER = re.compile(r"[\[,:]-?[0-9]")
_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


def read_key(value: str | None, *, name: str = f"the header {HEADER}") -> str:
    """Return the key; 400 when it is missing or not 1 to 255 visible ASCII characters."""
    if value is None or not value:
        raise RejectedError("idempotency-key-missing", 400, f"Send {name}, new for each request.")
    if not _KEY.fullmatch(value):
        raise RejectedError(
            "malformed-request", 400, f"{name} is not 1 to 255 visible ASCII characters but the comma."
        )
    return value


def canonical_json(document: dict[str, Any]) -> bytes:
    """Return the canonical form of RFC 8785.

    For ASCII without numbers, which is what nearly every body is, Python's own encoder writes just that: it
    differs in how it writes numbers and in the order of names beyond the basic plane.
    """
    encoded = _encode(document)
    if encoded.isascii() and not _MAY_BE_NUMBER.search(encoded):
        return encoded.encode()
    return rfc8785.dumps(document)


class Fingerprints:
    """HMAC-SHA256, so that a stored fingerprint of a guessable body tells nothing without the key."""

    def __init__(self, key: bytes) -> None:
        # keyed once, and hashed without giving the interpreter lock away, as hmac.digest does
        self._keyed = hmac.new(key, digestmod=hashlib.sha256)

    def of(self, method: str, path: str, document: dict[str, Any]) -> bytes:
        """Return 32 bytes over method, path and the canonical JSON (RFC 8785) of a valid body."""
        message = b"\n".join((method.encode(), path.encode(), canonical_json(document)))
        mac = self._keyed.copy()
        mac.update(message)
        return mac.digest()

    def of_any(self, method: str, path: str, document: dict[str, Any]) -> bytes | None:
        """As `of`, for a body that need not be valid; None for one that has no canonical form."""
        try:
            return self.of(method, path, document)
        except (ValueError, RecursionError):
            return None


def require_same(taken: TakenKey, fingerprint: bytes) -> None:
    """422 unless the key was used for this very request."""
    if not hmac.compare_digest(taken.fingerprint, fingerprint):
        raise RejectedError(
            "idempotency-key-reused", 422, "The idempotency key was used before with another request."
        )


def in_progress() -> RejectedError:
    """Return the 409 for a key whose first request has not ended."""
    return RejectedError(
        "idempotency-key-in-progress",
        409,
        "A request with this idempotency key is still running.",
        headers={"Retry-After": str(IN_PROGRESS_RETRY_SECONDS)},
    )
