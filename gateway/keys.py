"""The gateway's own keys, read at boot: what signs receipts, what fingerprints bodies."""

import base64
import binascii
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from joserfc.jwk import OKPKey

from bridge.errors import SettingsError

MIN_FINGERPRINT_KEY_BYTES = 32


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
