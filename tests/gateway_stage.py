"""The gateway's real app on made-up keys and partners, for tests with and without a database."""

import base64
import contextlib
import ipaddress
import itertools
import os
import tempfile
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from argon2 import PasswordHasher
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from fakes.partner_store import InMemoryPartnerStore
from partner_documents import new_partner
from sqlalchemy import text

from bridge.clock import ManualClock
from bridge.gcp.firestore_documents import FirestoreSettings
from bridge.key_ring_file import KeyRingSettings
from bridge.keyring import KeyRing
from bridge.partner import Client, PartnerLimits
from bridge.partner_directory import PartnerDirectorySettings, make_directory
from bridge.partner_mirror import PartnerMirror
from bridge.storage.accept import LOCK_TIMEOUT_MILLISECONDS, make_statement_engine
from bridge.storage.engine import DatabaseSettings, make_engine
from bridge.storage.migrate import add_sap_systems
from bridge.web.addresses import UnresolvableHostError
from gateway.app import Keys, create_app
from gateway.keys import read_receipt_keys
from gateway.partner_record import PartnerRecord
from gateway.settings import Settings
from gateway.signing_keys import TokenKeys
from gateway.tokens import AccessTokens

ISSUER = "https://payments.example"
AUDIENCE = "https://payments.example/api"
SECRET = "correct horse battery staple"
NOW = datetime(2026, 11, 20, 12, 0, 0, 123_000, tzinfo=UTC)
THREADS = 16
# the stage's clock stands still: a whole test is one window
NO_LIMITS = PartnerLimits(requests_per_second=100_000, payments_per_day=1_000_000_000)
POSITIONAL_TABLES = ("payments", "operations", "idempotency_keys", "events", "outbox")

_numbers = itertools.count(1)


def pem(private_key):
    return private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@cache
def rsa_key(number=0):
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def keys():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "20260101-old.pem").write_bytes(pem(rsa_key(1)))
        (folder / "20261120T115500Z-new.pem").write_bytes(pem(rsa_key(2)))
        receipt = folder / "receipt"
        receipt.write_bytes(pem(ed25519.Ed25519PrivateKey.generate()))
        return Keys(
            token=TokenKeys.from_folder(name),
            receipt=read_receipt_keys(str(receipt)),
            fingerprint=os.urandom(32),
            parties=KeyRing("k1", {"k1": os.urandom(32)}),
            webhooks=KeyRing("k1", {"k1": os.urandom(32)}),
        )


@cache
def secret_hash(secret=SECRET):
    return PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(secret)


def partner_with(*clients, **changes):
    return new_partner().model_copy(update={"clients": clients, "limits": NO_LIMITS, **changes})


def client(client_id, **changes):
    return Client(client_id=client_id, secret_hash=secret_hash(), **changes)


def settings(database_url="postgresql+pg8000://nobody@127.0.0.1:1/nothing"):
    return Settings(
        host="127.0.0.1",
        port=1,
        threads=THREADS,
        database=DatabaseSettings(database_url, None, None, None),
        firestore=FirestoreSettings("test-project"),
        directory=PartnerDirectorySettings(),
        token_issuer=ISSUER,
        token_audience=AUDIENCE,
        token_signing_keys_dir="",
        party_key_ring=KeyRingSettings("", "party-data"),
        fingerprint_key="",
        receipt_signing_key="",
        webhook_key_ring=KeyRingSettings("", "webhook-secrets"),
        tokens_per_minute=100_000,
        token_requests_per_minute=100_000,
    )


class GatewayStage:
    """Two partners, `self.partner` (client `acme`) and `self.stranger` (client `other`), and the app."""

    def __init__(self, database=None, now=NOW, lock_timeout_milliseconds=LOCK_TIMEOUT_MILLISECONDS):
        self.clock = ManualClock(now)
        self.store = InMemoryPartnerStore()
        self.partner = partner_with(client("acme"), client("reader", scopes=("payments:read",)))
        self.stranger = partner_with(client("other"))
        for partner in (self.partner, self.stranger):
            self.store.put(partner, None)
        self.owner = database.engine if database else None
        if database:
            with database.engine.begin() as connection:
                add_sap_systems(connection, {"s4-main": 4})
            self.settings = settings(database.url_for("gateway"))
        else:
            self.settings = settings()
        self.engine = make_statement_engine(
            self.settings.database,
            pool_size=THREADS,
            application_name="gateway",
            lock_timeout_milliseconds=lock_timeout_milliseconds,
        )
        self.mirror = make_engine(self.settings.database, pool_size=2, application_name="gateway-mirror")
        self.directory = make_directory(self.store, self.mirror, self.clock, self.settings.directory)
        self.record = PartnerRecord(self.store, PartnerMirror(self.mirror), self.clock)
        # names that partners have: what they resolve to
        self.addresses = {"partner.example": ["93.184.215.14"]}
        self.app = self.new_app()
        self.tokens = AccessTokens(keys().token, issuer=ISSUER, audience=AUDIENCE, lifetime_seconds=900)

    def new_app(self, engine=None):
        return create_app(
            self.settings,
            keys(),
            engine or self.engine,
            self.directory,
            self.record,
            self.clock,
            resolver=self.resolve,
        )

    def resolve(self, host, _port):
        """What the name server of the stage answers; addresses are themselves, as everywhere."""
        if host in self.addresses:
            return self.addresses[host]
        with contextlib.suppress(ValueError):
            return [str(ipaddress.ip_address(host))]
        raise UnresolvableHostError("the stage knows no such name")

    def close(self):
        self.engine.dispose()
        self.mirror.dispose()

    def route(self, partner):
        """Put the partner's next version in force."""
        self.store.put(partner, self.partner.version)
        self.partner = partner
        self.clock.advance(self.settings.directory.fresh_seconds + 1)

    def token(self, client_id="acme", scopes=None):
        partner = self.stranger if client_id == "other" else self.partner
        owner = partner.client(client_id)
        return self.tokens.issue(
            owner, partner.partner_id, owner.scopes if scopes is None else scopes, self.clock.now()
        )

    def call(self, method, path, client_id="acme", headers=None, **options):
        return self.app.test_client().open(
            path,
            method=method,
            headers={"Authorization": f"Bearer {self.token(client_id)}"} | (headers or {}),
            **options,
        )

    def pay(self, payment=None, *, key=None, client_id="acme", headers=None, **options):
        number = next(_numbers)
        if "data" not in options:
            options["json"] = payment or new_payment()
        extra = {"Idempotency-Key": key or f"key-{number}"} | (headers or {})
        return self.call("POST", "/v1/payments", client_id, headers=extra, **options)

    def operate(self, payment_id, name, body=None, *, key=None, client_id="acme", headers=None):
        """POST /v1/payments/{payment_id}/{name}, under a key of its own unless one is given."""
        extra = {"Idempotency-Key": key or f"key-{next(_numbers)}"} | (headers or {})
        path = f"/v1/payments/{payment_id}/{name}"
        return self.call("POST", path, client_id, headers=extra, json={} if body is None else body)

    def operation(self, operation_id):
        return next(row for row in self.rows("operations") if row["operation_id"] == operation_id)

    def rows(self, table):
        with self.owner.connect() as connection:
            return [dict(row._mapping) for row in connection.execute(text(f"SELECT * FROM {table}"))]

    def counts(self):
        return {table: len(self.rows(table)) for table in POSITIONAL_TABLES}


NOTHING = dict.fromkeys(POSITIONAL_TABLES, 0)
ONE_PAYMENT = dict.fromkeys(POSITIONAL_TABLES, 1) | {"outbox": 2}


def new_payment(**changes):
    payment = {
        "external_id": f"INV-{next(_numbers)}",
        "amount": {"value": "1250.00", "currency": "EUR"},
        "capture": "automatic",
        "debtor": {"name": "Muster GmbH", "account": {"iban": "DE89370400440532013000"}},
        "creditor": {"name": "Acme SE", "account": {"iban": "FR1420041010050500013M02606"}},
        "remittance_information": "Invoice 4711",
        "metadata": {"order": "A-17"},
    }
    payment.update(changes)
    return {name: value for name, value in payment.items() if value is not ...}


def basic(client_id="acme", secret=SECRET):
    return {"Authorization": "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()}
