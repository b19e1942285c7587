"""Retention: erases exactly what is due, whoever else is at it, and can be interrupted and repeated."""

import json
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from accepted import NOW, add_payment, change, operation, scalar
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError
from waiting import DEADLINE_SECONDS

from bridge.clock import ManualClock
from bridge.ids import new_id
from bridge.storage import erase
from bridge.storage.erase import Erased, erase_all
from bridge.storage.payments import find_payment
from bridge.storage.retention import ERASE_PAYMENTS, erase_page

pytestmark = pytest.mark.integration

ROLE = "retention"

KEEP = timedelta(days=430)
KEEP_FEED = timedelta(days=90)
DUE = NOW - KEEP - timedelta(seconds=1)
NOT_YET = NOW - KEEP + timedelta(seconds=1)
NOT_FINAL = ["scheduled", "accepted", "processing", "unknown", "parked"]
REPOSITORY = Path(__file__).parents[2]

FILL_PAYMENT = text("""
    UPDATE payments SET encrypted_parties = 'parties', receipt = 'receipt' WHERE payment_id = :payment_id
""")
ADD_STEP = text("""
    INSERT INTO operations (operation_id, payment_id, partner_id, position, kind, status, amount_minor,
                            sap_system, sap_reference, encrypted_document, created_at, updated_at)
    SELECT :operation_id, payment_id, partner_id, 2, 'refund', 'accepted', 1250, sap_system,
           'AAAAAAAAAAAAAAAA', 'document', :now, :now
    FROM payments WHERE payment_id = :payment_id
""")
FORBIDDEN = (
    "UPDATE payments SET status = 'paid'",
    "DELETE FROM payments",
    "SELECT * FROM events",
    "DELETE FROM events",
    "UPDATE feed SET sequence = sequence + 1",
    "UPDATE feed_counters SET last_sequence = 0",
    "DELETE FROM webhooks.deliveries",
)
LOCK = text("SELECT FROM payments WHERE payment_id = :payment_id FOR NO KEY UPDATE")
LEFT = """
    SELECT (SELECT count(*) FROM payments WHERE encrypted_parties IS NOT NULL OR receipt IS NOT NULL)
         + (SELECT count(*) FROM operations
            WHERE encrypted_document IS NOT NULL OR encrypted_sap_log IS NOT NULL)
"""


def add(owner, at, status="succeeded"):
    """A payment of `at` with all that can be erased; return its id and its operation's."""
    with owner.begin() as connection:
        operation_id = add_payment(connection, now=at, row=False, event=False)
    columns = {"status": status, "encrypted_document": "document", "encrypted_sap_log": "log"}
    if status in ("succeeded", "rejected", "cancelled"):
        columns["completed_at"] = at
    if status == "succeeded":
        columns |= {"sap_company_code": "1000", "sap_fiscal_year": "2026", "sap_document_number": "14"}
    if status == "parked":
        columns["parked_reason"] = "no-progress"
    change(owner, operation_id, **columns)
    payment_id = operation(owner, operation_id).payment_id
    with owner.begin() as connection:
        connection.execute(FILL_PAYMENT, {"payment_id": payment_id})
    return payment_id, operation_id


def contents(owner, payment_id):
    """Every value that may be erased, the payment's first."""
    statement = text("""
        SELECT encrypted_parties, receipt, encrypted_document, encrypted_sap_log
        FROM payments JOIN operations USING (payment_id) WHERE payment_id = :payment_id ORDER BY position
    """)
    with owner.begin() as connection:
        return [tuple(row) for row in connection.execute(statement, {"payment_id": payment_id})]


FULL = [("parties", "receipt", "document", "log")]
EMPTY = [(None, None, None, None)]


def run(engine, **options):
    return erase_all(engine, ManualClock(NOW), keep_payments=KEEP, keep_feed=KEEP_FEED, **options)


def test_what_is_due_is_erased_and_nothing_younger(owner, engine):
    due = [add(owner, DUE, status)[0] for status in ("succeeded", "rejected", "cancelled")]
    young, _ = add(owner, NOT_YET)
    assert run(engine) == Erased(payments=3, operations=3)
    assert [contents(owner, payment) for payment in due] == [EMPTY] * 3
    assert contents(owner, young) == FULL
    assert run(engine) == Erased()


@pytest.mark.parametrize("status", NOT_FINAL)
def test_a_payment_with_a_step_that_goes_on_keeps_everything(owner, engine, status):
    payment, _ = add(owner, DUE, status)
    assert run(engine) == Erased()
    assert contents(owner, payment) == FULL


def test_a_waiting_later_step_keeps_the_documents_of_the_steps_before(owner, engine):
    payment, _ = add(owner, DUE)
    with owner.begin() as connection:
        step = {"operation_id": new_id("op", NOW), "payment_id": payment, "now": NOW}
        connection.execute(ADD_STEP, step)
    assert run(engine) == Erased()
    assert contents(owner, payment) == [*FULL, ("parties", "receipt", "document", None)]


def test_a_step_that_came_between_the_look_and_the_lock_keeps_everything(owner, engine):
    """The look has an older snapshot than the erasing: what counts is seen after the lock."""
    payment, _ = add(owner, DUE)
    with owner.begin() as connection:
        step = {"operation_id": new_id("op", NOW), "payment_id": payment, "now": NOW}
        connection.execute(ADD_STEP, step)
    with engine.begin() as job:
        assert job.execute(ERASE_PAYMENTS, {"payment_ids": [payment]}).all() == []
    assert contents(owner, payment)[0] == FULL[0]


def test_a_payment_that_somebody_is_at_is_left_for_the_next_run(owner, engine):
    locked, _ = add(owner, DUE)
    free, _ = add(owner, DUE)
    with owner.connect() as gateway:
        gateway.execute(LOCK, {"payment_id": locked})
        assert run(engine) == Erased(payments=1, operations=1)
    assert contents(owner, free) == EMPTY
    assert contents(owner, locked) == FULL
    assert run(engine) == Erased(payments=1, operations=1)


def test_two_jobs_at_once_erase_each_row_once(owner, engine):
    for _ in range(40):
        add(owner, DUE)
    results = []
    jobs = [threading.Thread(target=lambda: results.append(run(engine, per_transaction=3))) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(DEADLINE_SECONDS)
    results.append(run(engine))
    assert sum(result.payments for result in results) == 40
    assert sum(result.operations for result in results) == 40
    assert scalar(owner, LEFT) == 0


def test_an_interrupted_job_keeps_its_pages_and_the_next_does_the_rest(owner, engine):
    for _ in range(7):
        add(owner, DUE)
    assert run(engine, per_transaction=3, max_transactions=1) == Erased(3, 3, finished=False)
    with engine.connect() as dying:  # killed before its commit
        erase_page(dying, accepted_until=NOW - KEEP, limit=10)
    assert scalar(owner, LEFT) == 8
    assert run(engine, per_transaction=3) == Erased(4, 4)
    assert scalar(owner, LEFT) == 0


def test_payments_that_never_end_do_not_hide_those_behind_them(owner, engine):
    for _ in range(5):
        add(owner, DUE - timedelta(days=1), "parked")
    payment, _ = add(owner, DUE)
    assert run(engine, per_transaction=2) == Erased(1, 1)
    assert contents(owner, payment) == EMPTY


def test_an_erased_payment_is_still_read_without_its_receipt(owner, engine):
    payment, _ = add(owner, DUE)
    run(engine)
    with owner.connect() as connection:
        stored = find_payment(connection, "par_a", payment)
    assert stored.receipt is None
    assert (stored.payment.payment_id, len(stored.operations)) == (payment, 1)


def test_expired_client_assertions_are_forgotten_and_others_are_not(owner, engine):
    statement = text("INSERT INTO client_assertions VALUES ('client', :jti, :expires_at)")
    with owner.begin() as connection:
        connection.execute(statement, {"jti": "old", "expires_at": NOW - timedelta(seconds=1)})
        connection.execute(statement, {"jti": "good", "expires_at": NOW + timedelta(seconds=1)})
    assert run(engine) == Erased(client_assertions=1)
    assert scalar(owner, "SELECT jti FROM client_assertions") == "good"


def test_the_job_may_change_nothing_else(owner, engine):
    payment, _ = add(owner, DUE)
    for statement in FORBIDDEN:
        with pytest.raises(ProgrammingError, match="permission denied"), engine.begin() as connection:
            connection.execute(text(statement))
    assert contents(owner, payment) == FULL


def start(**environment):
    return subprocess.run(
        [sys.executable, "-m", erase.__name__],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"]} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_SECONDS,
    )


def test_the_job_prints_one_line_with_what_it_erased(owner, database):
    now = datetime.now(UTC)
    add(owner, now - timedelta(days=6))
    add(owner, now - timedelta(days=4))
    done = start(DATABASE_URL=database.url_for("retention"), REFUND_WINDOW_DAYS="3", ERASE_AFTER_DAYS="2")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "payments": 1,
        "operations": 1,
        "client_assertions": 0,
        "failures": 0,
        "feed_rows": 0,
        "finished": True,
    }


def test_a_wrong_setting_is_one_line():
    done = start(ERASE_AFTER_DAYS="never")
    assert done.returncode == 2
    assert done.stderr.startswith("erase: ERASE_AFTER_DAYS ")
    assert done.stderr.count("\n") == 1


def test_the_job_began_at_the_first_payment_each_time_and_never_came_to_the_end(owner, engine):
    """With more payments than one run takes, names and accounts behind them stayed for ever."""
    payments = [add(owner, DUE)[0] for _ in range(6)]
    runs = [run(engine, per_transaction=2, max_transactions=1) for _ in range(4)]
    assert [erased.payments for erased in runs] == [2, 2, 2, 0]
    assert [erased.finished for erased in runs] == [False, False, False, True]
    assert [contents(owner, payment) for payment in payments] == [EMPTY] * 6


def test_a_payment_that_was_passed_is_erased_when_its_step_has_ended_and_none_is_read_twice(owner, engine):
    open_payment, open_operation = add(owner, DUE, "parked")
    add(owner, DUE)
    assert run(engine) == Erased(payments=1, operations=1)
    with owner.begin() as connection:
        kept = connection.execute(text("SELECT payment_id FROM erasure_passed")).scalars().all()
        assert kept == [open_payment]
        connection.execute(
            text(
                "UPDATE operations SET status = 'rejected', parked_reason = NULL, completed_at = :now"
                " WHERE operation_id = :id"
            ),
            {"now": NOW, "id": open_operation},
        )
    assert run(engine) == Erased(payments=1, operations=1)
    assert contents(owner, open_payment) == EMPTY
    with owner.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM erasure_passed")).scalar() == 0
    assert run(engine) == Erased()


def test_a_payment_that_fails_stops_only_itself_and_is_tried_again(owner, engine):
    bad, _ = add(owner, DUE)
    good = [add(owner, DUE)[0] for _ in range(3)]
    function = """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                  $$ BEGIN RAISE EXCEPTION 'planted by a test'; END $$"""
    trigger = f"""CREATE TRIGGER refuse BEFORE UPDATE ON payments FOR EACH ROW
                  WHEN (NEW.payment_id = '{bad}') EXECUTE FUNCTION refuse()"""
    with owner.begin() as connection:
        connection.execute(text(function))
        connection.execute(text(trigger))
    first = run(engine, per_transaction=2)
    second = run(engine, per_transaction=2)
    assert (first.failures, second.failures) == (1, 1)
    assert [contents(owner, payment) for payment in good] == [EMPTY] * 3
    assert contents(owner, bad) == FULL
    with owner.begin() as connection:
        connection.execute(text("DROP TRIGGER refuse ON payments"))
    assert run(engine) == Erased(payments=1, operations=1)
