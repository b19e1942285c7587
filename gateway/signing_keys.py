"""The keys that sign access tokens: a set that rotates while the service runs.

A key's name says when it begins to sign, in UTC: `20261121T120000Z-4f1c.pem`, `20261121-4f1c.pem`.
All else follows from the names, so that every instance says the same without being told:

- a key is published and verifies from the moment that it is in the folder;
- the last one whose time has come signs (the first one, if no time has come yet);
- it goes on verifying until its successor has signed for longer than a token lives.

The folder has one `<name>.pem` per key. Secret Manager mounts one secret as one file, so all keys may also
come in one: `signing-keys.json`, a JWK set with private keys whose `kid` are the names (`keys bundle`).

`bridge keys rotate` (cli/keys.py) names a new key for a time when every cache of the published set has it.
"""

import json
import re
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

from bridge.errors import SettingsError

MIN_RSA_BITS = 2048
MAX_RSA_BITS = 4096
MAX_KEYS = 16
# what a secret may hold
MAX_FILE_BYTES = 64 * 1024
BUNDLE = "signing-keys.json"
TOKEN_LIFETIME_SECONDS = 900
# How long a key verifies after its successor began to sign: a token's life, and what clocks may differ by.
VERIFIES_FOR = timedelta(seconds=TOKEN_LIFETIME_SECONDS + 60)
# How often the folder is read again. Secret Manager's mounts are fetched at each read: not at each request.
REREAD_SECONDS = 10.0

_NAME = re.compile(r"(\d{8})(?:T(\d{6})Z)?-[A-Za-z0-9_-]{1,40}")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """`key` is an RSA private key; its public members are what the JWK set shows."""

    kid: str
    signs_from: datetime
    key: RSAKey


@dataclass(frozen=True, slots=True)
class KeySet:
    """The keys of one reading, in the order in which they sign."""

    keys: tuple[SigningKey, ...]

    def signing(self, now: datetime) -> SigningKey:
        begun = [key for key in self.keys if key.signs_from <= now]
        return begun[-1] if begun else self.keys[0]

    def verifying(self, now: datetime) -> tuple[SigningKey, ...]:
        """Return all whose tokens may still be good, with those that will sign later."""
        successors = (*self.keys[1:], None)
        return tuple(
            key
            for key, successor in zip(self.keys, successors, strict=True)
            if successor is None or now < successor.signs_from + VERIFIES_FOR
        )

    def waiting(self, now: datetime) -> tuple[SigningKey, ...]:
        """Return those that are published and do not sign yet."""
        return tuple(key for key in self.keys if key.signs_from > now and key != self.signing(now))


class TokenKeys:
    """The folder's keys as they are now. Thread-safe; one thread reads again, no other waits for it."""

    def __init__(self, folder: Path, files: dict[str, bytes]) -> None:
        self._folder = folder
        self._files = files
        self._set = _key_set(folder, files)
        self._reading = threading.Lock()
        self._read_at: datetime | None = None

    @classmethod
    def from_folder(cls, path: str) -> "TokenKeys":
        """Read the folder; SettingsError names a file that can't be used."""
        folder = Path(path)
        return cls(folder, _read(folder))

    def signing(self, now: datetime) -> SigningKey:
        return self._current(now).signing(now)

    def find(self, kid: object, now: datetime) -> RSAKey | None:
        """Return the key that verifies tokens of that `kid`, or None. No file name is ever made of it."""
        for known in self._current(now).verifying(now):
            if known.kid == kid:
                return known.key
        return None

    def public_jwks(self, now: datetime) -> dict[str, Any]:
        """Return the JWK set (RFC 7517) that tokens are verified with."""
        return public_jwks(self._current(now), now)

    def _current(self, now: datetime) -> KeySet:
        read_at = self._read_at
        if read_at is None:
            self._read_at = now
        elif abs((now - read_at).total_seconds()) >= REREAD_SECONDS and self._reading.acquire(blocking=False):
            try:
                self._read_at = now
                self._read_again()
            finally:
                self._reading.release()
        return self._set

    def _read_again(self) -> None:
        try:
            files = _read(self._folder)
            if files == self._files:
                return
            found = _key_set(self._folder, files)
        except SettingsError as error:
            # Half a rotation, or a mount that does not answer: what is known goes on.
            _log.error("signing keys not read again", reason=str(error))
            return
        self._files, self._set = files, found
        _log.info("signing keys read", kids=[key.kid for key in found.keys])


def public_jwks(keys: KeySet, now: datetime) -> dict[str, Any]:
    """Return the set as it is published: what verifies now and what will."""
    return {"keys": [key.key.as_dict(private=False) for key in keys.verifying(now)]}


def private_jwks(keys: KeySet) -> dict[str, Any]:
    """Return the set with its private keys, for the one file that a secret is."""
    return {"keys": [key.key.as_dict(private=True) for key in keys.keys]}


def read_key_set(folder: Path) -> KeySet:
    """Read the folder's keys once; SettingsError names what can't be used."""
    return _key_set(folder, _read(folder))


def signs_from(kid: str) -> datetime | None:
    """Return when the key of that name begins to sign; None if the name does not say."""
    match = _NAME.fullmatch(kid)
    if match is None:
        return None
    try:
        return datetime.strptime(match[1] + (match[2] or "000000"), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None


def _read(folder: Path) -> dict[str, bytes]:
    """Return the files' contents by their names."""
    try:
        files = [*sorted(folder.glob("*.pem")), *folder.glob(BUNDLE)]
        if len(files) > MAX_KEYS:
            raise SettingsError(f"TOKEN_SIGNING_KEYS_DIR {folder}: more than {MAX_KEYS} *.pem files")
        contents = {}
        for file in files:
            with file.open("rb") as opened:
                contents[file.name] = opened.read(MAX_FILE_BYTES)
    except OSError as error:
        raise SettingsError(f"TOKEN_SIGNING_KEYS_DIR {folder}: {error.strerror}") from error
    if not contents:
        raise SettingsError(f"TOKEN_SIGNING_KEYS_DIR {folder}: neither a *.pem file nor {BUNDLE} in it")
    return contents


def _key_set(folder: Path, files: dict[str, bytes]) -> KeySet:
    privates: dict[str, PrivateKeyTypes] = {}
    for name, content in files.items():
        where = f"TOKEN_SIGNING_KEYS_DIR {folder / name}"
        privates |= _bundled(where, content) if name == BUNDLE else {Path(name).stem: _pem(where, content)}
    keys = [_signing_key(folder, kid, private) for kid, private in privates.items()]
    return KeySet(tuple(sorted(keys, key=lambda key: (key.signs_from, key.kid))))


def _bundled(where: str, content: bytes) -> dict[str, PrivateKeyTypes]:
    try:
        keys = json.loads(content)["keys"]
        found = {str(key["kid"]): RSAKey.import_key(key).private_key for key in keys[: MAX_KEYS + 1]}
    except (ValueError, TypeError, KeyError, RecursionError, JoseError) as error:
        raise SettingsError(f"{where}: not a JWK set of RSA keys") from error
    if not 1 <= len(found) <= MAX_KEYS or None in found.values():
        raise SettingsError(f"{where}: not 1 to {MAX_KEYS} private keys")
    return {kid: key for kid, key in found.items() if key is not None}


def _pem(where: str, content: bytes) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"{where}: not a private key in PEM without a password") from error


def _signing_key(folder: Path, kid: str, private: PrivateKeyTypes) -> SigningKey:
    where = f"TOKEN_SIGNING_KEYS_DIR {folder / kid}.pem"
    begins = signs_from(kid)
    if begins is None:
        raise SettingsError(f"{where}: the name does not begin with a date, as in 20261121T120000Z-4f1c.pem")
    if not isinstance(private, RSAPrivateKey) or not MIN_RSA_BITS <= private.key_size <= MAX_RSA_BITS:
        raise SettingsError(f"{where}: not an RSA key of {MIN_RSA_BITS} to {MAX_RSA_BITS} bits")
    key = RSAKey.import_key(private, {"kid": kid, "use": "sig", "alg": "RS256"})
    return SigningKey(kid, begins, key)
