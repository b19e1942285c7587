"""Made-up payments: as the storage writes them, and as a partner sends them."""

import json
from datetime import UTC, datetime

from bridge.ids import new_id
from bridge.money import Money
from bridge.payment import Operation, OperationKind, OperationStatus, Payment, PaymentStatus
from bridge.storage.accept import NewPayment

PARTNER_ID = f"par_{'0' * 26}"
AMOUNT = Money(125_000, "EUR")
METADATA = {"order": "A-17"}
# as long as what the gateway stores for the body below
ENCRYPTED_PARTIES = "k1:" + "A" * 300
RECEIPT = "x" * 520
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

# The load generators put a number of fixed width in the place of this, and send the body unchanged otherwise.
NUMBER = "#" * 12
BODY = json.dumps(
    {
        "external_id": f"BENCH-{NUMBER}",
        "amount": {"value": "1250.00", "currency": "EUR"},
        "capture": "automatic",
        "debtor": {"name": "Muster GmbH", "account": {"iban": "DE89370400440532013000"}},
        "creditor": {"name": "Acme SE", "account": {"iban": "FR1420041010050500013M02606"}},
        "remittance_information": "Invoice 4711",
        "metadata": METADATA,
    }
)


def new_payment(run: str, number: int) -> NewPayment:
    """The `number`th payment of a run, new by its ids, its external id and its key."""
    now = datetime.now(UTC)
    payment_id = new_id("pay", now)
    return NewPayment(
        payment=Payment(
            payment_id=payment_id,
            partner_id=PARTNER_ID,
            external_id=f"{run}-{number}",
            status=PaymentStatus.ACCEPTED,
            currency=AMOUNT.currency,
            amount_minor=AMOUNT.minor,
            captured_minor=0,
            refunded_minor=0,
            capture="automatic",
            requested_execution_date=None,
            created_at=now,
            updated_at=now,
        ),
        operation=Operation(
            operation_id=new_id("op", now),
            kind=OperationKind.PAYMENT,
            status=OperationStatus.ACCEPTED,
            amount=AMOUNT,
            created_at=now,
        ),
        idempotency_key=f"key-{run}-{number}",
        fingerprint=bytes(32),
        sap_system="s4-main",
        company_code="1000",
        time_zone="Europe/Berlin",
        encrypted_parties=ENCRYPTED_PARTIES,
        metadata=METADATA,
        receipt=RECEIPT,
        event_id=new_id("evt", now),
        not_before=now,
        traceparent=TRACEPARENT,
    )
