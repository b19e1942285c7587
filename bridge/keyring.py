"""Field encryption: AES-256-GCM, the key's id in the value, the value bound to where it is stored.

Two rings exist: party data and SAP documents (gateway, sap_adapter), webhook secrets (gateway, webhooks).
A ring's file is JSON: {"current": "k1", "keys": {"k1": "<base64 of 32 bytes>"}}; old keys stay to read with.
"""

import base64
import binascii
import json
import os
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bridge.errors import PermanentError, SettingsError

KEY_BYTES = 32
NONCE_BYTES = 12


class KeyRing:
    """Encrypts with the current key, decrypts with whichever key the value names."""

    def __init__(self, current: str, keys: Mapping[str, bytes]) -> None:
        self._current = current
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}

    @classmethod
    def from_file(cls, path: str) -> "KeyRing":
        """Read a ring; SettingsError names the file and what is wrong with it, never a key."""
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
            current = document["current"]
            keys = {key_id: base64.b64decode(key, validate=True) for key_id, key in document["keys"].items()}
        except OSError as error:
            raise SettingsError(f"key ring {path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
            raise SettingsError(f"key ring {path}: not of the form {{current, keys}}") from error
        if current not in keys or any(len(key) != KEY_BYTES or ":" in key_id for key_id, key in keys.items()):
            raise SettingsError(
                f"key ring {path}: current is no key of it, or a key is not {KEY_BYTES} bytes"
            )
        return cls(current, keys)

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
