"""`bridge keys`: what signs access tokens (gateway/signing_keys.py says what the names mean), and receipts.

Key rings are in cli/key_rings.py.
"""

import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from rich.console import Console
from rich.table import Table

from bridge.clock import rfc3339
from bridge.environment import http_url
from bridge.errors import SettingsError
from cli.files import as_json, write_whole
from cli.key_rings import ring
from gateway.discovery import JWKS_PATH, METADATA_PATH, metadata
from gateway.keys import renewed_receipt_keys
from gateway.signing_keys import KeySet, private_jwks, public_jwks, read_key_set

RSA_BITS = 2048
# The API Gateway caches the published set for 5 minutes, so may whoever reads it; then the margin.
PUBLISH_AHEAD_SECONDS = 900
MAX_PUBLISH_AHEAD_SECONDS = 30 * 86_400

_folder = click.option(
    "--dir",
    "folder",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The gateway's TOKEN_SIGNING_KEYS_DIR.",
)
_publish_to = click.option(
    "--publish-to",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the JWK set and the server's metadata below this folder, as they are served publicly.",
)
_issuer = click.option("--issuer", help="TOKEN_ISSUER, for the published metadata.")


@click.group()
def keys() -> None:
    """Keys that sign access tokens and receipts, and key rings."""


keys.add_command(ring)


@keys.command()
@_folder
@_publish_to
@_issuer
@click.option(
    "--publish-ahead-seconds",
    type=click.IntRange(0, MAX_PUBLISH_AHEAD_SECONDS),
    default=PUBLISH_AHEAD_SECONDS,
    show_default=True,
    help="How long the new key is published before it signs.",
)
def rotate(folder: Path, publish_to: Path | None, issuer: str | None, publish_ahead_seconds: int) -> None:
    """Add a key that signs soon; remove those whose tokens have all expired.

    Gateways pick it up while they run. With --publish-to the documents for the public bucket are written too;
    putting them there is the pipeline's work, and has to happen before the key signs.
    """
    _require_issuer(publish_to, issuer)
    now = datetime.now(UTC)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    known = _read(folder) if any(folder.glob("*.pem")) else None
    if known is not None and known.waiting(now):
        waiting = known.waiting(now)[0]
        raise click.ClickException(
            f"{waiting.kid} is waiting already: it signs from {rfc3339(waiting.signs_from)}"
        )
    # the first key of all signs at once: there is no other
    begins = now + timedelta(seconds=publish_ahead_seconds) if known is not None else now
    path = _create(folder, begins)
    click.echo(f"{path.stem} signs from {rfc3339(begins)}")
    if known is not None:
        for key in known.keys:
            if key not in known.verifying(now):
                (folder / f"{key.kid}.pem").unlink()
                click.echo(f"{key.kid} removed: its last token has expired")
    if publish_to is not None and issuer is not None:
        _publish(_read(folder), publish_to, issuer, now)


@keys.command()
@_folder
@click.option("--publish-to", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--issuer", required=True, help="TOKEN_ISSUER, for the published metadata.")
def publish(folder: Path, publish_to: Path, issuer: str) -> None:
    """Write the documents for the public bucket, and change nothing else."""
    _require_issuer(publish_to, issuer)
    _publish(_read(folder), publish_to, issuer, datetime.now(UTC))


@keys.command()
@_folder
@click.option("--to", "target", required=True, type=click.Path(dir_okay=False, path_type=Path))
def bundle(folder: Path, target: Path) -> None:
    """Write all private keys into one file, the content of the secret that gateways mount.

    It is for `gcloud secrets versions add`, and to be deleted afterwards.
    """
    write_whole(target, as_json(private_jwks(_read(folder))), mode=0o600)
    click.echo(f"wrote {target}")


@keys.command()
@click.option(
    "--file",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The gateway's RECEIPT_SIGNING_KEY; made if it is not there.",
)
def receipt(file: Path) -> None:
    """Have a new key sign receipts; the public keys of all before it stay in the file, and published."""
    try:
        content = renewed_receipt_keys(file)
    except SettingsError as error:
        raise click.ClickException(str(error)) from error
    write_whole(file, content, mode=0o600)
    click.echo(f"wrote {file}")


@keys.command("list")
@_folder
def list_keys(folder: Path) -> None:
    """Show the keys and what each does now."""
    now = datetime.now(UTC)
    known = _read(folder)
    table = Table("key", "signs from", "state")
    for key in known.keys:
        table.add_row(key.kid, rfc3339(key.signs_from), _state(known, key.kid, now))
    Console().print(table)


def _state(known: KeySet, kid: str, now: datetime) -> str:
    if known.signing(now).kid == kid:
        return "signs"
    if kid in [key.kid for key in known.waiting(now)]:
        return "published, waits"
    return "verifies" if kid in [key.kid for key in known.verifying(now)] else "expired"


def _read(folder: Path) -> KeySet:
    try:
        return read_key_set(folder)
    except SettingsError as error:
        raise click.ClickException(str(error)) from error


def _create(folder: Path, begins: datetime) -> Path:
    """Write a new private key, readable by its owner only; it is there whole or not at all."""
    path = folder / f"{begins:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}.pem"
    private = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_whole(path, pem, mode=0o600)
    return path


def _publish(known: KeySet, folder: Path, issuer: str, now: datetime) -> None:
    for path, document in ((JWKS_PATH, public_jwks(known, now)), (METADATA_PATH, metadata(issuer))):
        target = folder / path.removeprefix("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, as_json(document), mode=0o644)
        click.echo(f"wrote {target}")


def _require_issuer(publish_to: Path | None, issuer: str | None) -> None:
    if (publish_to is None) != (issuer is None):
        raise click.UsageError("--publish-to and --issuer belong together")
    if issuer is not None:
        try:
            http_url({"--issuer": issuer}, "--issuer")
        except SettingsError as error:
            raise click.UsageError(str(error)) from error
