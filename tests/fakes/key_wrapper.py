"""The port KeyWrapper in memory; passes the same conformance suite as Cloud KMS."""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bridge.errors import PermanentError, TransientError


class InMemoryKeyWrapper:
    """Has one key for each of `names`. `away`: it does not answer."""

    def __init__(self, *names):
        self._keys = {name: AESGCM(AESGCM.generate_key(256)) for name in names}
        self.away = False

    def wrap(self, kms_key, plaintext, bound_to):
        nonce = os.urandom(12)
        return nonce + self._key(kms_key).encrypt(nonce, plaintext, bound_to)

    def unwrap(self, kms_key, wrapped, bound_to):
        try:
            return self._key(kms_key).decrypt(wrapped[:12], wrapped[12:], bound_to)
        except (InvalidTag, ValueError) as error:
            raise PermanentError("not wrapped by this key, or bound to something else") from error

    def _key(self, kms_key):
        if self.away:
            raise TransientError("does not answer")
        if kms_key not in self._keys:
            raise PermanentError("no such key")
        return self._keys[kms_key]
