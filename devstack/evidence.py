"""What the database, the SAP mock's ledger and the receiver say after a run: read once, judged elsewhere.

Pure data and the reading of it. `devstack.invariants` draws the conclusions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import requests
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.pool import NullPool

from bridge.clock import rfc3339
from bridge.partner import PartnerConfiguration
from devstack.running_stack import RunningStack

CALL_TIMEOUT_SECONDS = 20.0
THE_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)

PAYMENTS = text("""
    /* the payments accepted in the time looked at */
    SELECT payment_id, partner_id, external_id, status, currency, amount_minor, captured_minor,
           refunded_minor
    FROM payments WHERE created_at >= :since
""")

OPERATIONS = text("""
    /* their operations, with whatever still holds or carries them */
    SELECT operation_id, operation.payment_id, operation.kind, operation.status, operation.amount_minor,
           payment.currency, sap_reference, operation.sap_system, sap_company_code, sap_fiscal_year,
           sap_document_number, operation.lease_until, dispatched_at,
           EXISTS (SELECT FROM outbox WHERE outbox.operation_id = operation.operation_id) AS in_outbox,
           EXISTS (SELECT FROM sap_slots AS slot WHERE slot.operation_id = operation.operation_id
                   AND slot.lease_until > :now) AS holds_slot
    FROM operations AS operation JOIN payments AS payment USING (payment_id)
    WHERE payment.created_at >= :since
""")

REFERENCES = text("""
    /* every reference of ours, whenever made: a document under another one is nobody's */
    SELECT sap_reference FROM operations
""")

EVENTS = text("""
    /* the events with their place in the feed */
    SELECT event.event_id, event.partner_id, event.payment_id, event.event_type, feed.sequence,
           EXISTS (SELECT FROM outbox WHERE outbox.event_id = event.event_id) AS in_outbox
    FROM events AS event LEFT JOIN feed USING (event_id) WHERE event.created_at >= :since
""")

FEEDS = text("""
    /* each partner's feed as a whole: without a gap, first to last and the count agree, and the counter */
    SELECT feed.partner_id, min(sequence) AS first, max(sequence) AS last, count(*) AS count,
           (SELECT last_sequence FROM feed_counters AS counter
            WHERE counter.partner_id = feed.partner_id) AS counter
    FROM feed GROUP BY feed.partner_id
""")

DELIVERIES = text("""
    /* what is to be told to whom, and how far it has come */
    SELECT delivery.event_id, delivery.endpoint_id, delivery.partner_id, delivery.sequence,
           delivery.previous_sequence, delivery.status, delivery.lease_until > :now AS is_leased
    FROM webhooks.deliveries AS delivery JOIN events AS event USING (event_id)
    WHERE event.created_at >= :since
""")

DISABLED_ENDPOINTS = text("""
    /* endpoints whose events are held */
    SELECT endpoint_id FROM webhooks.cursors WHERE status <> 'enabled'
""")

CONFIGURATIONS = text("""
    /* the partners as the services know them */
    SELECT document FROM partner_configs
""")

HARD_CAP = text("""
    /* how many calls at once the lanes in use allow together (the mock plays all the SAP systems) */
    SELECT coalesce(sum(hard_cap), 0) FROM sap_systems AS lane
    WHERE EXISTS (SELECT FROM operations WHERE operations.sap_system = lane.sap_system)
""")

TABLES = text("""
    /* every table there is */
    SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
    WHERE schemaname IN ('public', 'webhooks') ORDER BY 1
""")


@dataclass(frozen=True, slots=True)
class Before:
    """What was there before the run, so that an older one's leftovers are not judged with it."""

    since: datetime = THE_BEGINNING
    references: frozenset[str] = frozenset()
    duplicates: int = 0

    @classmethod
    def take(cls, stack: RunningStack) -> "Before":
        """Look at the stack as it is now. What is accepted from now on is the run's."""
        references = frozenset(document["reference"] for document in get_json(stack.sap_mock, "documents"))
        return cls(datetime.now(UTC), references, get_json(stack.sap_mock, "stats")["duplicates"])


@dataclass(frozen=True, slots=True)
class Evidence:
    """Rows as they were read. `leaks`: where planted personal data turned up, one line each."""

    payments: Mapping[str, Any] = field(default_factory=dict)
    operations: Sequence[Any] = ()
    our_references: frozenset[str] = frozenset()
    events: Sequence[Any] = ()
    feeds: Sequence[Any] = ()
    deliveries: Sequence[Any] = ()
    partners: Sequence[PartnerConfiguration] = ()
    disabled_endpoints: frozenset[str] = frozenset()
    hard_cap: int = 0
    documents: Sequence[Mapping[str, Any]] = ()
    duplicates: int = 0
    max_in_flight: int = 0
    received: Sequence[Mapping[str, Any]] = ()
    leaks: Sequence[str] = ()


def collect(stack: RunningStack, before: Before, leaks_in: Sequence[str] = ()) -> Evidence:
    """Read everything. `leaks_in` is passed on (devstack.leaks finds them)."""
    engine = open_database(stack)
    with engine.connect() as connection:
        connection.execution_options(isolation_level="REPEATABLE READ")
        rows = _database(connection, before)
    documents = get_json(stack.sap_mock, "documents")
    stats = get_json(stack.sap_mock, "stats")
    return Evidence(
        **rows,
        documents=[document for document in documents if document["reference"] not in before.references],
        duplicates=stats["duplicates"] - before.duplicates,
        max_in_flight=stats["max_in_flight"],
        received=received(stack, since=before.since),
        leaks=leaks_in,
    )


def open_database(stack: RunningStack) -> Engine:
    """Without a pool: nothing stays connected to a database that may be stopped or killed."""
    return create_engine(stack.database_url, poolclass=NullPool, hide_parameters=True)


def get_json(sap_mock: str, what: str) -> Any:
    answer = requests.get(f"{sap_mock}/_control/{what}", timeout=CALL_TIMEOUT_SECONDS)
    answer.raise_for_status()
    return answer.json()


def received(stack: RunningStack, *, since: datetime, distinct: bool = False) -> list[dict[str, Any]]:
    """Return what has arrived at the receiver; `distinct`: one row per webhook id."""
    parameters = {"since": rfc3339(since)} | ({"distinct": "true"} if distinct else {})
    answer = requests.get(f"{stack.receiver}/_received", params=parameters, timeout=CALL_TIMEOUT_SECONDS)
    answer.raise_for_status()
    rows: list[dict[str, Any]] = answer.json()
    return rows


def _database(connection: Connection, before: Before) -> dict[str, Any]:
    parameters = {"since": before.since, "now": datetime.now(UTC)}
    documents = connection.execute(CONFIGURATIONS).scalars()
    return {
        "payments": {row.payment_id: row for row in connection.execute(PAYMENTS, parameters)},
        "operations": connection.execute(OPERATIONS, parameters).all(),
        "our_references": frozenset(connection.execute(REFERENCES).scalars()),
        "events": connection.execute(EVENTS, parameters).all(),
        "feeds": connection.execute(FEEDS).all(),
        "deliveries": connection.execute(DELIVERIES, parameters).all(),
        "partners": [PartnerConfiguration.model_validate(document) for document in documents],
        "disabled_endpoints": frozenset(connection.execute(DISABLED_ENDPOINTS).scalars()),
        "hard_cap": int(connection.execute(HARD_CAP).scalar_one()),
    }
