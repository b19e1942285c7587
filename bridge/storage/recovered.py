"""What a recovery changes: the feeds' numbers, what SAP is asked about first, operations made of documents.

Nothing here says what SAP has: it only sees to it that SAP is asked, and by the right reference. The answer
is recorded as every answer is. Every function takes a connection inside the caller's transaction. Lock order:
recovery, payment, operation.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from bridge.ids import new_id, sap_reference
from bridge.money import Money
from bridge.payment import FINAL_OPERATION_STATUSES, EventType, Operation, OperationKind, has_its_turn
from bridge.storage.events import append_event, put_back
from bridge.storage.operations import lock_payment, operations_of_payment

# More events than a partner can have had in the time that was lost.
FEED_JUMP = 1_000_000

SELECT_PARTNERS = text("""
    /* every partner that this database has heard of */
    SELECT partner_id FROM partner_configs UNION SELECT partner_id FROM feed_counters
    UNION SELECT partner_id FROM outbox WHERE lane = 'events' AND sequence IS NULL
""")

RESUME_FEEDS = text("""
    /* a new epoch above a jump: no number is given twice, and nobody waits for those that were lost */
    INSERT INTO feed_counters (partner_id, last_sequence, epoch, jumped_from, jumped_to)
    SELECT partner_id, CAST(:jump AS bigint), 2, 0, CAST(:jump AS bigint)
    FROM unnest(CAST(:partner_ids AS text[])) AS partner (partner_id)
    ON CONFLICT (partner_id) DO UPDATE
    SET last_sequence = feed_counters.last_sequence + :jump, epoch = feed_counters.epoch + 1,
        jumped_from = CASE WHEN feed_counters.last_sequence = feed_counters.jumped_to
                      THEN feed_counters.jumped_from ELSE feed_counters.last_sequence END,
        jumped_to = feed_counters.last_sequence + :jump
""")

LOCK_UNFINISHED = text("""
    /* the next unfinished operations of the backup; before its day nobody can have sent a scheduled one */
    SELECT operation.operation_id
    FROM operations AS operation JOIN payments AS payment USING (payment_id)
    WHERE operation.status IN ('scheduled', 'accepted', 'processing', 'unknown', 'parked')
      AND (operation.created_at, operation.operation_id) > (
          SELECT coalesce(max(created_at), '-infinity'), CAST(:after AS text)
          FROM operations WHERE operation_id = :after
      )
      AND operation.created_at <= :until
      AND (operation.status <> 'scheduled' OR payment.requested_execution_date IS NULL
           OR CAST(payment.requested_execution_date AS timestamp) AT TIME ZONE payment.time_zone <= :until)
    ORDER BY operation.created_at, operation.operation_id LIMIT :limit
    FOR NO KEY UPDATE OF operation
""")

MARK = text("""
    /* SAP may have it: it is asked when its turn comes. What an operator has parked stays parked till then */
    UPDATE operations AS operation
    SET status = CASE WHEN status = 'parked' OR EXISTS (
            SELECT FROM operations AS earlier
            WHERE earlier.payment_id = operation.payment_id AND earlier.position < operation.position
              AND earlier.status NOT IN ('succeeded', 'rejected', 'cancelled')
        ) THEN status ELSE 'unknown' END,
        sent_unresolved = true, settled_at = greatest(settled_at, CAST(:settled_at AS timestamptz)),
        none_seen_at = NULL, lease_until = NULL, dispatched_at = NULL, dispatches_without_claim = 0,
        claims_finished = claims_started, updated_at = :now
    WHERE operation_id = ANY(CAST(:operation_ids AS text[]))
    RETURNING operation_id, status
""")

IS_KNOWN = text("""
    /* whether an operation has this reference */
    SELECT EXISTS (SELECT FROM operations WHERE sap_reference = :reference)
""")

FIND_LIVING = text("""
    /* the living payment that has the external id */
    SELECT payment_id FROM payments
    WHERE partner_id = :partner_id AND external_id = :external_id AND status NOT IN ('rejected', 'cancelled')
""")

SELECT_REFERENCES = text("""
    /* by which reference SAP is asked about each step of the payment */
    SELECT operation_id, sap_reference FROM operations WHERE payment_id = :payment_id
""")

INSERT_PAYMENT = text("""
    /* a payment that was lost: it holds its external id. Names, accounts and texts are gone */
    INSERT INTO payments (payment_id, partner_id, external_id, status, currency, amount_minor, capture,
                          sap_system, company_code, time_zone, metadata, created_at, updated_at)
    VALUES (:payment_id, :partner_id, :external_id, 'accepted', :currency, :amount_minor, :capture,
            :sap_system, :company_code, coalesce((
                SELECT time_zone FROM payments
                WHERE partner_id = :partner_id AND company_code = :company_code LIMIT 1
            ), 'UTC'), '{}', :now, :now)
""")

INSERT_OPERATION = text("""
    /* a step of which only its document is known: SAP is asked for it, and it is never sent */
    INSERT INTO operations (operation_id, payment_id, partner_id, position, kind, status, amount_minor,
                            sap_system, sap_reference, sent_unresolved, settled_at, recovered_at,
                            created_at, updated_at)
    VALUES (:operation_id, :payment_id, :partner_id, :position, :kind, :status, :amount_minor, :sap_system,
            :reference, true, :now, :now, :now, :now)
""")

ADOPT = text("""
    /* the partner has sent again what SAP has already: it gets the reference of that document */
    UPDATE operations
    SET sap_reference = :reference, status = CASE WHEN status = 'parked' THEN status ELSE :status END,
        sent_unresolved = true, settled_at = coalesce(settled_at, :now), none_seen_at = NULL,
        dispatched_at = NULL, encrypted_document = NULL, document_type = NULL, posting_date = NULL,
        next_open_day = false, updated_at = :now
    WHERE operation_id = :operation_id
""")

INSERT_UNPLACED = text("""
    /* an operator has to look at it */
    INSERT INTO unplaced_documents (sap_system, company_code, fiscal_year, document_number, recovery_id,
                                    sap_reference, reason)
    VALUES (:sap_system, :company_code, :fiscal_year, :document_number, :recovery_id, :reference, :reason)
    ON CONFLICT DO NOTHING
""")


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


def known_partners(connection: Connection) -> list[str]:
    return list(connection.execute(SELECT_PARTNERS).scalars())


def resume_feeds(connection: Connection) -> int:
    """Let every feed go on above a jump, in a new epoch; return how many that were."""
    partner_ids = sorted(known_partners(connection))
    connection.execute(RESUME_FEEDS, {"partner_ids": partner_ids, "jump": FEED_JUMP})
    return len(partner_ids)


def mark_page(
    connection: Connection, *, after: str, until: datetime, settled_at: datetime, limit: int, now: datetime
) -> list[str]:
    """Have SAP asked about the next unfinished operations that were accepted by `until`; return their ids."""
    parameters = {"after": after, "until": until, "limit": limit}
    page = list(connection.execute(LOCK_UNFINISHED, parameters).scalars())
    marked = connection.execute(MARK, {"operation_ids": page, "settled_at": settled_at, "now": now}).all()
    for row in marked:
        if row.status == "unknown":
            put_back(connection, row.operation_id, not_before=now, now=now)
    return page


def is_known(connection: Connection, reference: str) -> bool:
    return bool(connection.execute(IS_KNOWN, {"reference": reference}).scalar_one())


def place_payment(connection: Connection, lost: LostStep, *, now: datetime) -> bool:
    """Make a payment of the document of a first step, or give it to the one that the partner sent again.

    False if a living payment has the external id and has got its document.
    """
    payment_id = _living(connection, lost)
    if payment_id is not None:
        first = operations_of_payment(connection, payment_id)[0]
        if first.status in FINAL_OPERATION_STATUSES:
            return False
        _adopt(connection, first.operation_id, lost, is_next=True, now=now)
        return True
    payment_id = new_id("pay", now)
    connection.execute(
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
    )
    operation_id = _insert(connection, payment_id, lost, [], now)
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


def place_later_step(connection: Connection, lost: LostStep, *, since: datetime, now: datetime) -> bool:
    """Add the step that the document is of to its payment, or give it to the same one sent again.

    A step that the backup (of `since`) has is none that was sent again: SAP may have it as well, by its own
    reference. Nor is one that has got a document's reference already. False if there is no such payment.
    """
    payment_id = _living(connection, lost)
    if payment_id is None:
        return False
    steps = operations_of_payment(connection, payment_id)
    rows = connection.execute(SELECT_REFERENCES, {"payment_id": payment_id})
    references = {row.operation_id: row.sap_reference for row in rows}
    for position, step in enumerate(steps):
        has_its_own = references[step.operation_id] == sap_reference(step.operation_id)
        is_again = step.created_at > since and has_its_own
        is_same = step.kind == lost.kind and step.amount == lost.amount
        if is_again and is_same and step.status not in FINAL_OPERATION_STATUSES:
            _adopt(connection, step.operation_id, lost, is_next=has_its_turn(steps[:position]), now=now)
            return True
    _insert(connection, payment_id, lost, steps, now)
    return True


def note_unplaced(
    connection: Connection,
    recovery_id: str,
    *,
    sap_system: str,
    company_code: str,
    fiscal_year: str,
    document_number: str,
    reference: str,
    reason: str,
) -> None:
    connection.execute(
        INSERT_UNPLACED,
        {
            "recovery_id": recovery_id,
            "sap_system": sap_system,
            "company_code": company_code,
            "fiscal_year": fiscal_year,
            "document_number": document_number,
            "reference": reference,
            "reason": reason,
        },
    )


def _living(connection: Connection, lost: LostStep) -> str | None:
    """Lock the living payment with the external id and return its id."""
    parameters = {"partner_id": lost.partner_id, "external_id": lost.external_id}
    payment_id: str | None = connection.execute(FIND_LIVING, parameters).scalar_one_or_none()
    if payment_id is not None:
        lock_payment(connection, payment_id)
    return payment_id


def _insert(
    connection: Connection, payment_id: str, lost: LostStep, earlier: list[Operation], now: datetime
) -> str:
    operation_id = new_id("op", now)
    is_next = has_its_turn(earlier)
    connection.execute(
        INSERT_OPERATION,
        {
            "operation_id": operation_id,
            "payment_id": payment_id,
            "partner_id": lost.partner_id,
            "position": len(earlier) + 1,
            "kind": str(lost.kind),
            "status": "unknown" if is_next else "accepted",
            "amount_minor": lost.amount.minor,
            "sap_system": lost.sap_system,
            "reference": lost.reference,
            "now": now,
        },
    )
    put_back(connection, operation_id, not_before=now if is_next else None, now=now)
    return operation_id


def _adopt(
    connection: Connection, operation_id: str, lost: LostStep, *, is_next: bool, now: datetime
) -> None:
    status = "unknown" if is_next else "accepted"
    parameters = {"operation_id": operation_id, "reference": lost.reference, "status": status, "now": now}
    connection.execute(ADOPT, parameters)
    put_back(connection, operation_id, not_before=now if is_next else None, now=now)
