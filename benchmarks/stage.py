"""A private stage: a durable PostgreSQL of its own, keys, one partner, what the gateway is told."""

import asyncio
import base64
import contextlib
import http.client
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from sqlalchemy import create_engine, make_url, text

from bridge.clock import SystemClock
from bridge.key_ring_file import KeyRingSettings, open_key_ring
from bridge.partner import PartnerLimits
from bridge.partner_mirror import PartnerMirror
from bridge.storage.migrate import upgrade
from devstack.keys import DemoPartner, Keys, load_or_create
from devstack.logins import create_database, create_logins, login_of, url_as
from devstack.postgres import Postgres, free_port
from devstack.preflight import StartError
from devstack.seed import SAP_SYSTEM, demo_document

ISSUER = "http://bench.invalid"
PROJECT = "bench"
HARD_CAP_CALLS = 8
PEER_DATABASE = "peer"
# counted as ever, never reached
NO_LIMITS = PartnerLimits(requests_per_second=100_000, payments_per_day=1_000_000_000)


@dataclass(frozen=True)
class Stage:
    """`settings` are PostgreSQL's own words for what durable means."""

    folder: Path
    postgres: Postgres
    keys: Keys
    settings: dict[str, str]

    @property
    def partner(self) -> DemoPartner:
        return self.keys.partners[0]

    def environment(self) -> dict[str, str]:
        """What the gateway and the bare routes are told; Firestore is away, the mirror answers."""
        peer = make_url(self.postgres.url(PEER_DATABASE))
        return {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": url_as(self.postgres.url(), login_of("gateway")),
            "PEER_DATABASE": f"host={peer.host} port={peer.port} user={peer.username} dbname={peer.database}",
            "GOOGLE_CLOUD_PROJECT": PROJECT,
            "FIRESTORE_EMULATOR_HOST": f"127.0.0.1:{free_port()}",
            "TOKEN_ISSUER": ISSUER,
            "TOKEN_AUDIENCE": ISSUER,
            "TOKEN_SIGNING_KEYS_DIR": str(self.keys.token_signing_folder),
            "PARTY_KEY_RING": str(self.keys.party_data),
            "FINGERPRINT_KEY": str(self.keys.fingerprint),
            "RECEIPT_SIGNING_KEY": str(self.keys.receipt_signing),
            "WEBHOOK_KEY_RING": str(self.keys.webhook_secrets),
        }

    def token(self, port: int) -> str:
        """An access token as a partner gets it."""
        credentials = f"{self.partner.client_id}:{self.partner.client_secret}".encode()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        with contextlib.closing(connection):
            connection.request(
                "POST",
                "/oauth2/token",
                urlencode({"grant_type": "client_credentials"}),
                {
                    "Authorization": f"Basic {base64.b64encode(credentials).decode()}",
                    "Content-Type": "application/x-www-form-urlencoded",
                },
            )
            answer = connection.getresponse()
            document = json.loads(answer.read())
        if answer.status != 200:
            raise StartError(f"no token: {document}")
        token: str = document["access_token"]
        return token

    def payments(self) -> int:
        engine = create_engine(self.postgres.url())
        with engine.connect() as connection:
            found: int = connection.execute(text("SELECT count(*) FROM payments")).scalar_one()
        engine.dispose()
        return found


@contextlib.contextmanager
def staged(*, with_peer: bool = True) -> Iterator[Stage]:
    """Set the stage up in a temporary folder, and take it down again."""
    folder = Path(tempfile.mkdtemp(prefix="bench-accept-"))
    folder.chmod(0o711)  # as root PostgreSQL runs as another account that has to get in
    try:
        with Postgres(folder / "data", free_port(), durable=True).running(folder / "postgres.log") as server:
            create_database(server.url("postgres"), make_url(server.url()).database or "")
            upgrade(server.url(), {SAP_SYSTEM: HARD_CAP_CALLS})
            create_logins(server.url())
            keys = load_or_create(folder / "keys")
            settings = _seed(server, keys)
            if with_peer:
                create_database(server.url("postgres"), PEER_DATABASE)
                asyncio.run(_install_peer(server))
            yield Stage(folder, server, keys, settings)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _seed(server: Postgres, keys: Keys) -> dict[str, str]:
    engine = create_engine(server.url())
    webhook_keys = open_key_ring(KeyRingSettings(str(keys.webhook_secrets), "webhook-secrets"))
    document = demo_document("http://127.0.0.1:1", keys.partners[0], 1, webhook_keys)
    document = document.model_copy(update={"limits": NO_LIMITS})
    PartnerMirror(engine).remember(document, SystemClock().now())
    with engine.connect() as connection:
        settings = {
            name: str(connection.execute(text(f"SHOW {name}")).scalar())
            for name in ("fsync", "synchronous_commit", "full_page_writes", "server_version")
        }
    engine.dispose()
    return settings


async def _install_peer(server: Postgres) -> None:
    """PgQueuer's own tables and triggers, logged as is its default."""
    import psycopg  # noqa: PLC0415 - the group `bench` is installed by `make bench-accept` only
    from pgqueuer.db import PsycopgDriver  # noqa: PLC0415 - as above
    from pgqueuer.queries import Queries  # noqa: PLC0415 - as above

    url = make_url(server.url(PEER_DATABASE))
    connection = await psycopg.AsyncConnection.connect(
        host=url.host, port=url.port, user=url.username, dbname=url.database, autocommit=True
    )
    async with connection:
        await Queries(PsycopgDriver(connection)).install()
