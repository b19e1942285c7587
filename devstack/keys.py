"""Keys and secrets of one local stack: made once, kept in `<state>/keys`, readable by their owner only."""

import base64
import json
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from bridge.ids import new_id

RSA_BITS = 2048
KEY_BYTES = 32
PARTNER_COUNT = 2
SAP_USER = "bridge"


@dataclass(frozen=True)
class DemoPartner:
    """What a demo partner knows of itself: its id, its OAuth2 client, the secret that signs its webhooks."""

    partner_id: str
    client_id: str
    client_secret: str
    endpoint_id: str
    webhook_secret: str


@dataclass(frozen=True)
class Keys:
    """The files, by what they are for."""

    party_data: Path
    webhook_secrets: Path
    fingerprint: Path
    token_signing_folder: Path
    receipt_signing: Path
    receiver_secrets: Path
    sap_password: str
    partners: tuple[DemoPartner, ...]


def load_or_create(folder: Path) -> Keys:
    """Make what is missing; what is there stays, or the stack could not read its own database any more."""
    signing = folder / "token-signing"
    signing.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not list(signing.glob("*.pem")):
        _create(signing / f"{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(4)}.pem", _rsa_key)
    documents = json.loads(_create(folder / "demo-partners.json", _demo_partners).read_bytes())
    partners = tuple(DemoPartner(**document) for document in documents)
    return Keys(
        party_data=_create(folder / "party-data.json", _key_ring),
        webhook_secrets=_create(folder / "webhook-secrets.json", _key_ring),
        fingerprint=_create(folder / "fingerprint.key", _hmac_key),
        token_signing_folder=signing,
        receipt_signing=_create(folder / "receipt-signing.pem", _ed25519_key),
        receiver_secrets=_create(
            folder / "receiver-secrets.json",
            lambda: json.dumps({partner.partner_id: partner.webhook_secret for partner in partners}).encode(),
        ),
        sap_password=_create(folder / "sap-password", lambda: secrets.token_urlsafe(24).encode()).read_text(),
        partners=partners,
    )


def write_sap_connections(path: Path, base_urls: Mapping[str, str], password: str) -> None:
    """What the adapter needs to log in to each SAP system."""
    connections = {
        # the mock answers 503 before it posts anything
        system: {
            "base_url": base_url,
            "user": SAP_USER,
            "password": password,
            "unposted_statuses": [429, 503],
        }
        for system, base_url in base_urls.items()
    }
    path.unlink(missing_ok=True)
    _create(path, lambda: json.dumps(connections).encode())


def _create(path: Path, make: Callable[[], bytes]) -> Path:
    if not path.exists():
        partial = path.with_name(path.name + ".new")
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(make())
        partial.rename(path)  # never a half-written key
    return path


def _key_ring() -> bytes:
    key = base64.b64encode(os.urandom(KEY_BYTES)).decode()
    return json.dumps({"current": "k1", "keys": {"k1": key}}).encode()


def _hmac_key() -> bytes:
    return base64.b64encode(os.urandom(KEY_BYTES))


def _rsa_key() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _ed25519_key() -> bytes:
    return ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _demo_partners() -> bytes:
    now = datetime.now(UTC)
    partners = [
        {
            "partner_id": new_id("par", now),
            "client_id": f"demo-partner-{number}",
            "client_secret": secrets.token_urlsafe(32),
            "endpoint_id": new_id("whe", now),
            # Standard Webhooks: `whsec_` and 24 to 64 random bytes in base64
            "webhook_secret": "whsec_" + base64.b64encode(os.urandom(KEY_BYTES)).decode(),
        }
        for number in range(1, PARTNER_COUNT + 1)
    ]
    return json.dumps(partners, indent=1).encode()
