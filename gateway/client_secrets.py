"""Client secrets: argon2id hashes, verified at bounded cost.

A verification costs tens of milliseconds and tens of megabytes on purpose. What has been verified is
remembered by a keyed digest, and only a few run at once, so that the token endpoint is no lever against the
service. An unknown client costs as much as a wrong secret.
"""

import base64
import hashlib
import hmac
import os
import threading
from collections import OrderedDict

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from argon2.low_level import ARGON2_VERSION

from bridge.errors import TransientError

MAX_REMEMBERED = 1024
MAX_AT_ONCE = 2
# Who waits holds one of the server's threads, which payments need.
MAX_WAITING = 4
MAX_WAIT_SECONDS = 3.0
MAX_SECRET_CHARACTERS = 256


def _nobodys_hash(hasher: PasswordHasher) -> str:
    """Return what looks like a hash and is that of no secret, in PHC string format.

    To verify it costs what every other does; to make it by hashing would cost as much, at each start.
    """
    salt, digest = (
        base64.b64encode(os.urandom(length)).decode().rstrip("=")
        for length in (hasher.salt_len, hasher.hash_len)
    )
    costs = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
    return f"$argon2id$v={ARGON2_VERSION}${costs}${salt}${digest}"


class SecretVerifier:
    """Thread-safe. Remembers successes only, in this process's memory, and never a secret."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher()
        self._nobodys_hash = _nobodys_hash(self._hasher)
        self._digest_key = os.urandom(32)
        self._verified: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(MAX_AT_ONCE)
        self._queue = threading.BoundedSemaphore(MAX_AT_ONCE + MAX_WAITING)

    def verify(self, client_id: str, secret_hash: str | None, secret: str) -> bool:
        """Tell whether `secret` is the client's; `secret_hash` is None for a client that does not exist.

        Raises TransientError when too many verifications wait already.
        """
        if len(secret) > MAX_SECRET_CHARACTERS:
            return False
        if self.remembers(client_id, secret_hash, secret):
            return True
        if not self._queue.acquire(blocking=False):
            raise _too_many()
        try:
            matches = self._matches_in_turn(secret_hash or self._nobodys_hash, secret)
        finally:
            self._queue.release()
        if secret_hash is None or not matches:
            return False
        digest = self._digest(client_id, secret_hash, secret)
        with self._lock:
            self._verified[digest] = None
            while len(self._verified) > MAX_REMEMBERED:
                self._verified.popitem(last=False)
        return True

    def remembers(self, client_id: str, secret_hash: str | None, secret: str) -> bool:
        """Tell whether the secret has been verified before: then `verify` costs next to nothing."""
        if len(secret) > MAX_SECRET_CHARACTERS:
            return False
        digest = self._digest(client_id, secret_hash or "", secret)
        with self._lock:
            if digest not in self._verified:
                return False
            self._verified.move_to_end(digest)
            return True

    def _matches_in_turn(self, secret_hash: str, secret: str) -> bool:
        if not self._places.acquire(timeout=MAX_WAIT_SECONDS):
            raise _too_many()
        try:
            return self._matches(secret_hash, secret)
        finally:
            self._places.release()

    def _matches(self, secret_hash: str, secret: str) -> bool:
        try:
            return self._hasher.verify(secret_hash, secret)
        except (Argon2Error, InvalidHashError):
            return False

    def _digest(self, client_id: str, secret_hash: str, secret: str) -> bytes:
        # The hash is part of it: a rotated secret is forgotten at once.
        parts = [part.encode("utf-8", "surrogatepass") for part in (client_id, secret_hash, secret)]
        message = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return hmac.digest(self._digest_key, message, hashlib.sha256)


def _too_many() -> TransientError:
    return TransientError("too many client secrets to verify", retry_after_seconds=1)
