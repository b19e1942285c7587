"""Field encryption: AES-256-GCM, the key's id in the value, the value bound to where it is stored.

Two rings exist: party data and SAP documents (gateway, sap_adapter), webhook secrets (gateway, webhooks).
Their files are read by bridge/key_ring_file.py.
"""

import base64
import os
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bridge.errors import PermanentError

KEY_BYTES = 32
NONCE_BYTES = 12


class KeyRing:
    """Encrypts with the current key, decrypts with whichever key the value names."""

    def __init__(self, current: str, keys: Mapping[str, bytes]) -> None:
        self._current = current
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}

    def encrypt(self, plaintext: bytes, *, table: str, column: str, row: str) -> str:
        """Return `key id:base64url(nonce + ciphertext + tag)`, readable at that place only."""
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._ciphers[self._current].encrypt(nonce, plaintext, _place(table, column, row))
        return f"{self._current}:{base64.urlsafe_b64encode(nonce + sealed).decode()}"

    def decrypt(self, value: str, *, table: str, column: str, row: str) -> bytes:
        """Return the plaintext; PermanentError if the key is gone or the value belongs somewhere else."""
        key_id, _, body = value.partition(":")
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise PermanentError(f"{table}.{column} of {row} is under a key that this ring does not hold")
        try:
            sealed = base64.urlsafe_b64decode(body)
            return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _place(table, column, row))
        except (InvalidTag, ValueError) as error:
            raise PermanentError(f"{table}.{column} of {row} does not decrypt where it stands") from error


def _place(table: str, column: str, row: str) -> bytes:
    return f"{table}\x00{column}\x00{row}".encode()
