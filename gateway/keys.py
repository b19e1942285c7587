"""The gateway's own keys, read at boot: what signs receipts, what fingerprints bodies."""

import base64
import binascii
import re
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from joserfc.jwk import OKPKey

from bridge.errors import SettingsError

MIN_FINGERPRINT_KEY_BYTES = 32
MIN_EDGE_KEY_BYTES = 32
_PUBLIC_KEY = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ReceiptKeys:
    """`signing` is private; `former` are public: what they have signed can be verified for ever."""

    signing: OKPKey
    former: tuple[OKPKey, ...] = ()


def read_receipt_keys(path: str) -> ReceiptKeys:
    """Read an Ed25519 private key (PEM, PKCS 8), and behind it the public keys of those before it.

    A kid is the key's thumbprint (RFC 7638).
    """
    file = Path(path)
    private = _private_key(file, "RECEIPT_SIGNING_KEY")
    if not isinstance(private, Ed25519PrivateKey):
        raise SettingsError(f"RECEIPT_SIGNING_KEY {path}: not an Ed25519 key")
    former = []
    for block in _PUBLIC_KEY.findall(_read(file, "RECEIPT_SIGNING_KEY")):
        try:
            public = load_pem_public_key(block)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise SettingsError(f"RECEIPT_SIGNING_KEY {path}: a public key in it is not readable") from error
        if not isinstance(public, Ed25519PublicKey):
            raise SettingsError(f"RECEIPT_SIGNING_KEY {path}: a public key in it is not an Ed25519 key")
        former.append(_receipt_key(public))
    return ReceiptKeys(_receipt_key(private), tuple(former))


def renewed_receipt_keys(path: Path) -> bytes:
    """Return the content of the file with a new key that signs; the one it had before stays as a public key.

    SettingsError if there is a file that is not readable as one.
    """
    private = Ed25519PrivateKey.generate()
    content = [private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())]
    if path.exists():
        known = read_receipt_keys(str(path))
        content += [
            key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            for key in (known.signing, *known.former)
        ]
    return b"".join(content)


def read_fingerprint_key(path: str) -> bytes:
    """Read the HMAC key of the idempotency fingerprints: 32 random bytes or more, in base64."""
    try:
        key = base64.b64decode(_read(Path(path), "FINGERPRINT_KEY").strip(), validate=True)
    except binascii.Error as error:
        raise SettingsError(f"FINGERPRINT_KEY {path}: not base64") from error
    if len(key) < MIN_FINGERPRINT_KEY_BYTES:
        raise SettingsError(f"FINGERPRINT_KEY {path}: fewer than {MIN_FINGERPRINT_KEY_BYTES} bytes")
    return key


def _receipt_key(key: Ed25519PrivateKey | Ed25519PublicKey) -> OKPKey:
    thumbprint = OKPKey.import_key(key).thumbprint()
    return OKPKey.import_key(key, {"kid": thumbprint, "use": "sig", "alg": "EdDSA"})


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


def read_edge_key(path: str) -> bytes:
    """Read the key by which the load balancer proves itself: 32 characters or more."""
    key = _read(Path(path), "EDGE_KEY").strip()
    if len(key) < MIN_EDGE_KEY_BYTES:
        raise SettingsError(f"EDGE_KEY {path}: fewer than {MIN_EDGE_KEY_BYTES} characters")
    return key
