"""What the lists that partners narrow down read: about what they show, however many rows the partner has."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from statement_plans import rows_read

from bridge.payment import PaymentStatus
from bridge.storage import webhook_deliveries
from bridge.storage.migrate import add_sap_systems
from bridge.storage.payments import PaymentFilter, select_page
from bridge.storage.webhook_attempts import TEST_EVENT_TYPE

pytestmark = pytest.mark.integration

PAYMENTS = 10_000
PARTNER, ENDPOINT = "par_a", "whe_a"
MADE = "WITH made AS (SELECT n, CAST(:start AS timestamptz) AS start FROM generate_series(1, :count) AS n)"
FILL = """
    INSERT INTO payments (payment_id, partner_id, external_id, status, currency, amount_minor, capture,
                          sap_system, company_code, time_zone, metadata, created_at, updated_at)
    SELECT 'pay_' || n, 'par_a', 'INV-' || n, CASE mod(n, 1000) WHEN 0 THEN 'rejected' ELSE 'paid' END,
           'EUR', 100, 'automatic', 's4-main', '1000', 'UTC', '{}', start + n * interval '1 s', start
    FROM made;
    INSERT INTO operations (operation_id, payment_id, partner_id, position, kind, status, amount_minor,
                            sap_system, sap_reference, created_at, updated_at)
    SELECT 'op_' || n, 'pay_' || n, 'par_a', 1, 'payment', 'accepted', 100, 's4-main',
           translate(lpad(CAST(n AS text), 16, '0'), '0123456789', 'ABCDEFGHIJ'), start, start
    FROM made;
    INSERT INTO webhooks.cursors (endpoint_id, partner_id, sequence, configuration_version, created_at)
    SELECT 'whe_a', 'par_a', 0, 1, start FROM made LIMIT 1;
    INSERT INTO webhooks.deliveries (delivery_id, endpoint_id, partner_id, sequence, previous_sequence,
                                     status, created_at)
    SELECT 'dlv_' || n, 'whe_a', 'par_a', 0, 0,
           CASE mod(n, 1000) WHEN 0 THEN 'exhausted' ELSE 'delivered' END, start + n * interval '1 s'
    FROM made
"""
START = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.fixture
def engine(database):
    with database.engine.begin() as connection:
        add_sap_systems(connection, {"s4-main": 4})
        for statement in FILL.split(";"):
            connection.execute(text(MADE + statement), {"count": PAYMENTS, "start": START})
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE payments, operations, webhooks.deliveries"))
    return database.engine


@pytest.mark.parametrize(
    "wanted",
    [
        PaymentFilter(external_id="INV-7"),
        PaymentFilter(external_id="INV-1000"),
        PaymentFilter(external_id="unknown"),
        PaymentFilter(external_id="INV-7", status=PaymentStatus.PAID),
        PaymentFilter(status=PaymentStatus.REJECTED),
        PaymentFilter(status=PaymentStatus.ACCEPTED),
        PaymentFilter(status=PaymentStatus.SCHEDULED),
        PaymentFilter(status=PaymentStatus.PAID),
        PaymentFilter(created_to=datetime(2026, 11, 20, 0, 0, 3, tzinfo=UTC)),
        PaymentFilter(created_from=datetime(2027, 1, 1, tzinfo=UTC)),
        PaymentFilter(),
    ],
)
def test_a_list_of_payments_reads_what_it_shows(engine, wanted):
    """An unknown external id, or a status that few have, had all the partner's payments read."""
    given = {name: getattr(wanted, name) for name in ("external_id", "created_from", "created_to")}
    parameters = {name: value for name, value in given.items() if value is not None}
    statement = select_page(wanted, goes_on=False)
    read = rows_read(engine, statement, partner_id=PARTNER, limit=21, **parameters)
    assert read <= 3 * 21, read


@pytest.mark.parametrize("status", ["exhausted", "held", "delivered", None])
def test_a_list_of_deliveries_reads_what_it_shows(engine, status):
    """`exhausted`, which is what a partner looks for, had all the endpoint's deliveries read."""
    parameters = {
        "partner_id": PARTNER, "endpoint_id": ENDPOINT, "status": status, "created_at": None, "after": "",
        "limit": 21, "test_event_type": TEST_EVENT_TYPE,
    }  # fmt: skip
    assert rows_read(engine, webhook_deliveries.SELECT_PAGE, **parameters) <= 3 * 21
