"""Placing a document of SAP: whose step it was, and where that step stands among those of its payment.

Nothing here says what SAP has: a placed step is asked about by the document's reference, and the answer is
recorded as every answer is. Every function takes a connection inside the caller's transaction. Lock order:
recovery, payment, operation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Row, text

from bridge.ids import new_id, sap_reference
from bridge.money import Money
from bridge.payment import FINAL_OPERATION_STATUSES, EventType, OperationKind, ParkReason
from bridge.storage.delays import tell_delay
from bridge.storage.events import append_event, put_back
from bridge.storage.operations import lock_payment, operations_of_payment

FIND_REFERENCE = text("""
    /* the operation that has this reference, and the document that it was recorded with */
    SELECT status, sap_company_code, sap_fiscal_year, sap_document_number
    FROM operations WHERE sap_reference = :reference
""")

FIND_LIVING = text("""
    /* the living payment that has the external id */
    SELECT payment_id FROM payments
    WHERE partner_id = :partner_id AND external_id = :external_id AND status NOT IN ('rejected', 'cancelled')
""")

SELECT_STEPS = text("""
    /* the steps of the payment in their order; a foreign reference is that of a document */
    SELECT operation.*, payment.currency
    FROM operations AS operation JOIN payments AS payment USING (payment_id)
    WHERE payment_id = :payment_id ORDER BY position
""")

IS_FIRST_UNPLACED = text("""
    /* whether the document that the payment began with has no operation yet */
    SELECT EXISTS (
        SELECT FROM unplaced_documents
        WHERE partner_id = :partner_id AND external_id = :external_id AND settled_at IS NULL
          AND kind IN ('payment', 'authorize')
    )
""")

INSERT_PAYMENT = text("""
    /* a payment that was lost: it holds its external id. Names, accounts and texts are gone */
    INSERT INTO payments (payment_id, partner_id, external_id, status, currency, amount_minor, capture,
                          sap_system, company_code, time_zone, metadata, recovered_at, created_at, updated_at)
    VALUES (:payment_id, :partner_id, :external_id, 'accepted', :currency, :amount_minor, :capture,
            :sap_system, :company_code, coalesce((
                SELECT time_zone FROM payments
                WHERE partner_id = :partner_id AND company_code = :company_code LIMIT 1
            ), 'UTC'), '{}', :now, :now, :now)
    ON CONFLICT (partner_id, external_id) WHERE status NOT IN ('rejected', 'cancelled') DO NOTHING
    RETURNING payment_id
""")

INSERT_OPERATION = text("""
    /* a step of which only its document is known: SAP is asked for it, and it is never sent */
    INSERT INTO operations (operation_id, payment_id, partner_id, position, kind, status, amount_minor,
                            sap_system, sap_reference, sent_unresolved, settled_at, recovered_at,
                            created_at, updated_at)
    VALUES (:operation_id, :payment_id, :partner_id, :position, :kind,
            CASE WHEN :position = 1 THEN 'unknown' ELSE 'accepted' END, :amount_minor, :sap_system,
            :reference, true, :now, :now, :now, :now)
""")

ADOPT = text("""
    /* the partner has sent again what SAP has already: it gets the reference of that document, and goes on
       if it was parked because of it */
    UPDATE operations
    SET sap_reference = :reference,
        status = CASE WHEN status = 'parked' AND parked_reason <> 'reference-conflict' THEN status
                      WHEN position = 1 THEN 'unknown' ELSE 'accepted' END,
        parked_reason = nullif(parked_reason, 'reference-conflict'), found_documents = NULL,
        sent_unresolved = true, settled_at = coalesce(settled_at, :now), none_seen_at = NULL,
        dispatched_at = NULL, encrypted_document = NULL, document_type = NULL, posting_date = NULL,
        next_open_day = false, updated_at = :now
    WHERE operation_id = :operation_id
""")

PARK = text("""
    /* SAP has another document under the same external id: an operator has to say what is right */
    WITH lane AS (
        DELETE FROM outbox WHERE operation_id = :operation_id
    )
    UPDATE operations
    SET status = 'parked', parked_reason = :reason, dispatched_at = NULL,
        delayed_at = coalesce(delayed_at, :now), updated_at = :now
    WHERE operation_id = :operation_id
""")

ARRANGE = text("""
    /* the steps of a payment in a new order */
    UPDATE operations SET position = wanted.position, updated_at = :now
    FROM unnest(CAST(:operation_ids AS text[])) WITH ORDINALITY AS wanted (operation_id, position)
    WHERE operations.operation_id = wanted.operation_id AND operations.position <> wanted.position
""")

WAIT_BEHIND = text("""
    /* asked about when their turn comes, not before. A first step keeps its status: it has its turn */
    UPDATE operations SET status = 'accepted', updated_at = :now
    WHERE payment_id = :payment_id AND status = 'unknown' AND position > 1
""")

IS_ANY_CLAIMED = text("""
    /* whether a step of the payment is with SAP now, or a process has died at it */
    SELECT EXISTS (SELECT FROM operations WHERE payment_id = :payment_id AND lease_until IS NOT NULL)
""")

ASK_NEXT = text("""
    /* its turn has come, and SAP may have it */
    UPDATE operations SET status = 'unknown', updated_at = :now
    WHERE operation_id = :next_id AND status = 'accepted' AND sent_unresolved
""")


# Why a document gets no operation for now: the one that it would be given to may be booked itself.
STEP_WITH_SAP = "step-with-sap"

_Step = Row[tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class LostStep:
    """A step of a payment as its document in SAP tells it."""

    kind: OperationKind
    reference: str
    partner_id: str
    external_id: str
    amount: Money
    sap_system: str
    company_code: str

    @property
    def is_first(self) -> bool:
        """Whether a payment begins with it."""
        return self.kind in (OperationKind.PAYMENT, OperationKind.AUTHORIZE)


@dataclass(frozen=True, slots=True)
class KnownReference:
    """The operation that has a reference; `document`: company code, fiscal year and number, once recorded."""

    status: str
    document: tuple[str, str, str] | None


def find_reference(connection: Connection, reference: str) -> KnownReference | None:
    row = connection.execute(FIND_REFERENCE, {"reference": reference}).one_or_none()
    if row is None:
        return None
    document = (row.sap_company_code, row.sap_fiscal_year, row.sap_document_number)
    return KnownReference(row.status, document if row.sap_document_number else None)


def place(
    connection: Connection, lost: LostStep, *, since: datetime, lanes_are_held: bool, now: datetime
) -> str | None:
    """Give the document an operation; return why that can't be, None if it has one now.

    `since` is the moment of the backup: a step that was asked for after it may be the lost one, sent again.
    Unless `lanes_are_held`, such a step may be with SAP under its own reference: it then keeps that.
    """
    payment_id = _living(connection, lost)
    if payment_id is not None and not lanes_are_held and is_any_claimed(connection, payment_id):
        return STEP_WITH_SAP
    if not lost.is_first:
        return _place_later_step(connection, payment_id, lost, since, lanes_are_held, now)
    if payment_id is None and _make_payment(connection, lost, now):
        return None
    # if it could not be made, a partner has sent it again at this moment
    payment_id = payment_id or _living(connection, lost)
    if payment_id is None:
        return "external-id-taken"
    return _give_to_the_first(connection, payment_id, lost, lanes_are_held, now)


def _make_payment(connection: Connection, lost: LostStep, now: datetime) -> bool:
    """Make the payment again; False, and nothing is written, if another one has its external id."""
    payment_id = new_id("pay", now)
    if not _insert_payment(connection, payment_id, lost, now):
        return False
    operation_id = _insert(connection, payment_id, lost, 1, now)
    put_back(connection, operation_id, not_before=now, now=now)
    payment = lock_payment(connection, payment_id)
    if payment is not None:
        append_event(
            connection,
            partner_id=lost.partner_id,
            payment_id=payment_id,
            operation_id=operation_id,
            event_type=EventType.ACCEPTED,
            payment=payment.payment.as_json(operations_of_payment(connection, payment_id)),
            traceparent=None,
            now=now,
        )
    return True


def _insert_payment(connection: Connection, payment_id: str, lost: LostStep, now: datetime) -> bool:
    row = connection.execute(
        INSERT_PAYMENT,
        {
            "payment_id": payment_id,
            "partner_id": lost.partner_id,
            "external_id": lost.external_id,
            "currency": lost.amount.currency,
            "amount_minor": lost.amount.minor,
            "capture": "manual" if lost.kind == OperationKind.AUTHORIZE else "automatic",
            "sap_system": lost.sap_system,
            "company_code": lost.company_code,
            "now": now,
        },
    ).first()
    return row is not None


def _give_to_the_first(
    connection: Connection, payment_id: str, lost: LostStep, lanes_are_held: bool, now: datetime
) -> str | None:
    """The partner has sent the payment again: give it the document, if it is the same payment."""
    first = _steps(connection, payment_id)[0]
    if first.status in FINAL_OPERATION_STATUSES or not _has_own_reference(first):
        return "external-id-taken"
    if not _is_same(first, lost):
        _park(connection, first, now)
        return "sent-again-otherwise"
    if not lanes_are_held and _may_be_with_sap(first):
        return STEP_WITH_SAP
    _adopt(connection, first.operation_id, lost, now)
    put_back(connection, first.operation_id, not_before=now, now=now)
    return None


def _place_later_step(
    connection: Connection,
    payment_id: str | None,
    lost: LostStep,
    since: datetime,
    lanes_are_held: bool,
    now: datetime,
) -> str | None:
    """Add the step to its payment, before every step that was asked for after the restore.

    One that was asked for after it over the same amount is taken for the lost one, sent again. A step of the
    backup is not: SAP may have it as well, by its own reference.
    """
    parameters = {"partner_id": lost.partner_id, "external_id": lost.external_id}
    if connection.execute(IS_FIRST_UNPLACED, parameters).scalar_one():
        return "payment-unplaced"
    if payment_id is None:
        return "payment-unknown"
    steps = _steps(connection, payment_id)
    if steps[0].parked_reason == ParkReason.REFERENCE_CONFLICT:
        return "payment-unplaced"
    asked_after = [step for step in steps[1:] if _is_asked_after(step, since)]
    if not lanes_are_held and any(map(_may_be_with_sap, asked_after)):
        return STEP_WITH_SAP
    again = next((step for step in asked_after if _is_same(step, lost)), None)
    if again is None:
        step_id = _insert(connection, payment_id, lost, len(steps) + 1, now)
    else:
        step_id = str(again.operation_id)
        _adopt(connection, step_id, lost, now)
    later = [step.operation_id for step in asked_after if step.operation_id != step_id]
    earlier = [step.operation_id for step in steps if step.operation_id not in {*later, step_id}]
    _arrange(connection, payment_id, [*earlier, step_id, *later], now)
    return None


def _is_asked_after(step: _Step, since: datetime) -> bool:
    is_open = step.status not in FINAL_OPERATION_STATUSES
    return bool(
        step.created_at > since and is_open and step.recovered_at is None and _has_own_reference(step)
    )


def _may_be_with_sap(step: _Step) -> bool:
    """A restored database knows of no claim that was made in the time that was lost."""
    return bool(step.sent_unresolved)


def _has_own_reference(step: _Step) -> bool:
    return bool(step.sap_reference == sap_reference(step.operation_id))


def _is_same(step: _Step, lost: LostStep) -> bool:
    return bool(step.kind == lost.kind and Money(step.amount_minor, step.currency) == lost.amount)


def _living(connection: Connection, lost: LostStep) -> str | None:
    """Lock the living payment with the external id and return its id."""
    parameters = {"partner_id": lost.partner_id, "external_id": lost.external_id}
    payment_id: str | None = connection.execute(FIND_LIVING, parameters).scalar_one_or_none()
    if payment_id is not None:
        lock_payment(connection, payment_id)
    return payment_id


def _steps(connection: Connection, payment_id: str) -> Sequence[_Step]:
    return connection.execute(SELECT_STEPS, {"payment_id": payment_id}).all()


def _insert(connection: Connection, payment_id: str, lost: LostStep, position: int, now: datetime) -> str:
    operation_id = new_id("op", now)
    connection.execute(
        INSERT_OPERATION,
        {
            "operation_id": operation_id,
            "payment_id": payment_id,
            "partner_id": lost.partner_id,
            "position": position,
            "kind": str(lost.kind),
            "amount_minor": lost.amount.minor,
            "sap_system": lost.sap_system,
            "reference": lost.reference,
            "now": now,
        },
    )
    return operation_id


def _adopt(connection: Connection, operation_id: str, lost: LostStep, now: datetime) -> None:
    connection.execute(ADOPT, {"operation_id": operation_id, "reference": lost.reference, "now": now})


def _park(connection: Connection, step: _Step, now: datetime) -> None:
    reason = str(ParkReason.REFERENCE_CONFLICT)
    connection.execute(PARK, {"operation_id": step.operation_id, "reason": reason, "now": now})
    if step.delayed_at is None:
        tell_delay(connection, step.operation_id, now=now)


def _arrange(connection: Connection, payment_id: str, operation_ids: Sequence[str], now: datetime) -> None:
    """Put the steps into this order."""
    connection.execute(ARRANGE, {"operation_ids": list(operation_ids), "now": now})
    let_turn_come(connection, payment_id, now=now)


def is_any_claimed(connection: Connection, payment_id: str) -> bool:
    """Tell whether a process is at a step of the payment, which the caller has locked."""
    return bool(connection.execute(IS_ANY_CLAIMED, {"payment_id": payment_id}).scalar_one())


def wait_for_their_turn(connection: Connection, payment_id: str, *, now: datetime) -> None:
    """Have later steps whose outcome is unknown wait until `let_turn_come` finds that they are next."""
    connection.execute(WAIT_BEHIND, {"payment_id": payment_id, "now": now})


def let_turn_come(connection: Connection, payment_id: str, *, now: datetime) -> None:
    """Queue the payment's first step that has not ended; the others wait behind it."""
    steps = _steps(connection, payment_id)
    unfinished = [step for step in steps if step.status not in FINAL_OPERATION_STATUSES]
    next_id = unfinished[0].operation_id
    wait_for_their_turn(connection, payment_id, now=now)
    connection.execute(ASK_NEXT, {"next_id": next_id, "now": now})
    for step in unfinished:
        if step.status != "parked":
            not_before = now if step.operation_id == next_id else None
            put_back(connection, step.operation_id, not_before=not_before, now=now)
