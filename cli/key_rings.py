"""`bridge keys ring`: the files of key rings (bridge/key_ring_file.py), and their rotation in two steps.

Every reader has to hold a key before anything is encrypted with it: `add` it, deploy the file, then `use` it
and deploy again. No key is ever shown.
"""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import click
from rich.console import Console
from rich.table import Table

from bridge.environment import emulator
from bridge.errors import BridgeError, SettingsError
from bridge.key_ring_file import (
    Purpose,
    RingDocument,
    WrappedKey,
    bound_to,
    is_kms_key,
    read_ring_document,
)
from bridge.keyring import KEY_BYTES
from bridge.ports import KeyWrapper
from cli.files import as_json, write_whole

Command = Callable[..., Any]

_file = click.option(
    "--file", "path", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The ring's file."
)
_purpose = click.option(
    "--purpose",
    required=True,
    type=click.Choice(get_args(Purpose)),
    help="What the ring is for; its keys open for nothing else.",
)
_KMS_KEY_HELP = "projects/…/locations/…/keyRings/…/cryptoKeys/…, the key of Cloud KMS that wraps."


@click.group()
def ring() -> None:
    """Key rings: what encrypts names, accounts, texts and webhook secrets."""


@ring.command()
@_file
@_purpose
@click.option("--kms-key", help=f"{_KMS_KEY_HELP} Without it the key is plain, which Cloud Run refuses.")
def add(path: Path, purpose: Purpose, kms_key: str | None) -> None:
    """Add a new key. The first of a new file is current at once, any other after `use`."""
    key_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
    before = _read(path) if path.exists() else RingDocument(key_id, {})
    data_key = os.urandom(KEY_BYTES)
    key: bytes | WrappedKey = data_key
    if kms_key is not None:
        with _cloud_kms(kms_key) as kms:
            key = WrappedKey(kms_key, kms.wrap(kms_key, data_key, bound_to(purpose, key_id)))
    after = replace(before, keys={**before.keys, key_id: key})
    _write(path, after)
    click.echo(f"{key_id} added")
    if after.current != key_id:
        click.echo(f"deploy the file to every reader, then: bridge keys ring use --file {path} {key_id}")


@ring.command()
@_file
@click.argument("key_id")
def use(path: Path, key_id: str) -> None:
    """Encrypt with this key from now on. Every reader has to have it already."""
    known = _read(path)
    if key_id not in known.keys:
        raise click.ClickException(f"{path} has no key {key_id}")
    _write(path, replace(known, current=key_id))
    click.echo(f"{key_id} is current")


@ring.command()
@_file
@_purpose
@click.option("--kms-key", required=True, help=_KMS_KEY_HELP)
def rewrap(path: Path, purpose: Purpose, kms_key: str) -> None:
    """Wrap all keys anew, with the primary version of a key of Cloud KMS; plain ones for the first time.

    The data keys stay the same: nothing that is encrypted has to be touched.
    """
    known = _read(path)
    keys: dict[str, bytes | WrappedKey] = {}
    with _cloud_kms(kms_key) as kms:
        for key_id, key in known.keys.items():
            bound = bound_to(purpose, key_id)
            plain = kms.unwrap(key.kms_key, key.wrapped, bound) if isinstance(key, WrappedKey) else key
            keys[key_id] = WrappedKey(kms_key, kms.wrap(kms_key, plain, bound))
    _write(path, replace(known, keys=keys))
    click.echo(f"{len(keys)} keys wrapped by {kms_key}")


@ring.command()
@_file
@click.argument("key_id")
def remove(path: Path, key_id: str) -> None:
    """Remove a key. What is still encrypted with it can never be read again."""
    known = _read(path)
    if key_id == known.current or key_id not in known.keys:
        raise click.ClickException(f"{key_id} is current, or no key of {path}")
    click.confirm(f"Is nothing encrypted with {key_id} any more?", abort=True)
    _write(path, replace(known, keys={name: key for name, key in known.keys.items() if name != key_id}))
    click.echo(f"{key_id} removed")


@ring.command("list")
@_file
def list_keys(path: Path) -> None:
    """Show the keys and what wraps them."""
    known = _read(path)
    table = Table("key", "state", "wrapped by")
    for key_id, key in known.keys.items():
        state = "encrypts" if key_id == known.current else "decrypts"
        table.add_row(key_id, state, key.kms_key if isinstance(key, WrappedKey) else "nothing (plain)")
    Console(width=200).print(table)


@contextmanager
def _cloud_kms(kms_key: str) -> Iterator[KeyWrapper]:
    if not is_kms_key(kms_key):
        raise click.UsageError("--kms-key names no CryptoKey of Cloud KMS")
    from bridge.gcp.kms import cloud_kms  # noqa: PLC0415 - the other commands need nothing of Google

    try:
        with cloud_kms(emulator(os.environ, "KMS_EMULATOR_HOST")) as kms:
            yield kms
    except BridgeError as error:
        raise click.ClickException(str(error)) from error


def _read(path: Path) -> RingDocument:
    try:
        return read_ring_document(str(path))
    except SettingsError as error:
        raise click.ClickException(str(error)) from error


def _write(path: Path, document: RingDocument) -> None:
    write_whole(path, as_json(document.as_json()), mode=0o600)
