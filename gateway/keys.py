"""The gateway's own keys, read at boot: what signs tokens, what signs receipts, what fingerprints bodies."""

import base64
import binascii
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from joserfc.jwk import OKPKey, RSAKey

from bridge.errors import SettingsError

MIN_RSA_BITS = 2048
MIN_FINGERPRINT_KEY_BYTES = 32


class TokenKeys:
    """The RSA keys of a folder, `<kid>.pem` each. All verify; the one whose name sorts last signs.

    So a rotation adds the new key under a later name (names start with a date) and removes the old one when
    its last token has expired.
    """

    def __init__(self, keys: dict[str, RSAKey]) -> None:
        self._keys = keys
        self.signing_kid = max(keys)

    @classmethod
    def from_folder(cls, path: str) -> "TokenKeys":
        """Read the folder; SettingsError names a file that is no RSA private key of 2048 bits or more."""
        files = sorted(Path(path).glob("*.pem"))
        if not files:
            raise SettingsError(f"TOKEN_SIGNING_KEYS_DIR {path}: no *.pem file in it")
        return cls({file.stem: _rsa_key(file) for file in files})

    @property
    def signing_key(self) -> RSAKey:
        return self._keys[self.signing_kid]

    def find(self, kid: object) -> RSAKey | None:
        return self._keys.get(kid) if isinstance(kid, str) else None

    def public_jwks(self) -> dict[str, Any]:
        """Return the JWK set (RFC 7517) that tokens are verified with."""
        return {"keys": [key.as_dict(private=False) for key in self._keys.values()]}


def read_receipt_key(path: str) -> OKPKey:
    """Read an Ed25519 private key (PEM, PKCS 8); its kid is its thumbprint (RFC 7638)."""
    private = _private_key(Path(path), "RECEIPT_SIGNING_KEY")
    if not isinstance(private, Ed25519PrivateKey):
        raise SettingsError(f"RECEIPT_SIGNING_KEY {path}: not an Ed25519 key")
    thumbprint = OKPKey.import_key(private).thumbprint()
    return OKPKey.import_key(private, {"kid": thumbprint, "use": "sig", "alg": "EdDSA"})


def read_fingerprint_key(path: str) -> bytes:
    """Read the HMAC key of the idempotency fingerprints: 32 random bytes or more, in base64."""
    try:
        key = base64.b64decode(_read(Path(path), "FINGERPRINT_KEY").strip(), validate=True)
    except binascii.Error as error:
        raise SettingsError(f"FINGERPRINT_KEY {path}: not base64") from error
    if len(key) < MIN_FINGERPRINT_KEY_BYTES:
        raise SettingsError(f"FINGERPRINT_KEY {path}: fewer than {MIN_FINGERPRINT_KEY_BYTES} bytes")
    return key


def _rsa_key(file: Path) -> RSAKey:
    private = _private_key(file, "TOKEN_SIGNING_KEYS_DIR")
    if not isinstance(private, RSAPrivateKey) or private.key_size < MIN_RSA_BITS:
        raise SettingsError(f"TOKEN_SIGNING_KEYS_DIR {file}: not an RSA key of {MIN_RSA_BITS} bits or more")
    return RSAKey.import_key(private, {"kid": file.stem, "use": "sig", "alg": "RS256"})


def _private_key(file: Path, variable: str) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(_read(file, variable), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"{variable} {file}: not a private key in PEM without a password") from error


def _read(path: Path, variable: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{variable} {path}: {error.strerror}") from error
