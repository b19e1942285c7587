"""Webhook signing secrets and keys as they are kept: under the webhook key ring, bound to their endpoint."""

from bridge.errors import PermanentError
from bridge.keyring import KeyRing

_TABLE = "webhook_endpoints"
_SECRETS = "encrypted_secrets"
_KEYS = "encrypted_keys"


def seal_secret(key_ring: KeyRing, endpoint_id: str, secret: str) -> str:
    """Return the value to keep for a `whsec_…` secret of the endpoint."""
    return key_ring.encrypt(secret.encode(), table=_TABLE, column=_SECRETS, row=endpoint_id)


def open_secret(key_ring: KeyRing, endpoint_id: str, value: str) -> str:
    """Return the secret; PermanentError if the ring can't read it or it is none."""
    opened = key_ring.decrypt(value, table=_TABLE, column=_SECRETS, row=endpoint_id)
    try:
        return opened.decode("ascii")
    except UnicodeDecodeError as error:
        raise PermanentError(f"a secret of {endpoint_id} is not a whsec_ text") from error


def seal_key(key_ring: KeyRing, endpoint_id: str, seed: bytes) -> str:
    """Return the value to keep for the 32 bytes of an ed25519 key of the endpoint."""
    return key_ring.encrypt(seed, table=_TABLE, column=_KEYS, row=endpoint_id)


def open_key(key_ring: KeyRing, endpoint_id: str, value: str) -> bytes:
    """Return the key's 32 bytes; PermanentError if the ring can't read them."""
    return key_ring.decrypt(value, table=_TABLE, column=_KEYS, row=endpoint_id)
