"""The partners' documents in Firestore: what the mirror remembers, else the demo partners as they begin."""

from argon2 import PasswordHasher
from sqlalchemy import Engine

from bridge.clock import SystemClock
from bridge.gcp.firestore import make_partner_store
from bridge.gcp.firestore_documents import FirestoreSettings
from bridge.journal_mapping import JournalEntryMapping
from bridge.key_ring_file import KeyRingSettings, open_key_ring
from bridge.keyring import KeyRing
from bridge.partner import (
    Client,
    PartnerConfiguration,
    PartnerLimits,
    PartnerStatus,
    SapTarget,
)
from bridge.partner_mirror import PartnerMirror, restore_from_mirror
from bridge.payment import OperationKind
from bridge.ports import PartnerStore
from bridge.routing import Routing
from bridge.storage.engine import DatabaseSettings, make_engine
from bridge.webhook_endpoint import SigningSecret, WebhookEndpoint
from bridge.webhook_secrets import seal_secret
from devstack.keys import DemoPartner, Keys, load_or_create
from devstack.layout import CLEARING_ACCOUNT, PROJECT_ID, Layout
from devstack.postgres import DATABASE, OWNER, url_at
from gateway.webhook_secrets import SecretMaker

# an emulator that has just started is slow over its first question
ANSWER_SECONDS = 30.0
SAP_SYSTEM = "s4-main"
# as SAP's table TCURX has them
CURRENCY_DECIMALS = {"COP": 0, "HUF": 0, "IDR": 0, "TWD": 0}
COMPANY_CODE = "1000"
TIME_ZONE = "Europe/Berlin"
# where noted items stand against: no part of the balance sheet
STATISTICAL_ACCOUNT = "199100"
SPECIAL_GL_CODE = "G"
# demos and benchmarks ask for as much as they can
LIMITS = PartnerLimits(requests_per_second=100_000, payments_per_day=1_000_000_000)
# DZ: what comes in, KZ: what goes out; AB: a general document, as an authorisation is only noted
DOCUMENT_TYPES = {
    OperationKind.PAYMENT: "DZ",
    OperationKind.AUTHORIZE: "AB",
    OperationKind.CAPTURE: "DZ",
    OperationKind.REVERSE: "AB",
    OperationKind.REFUND: "KZ",
}


def seed_partners(layout: Layout) -> None:
    """Put back what the emulator has lost; add the demo partners if they have never been there."""
    settings = FirestoreSettings(
        PROJECT_ID,
        emulator_host=layout.address("firestore"),
        read_timeout_seconds=ANSWER_SECONDS,
        write_timeout_seconds=ANSWER_SECONDS,
    )
    store = make_partner_store(settings)
    url = url_at(layout.ports["postgres"], DATABASE, OWNER)
    engine = make_engine(DatabaseSettings(url, None, None, None), pool_size=2, application_name="seed")
    try:
        seed(engine, store, load_or_create(layout.keys_folder), layout.url("receiver"))
    finally:
        engine.dispose()
        store.close()


def seed(engine: Engine, store: PartnerStore, keys: Keys, receiver_url: str) -> None:
    """As seed_partners. What an operator has made of a demo partner since stays as it is."""
    restore_from_mirror(engine, store)
    webhook_keys = open_key_ring(KeyRingSettings(str(keys.webhook_secrets), "webhook-secrets"))
    mirror = PartnerMirror(engine)
    for number, partner in enumerate(keys.partners, 1):
        document = store.get(partner.partner_id)
        if document is None:
            document = demo_document(receiver_url, partner, number, webhook_keys)
            store.put(document, None)
        # so that it survives an emulator's restart before any service has read it
        mirror.remember(document, SystemClock().now())


def demo_document(
    receiver_url: str, partner: DemoPartner, number: int, webhook_keys: KeyRing
) -> PartnerConfiguration:
    """The first version of a demo partner; its webhooks go to the stack's receiver."""
    customer = f"1{number:07}"
    maker = SecretMaker(webhook_keys)
    return PartnerConfiguration(
        partner_id=partner.partner_id,
        version=1,
        name=f"Demo partner {number}",
        status=PartnerStatus.ACTIVE,
        clients=(
            Client(client_id=partner.client_id, secret_hash=PasswordHasher().hash(partner.client_secret)),
        ),
        targets={
            "main": SapTarget(
                sap_system=SAP_SYSTEM,
                company_code=COMPANY_CODE,
                time_zone=TIME_ZONE,
                currency_decimals=CURRENCY_DECIMALS,
                mappings={
                    kind: JournalEntryMapping(
                        document_type=document_type,
                        customer=customer,
                        clearing_account=CLEARING_ACCOUNT,
                        statistical_account=STATISTICAL_ACCOUNT,
                        special_gl_code=SPECIAL_GL_CODE,
                    )
                    for kind, document_type in DOCUMENT_TYPES.items()
                },
            )
        },
        routing=Routing(default="main"),
        limits=LIMITS,
        webhook_endpoints=(
            WebhookEndpoint(
                endpoint_id=partner.endpoint_id,
                url=f"{receiver_url}/webhooks/{partner.partner_id}",
                secrets=(
                    SigningSecret(
                        encrypted=seal_secret(webhook_keys, partner.endpoint_id, partner.webhook_secret)
                    ),
                ),
                keys=(maker.key(partner.endpoint_id),),
                next_key=maker.key(partner.endpoint_id),
                created_at=SystemClock().now(),
            ),
        ),
    )
