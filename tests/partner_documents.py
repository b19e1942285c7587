"""Made-up partner configurations."""

from datetime import UTC, datetime

from bridge.ids import new_id
from bridge.journal_mapping import JournalEntryMapping
from bridge.partner import Client, PartnerConfiguration, SapTarget
from bridge.payment import OperationKind
from bridge.routing import Routing
from bridge.webhook_endpoint import SigningSecret, WebhookEndpoint


def new_partner(*client_ids, version=1, status="active", **changes):
    now = datetime.now(UTC)
    partner_id = changes.pop("partner_id", None) or new_id("par", now)
    clients = client_ids or (f"client-{partner_id}",)
    return PartnerConfiguration(
        partner_id=partner_id,
        version=version,
        name="Muster GmbH",
        status=status,
        clients=tuple(
            Client(
                client_id=client_id,
                secret_hash="$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
            )
            for client_id in clients
        ),
        targets={
            "main": SapTarget(
                sap_system="s4-main",
                company_code="1000",
                time_zone="Europe/Berlin",
                mappings={
                    OperationKind.PAYMENT: JournalEntryMapping(
                        document_type="DZ", customer="10000001", clearing_account="113100"
                    )
                },
            )
        },
        routing=Routing(default="main"),
        webhook_endpoints=(
            WebhookEndpoint(
                endpoint_id=new_id("whe", now),
                url="https://partner.example/hooks",
                starts_after_sequence=7,
                secrets=(SigningSecret(encrypted="k1:AAAA"),),
            ),
        ),
        **changes,
    )


def changed(partner, **changes):
    """The next version of `partner`, validated again."""
    return PartnerConfiguration.model_validate(
        partner.model_dump() | {"version": partner.version + 1} | changes
    )
