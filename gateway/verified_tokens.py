"""The access tokens whose signature this process has verified: one RSA verification per token, not per call.

Only signature and claims are remembered. Time, the key's validity, the partner's and the client's status are
looked at again at each request, whoever asks.
"""

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass

from joserfc.jwk import RSAKey

MAX_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says."""

    partner_id: str
    client_id: str
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """`starts_at`, `expires_at`: seconds of Unix time; `key`: what the signature was verified with."""

    claims: Claims
    starts_at: float
    expires_at: float
    kid: str
    key: RSAKey


class VerifiedTokens:
    """Thread-safe; keeps the digests of the tokens used last, never a token."""

    def __init__(self, max_remembered: int = MAX_REMEMBERED) -> None:
        self._max_remembered = max_remembered
        self._tokens: OrderedDict[bytes, VerifiedToken] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, token: str) -> VerifiedToken | None:
        digest = _digest(token)
        with self._lock:
            found = self._tokens.get(digest)
            if found is not None:
                self._tokens.move_to_end(digest)
        return found

    def remember(self, token: str, verified: VerifiedToken) -> None:
        with self._lock:
            self._tokens[_digest(token)] = verified
            while len(self._tokens) > self._max_remembered:
                self._tokens.popitem(last=False)

    def forget(self, token: str) -> None:
        with self._lock:
            self._tokens.pop(_digest(token), None)

    def __len__(self) -> int:
        return len(self._tokens)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
