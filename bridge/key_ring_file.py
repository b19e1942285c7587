"""Key rings as files: what is in one, and how it becomes a KeyRing at boot.

    {"current": "20261121T120000Z-4f1c",
     "keys": {"20261121T120000Z-4f1c": {"kms_key": "projects/…/cryptoKeys/party-data", "wrapped": "<base64>"},
              "k1": "<base64 of 32 bytes>"}}

A key is plain (locally) or wrapped by a key of Cloud KMS, bound to the ring's purpose and to its own id: a
ring that is mounted in another's place, or a key under another name, does not open. Values are encrypted with
`current`; the other keys stay to read with.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bridge.environment import emulator, on_cloud_run, required
from bridge.errors import PermanentError, SettingsError, TransientError
from bridge.keyring import KEY_BYTES, KeyRing
from bridge.ports import KeyWrapper

Purpose = Literal["party-data", "webhook-secrets"]

_KMS_KEY = re.compile(r"projects/[^/\s]+/locations/[^/\s]+/keyRings/[^/\s]+/cryptoKeys/[^/\s]+")
_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class KeyRingSettings:
    """Where a ring is, and what it is for. `plain_allowed`: its keys need not be wrapped."""

    path: str
    purpose: Purpose
    kms_emulator_host: str | None = None
    plain_allowed: bool = True

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], name: str, purpose: Purpose) -> "KeyRingSettings":
        """Read the variable `name`, a file, and KMS_EMULATOR_HOST; on Cloud Run all keys must be wrapped."""
        return cls(
            path=required(environ, name),
            purpose=purpose,
            kms_emulator_host=emulator(environ, "KMS_EMULATOR_HOST"),
            plain_allowed=not on_cloud_run(environ),
        )


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key as Cloud KMS has encrypted it. `kms_key` is the resource name of a CryptoKey."""

    kms_key: str
    wrapped: bytes


@dataclass(frozen=True, slots=True)
class RingDocument:
    """What is in a ring's file; plain keys are 32 bytes."""

    current: str
    keys: Mapping[str, bytes | WrappedKey]

    def as_json(self) -> dict[str, Any]:
        return {"current": self.current, "keys": {name: _written(key) for name, key in self.keys.items()}}


def read_ring_document(path: str) -> RingDocument:
    """Read a ring without opening it; SettingsError names the file and what is wrong with it, never a key."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        ring = RingDocument(
            document["current"], {name: _read_key(key) for name, key in document["keys"].items()}
        )
    except OSError as error:
        raise SettingsError(f"key ring {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise SettingsError(f"key ring {path}: not of the form {{current, keys}}") from error
    if not isinstance(ring.current, str) or ring.current not in ring.keys:
        raise SettingsError(f"key ring {path}: current is no key of it")
    for key_id, key in ring.keys.items():
        if not _KEY_ID.fullmatch(key_id):
            raise SettingsError(f"key ring {path}: a key's id is not of letters, digits, '.', '_' and '-'")
        if isinstance(key, bytes) and len(key) != KEY_BYTES:
            raise SettingsError(f"key ring {path}: key {key_id} is not {KEY_BYTES} bytes")
        if isinstance(key, WrappedKey) and not is_kms_key(key.kms_key):
            raise SettingsError(f"key ring {path}: kms_key of {key_id} names no CryptoKey of Cloud KMS")
    return ring


def open_key_ring(settings: KeyRingSettings, wrapper: KeyWrapper | None = None) -> KeyRing:
    """Read a ring and have its wrapped keys unwrapped, by Cloud KMS unless `wrapper` is given.

    For boot, before the fork: it waits for Cloud KMS, seconds at most. SettingsError says what is wrong.
    """
    ring = read_ring_document(settings.path)
    plain = [key_id for key_id, key in ring.keys.items() if isinstance(key, bytes)]
    if plain and not settings.plain_allowed:
        raise SettingsError(f"key ring {settings.path}: key {plain[0]} is not wrapped by Cloud KMS")
    if len(plain) == len(ring.keys) or wrapper is not None:
        return _opened(settings, ring, wrapper)
    # what a plain ring does not need is not imported for it
    from bridge.gcp.kms import cloud_kms  # noqa: PLC0415 - see above

    try:
        with cloud_kms(settings.kms_emulator_host) as kms:
            return _opened(settings, ring, kms)
    except PermanentError as error:
        raise SettingsError(f"key ring {settings.path}: {error}") from error


def bound_to(purpose: Purpose, key_id: str) -> bytes:
    """Return the additional authenticated data of a wrapped key."""
    return f"partner-payments-bridge\x00{purpose}\x00{key_id}".encode()


def is_kms_key(name: str) -> bool:
    return _KMS_KEY.fullmatch(name) is not None


def _opened(settings: KeyRingSettings, ring: RingDocument, wrapper: KeyWrapper | None) -> KeyRing:
    keys: dict[str, bytes] = {}
    for key_id, key in ring.keys.items():
        if isinstance(key, WrappedKey) and wrapper is not None:
            keys[key_id] = _unwrapped(settings, key_id, key, wrapper)
        elif isinstance(key, bytes):
            keys[key_id] = key
    return KeyRing(ring.current, keys)


def _unwrapped(settings: KeyRingSettings, key_id: str, key: WrappedKey, wrapper: KeyWrapper) -> bytes:
    try:
        plain = wrapper.unwrap(key.kms_key, key.wrapped, bound_to(settings.purpose, key_id))
    except (PermanentError, TransientError) as error:
        raise SettingsError(
            f"key ring {settings.path}: key {key_id} does not open as one of {settings.purpose}: {error}"
        ) from error
    if len(plain) != KEY_BYTES:
        raise SettingsError(f"key ring {settings.path}: key {key_id} is not {KEY_BYTES} bytes")
    return plain


def _read_key(value: Any) -> bytes | WrappedKey:
    if isinstance(value, str):
        return base64.b64decode(value, validate=True)
    kms_key = value["kms_key"]
    if not isinstance(kms_key, str) or set(value) != {"kms_key", "wrapped"}:
        raise TypeError("not a wrapped key")
    return WrappedKey(kms_key, base64.b64decode(value["wrapped"], validate=True))


def _written(key: bytes | WrappedKey) -> Any:
    if isinstance(key, bytes):
        return base64.b64encode(key).decode()
    return {"kms_key": key.kms_key, "wrapped": base64.b64encode(key.wrapped).decode()}
