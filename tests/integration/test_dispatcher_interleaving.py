"""Relays, watchdogs and claims at the same operations at once: no deadlock, nothing lost or doubled."""

import random
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from accepted import LANE, add_lanes, add_payments, scalar
from fakes.publisher import InMemoryPublisher
from sqlalchemy import text
from waiting import DEADLINE_SECONDS

from bridge.clock import SystemClock
from bridge.errors import TransientError
from bridge.lane import FailedCall, GuardSettings
from bridge.payment import EventType, SapDocument
from bridge.storage.events import append_event, put_back
from bridge.storage.guard import (
    free_settling_slots,
    give_back_slot,
    note_failure,
    note_success,
    take_slot,
)
from bridge.storage.operations import lock_operation, lock_payment, spend_dispatch, start_post
from bridge.storage.outcomes import record_not_posted, record_success
from dispatcher.relay import OperationsRelay, RelaySettings
from dispatcher.watchdog import Watchdog, WatchdogSettings

pytestmark = pytest.mark.integration

OPERATIONS = 150
PARTNERS = ("par_a", "par_b", "par_c")
GUARD = GuardSettings(
    failing_operations_to_open=3, probe_interval_seconds=0.02, max_probe_interval_seconds=0.05
)
WATCHDOG = WatchdogSettings(
    interval_seconds=0.01, first_redispatch_seconds=0.1, settling_seconds=0.05, delayed_after_seconds=0.2
)
CLAIM_SECONDS = 0.15


def now():
    return datetime.now(UTC)


class Adapter:
    """Claims and records as the adapter does, with its functions, and dies or fails now and then."""

    def __init__(self, engine, publisher, seed, documents):
        self._engine = engine
        self._publisher = publisher
        self._random = random.Random(seed)  # noqa: S311 - a seeded test
        self._documents = documents

    def go_round(self):
        messages = self._publisher.messages()
        if not messages:
            return
        # The broker delivers late, twice and in any order: mostly something recent.
        recent = self._random.random() < 0.8
        message = self._random.choice(messages[-12:] if recent else messages)
        claim = self._claim(message)
        if claim is not None:
            self._record(message, *claim)

    def _claim(self, message):
        moment = now()
        with self._engine.begin() as connection:
            lock_payment(connection, message.payment_id)
            row = lock_operation(connection, message.operation_id)
            if row.dispatch_number != message.dispatch_number or row.lease_until is not None:
                return None
            number = spend_dispatch(connection, message.operation_id)
            until = moment + timedelta(seconds=CLAIM_SECONDS)
            slot = take_slot(connection, LANE, message.operation_id, lease_until=until, now=moment)
            if slot is None:
                put_back(connection, message.operation_id, not_before=moment, now=moment)
                return None
            start_post(
                connection, message.operation_id, lease_until=until,
                encrypted_document="sealed", document_type="DZ", posting_date=moment.date(),
                next_open_day=False, now=moment,
            )  # fmt: skip
        return number, slot

    def _record(self, message, number, slot):
        chance = self._random.random()
        if chance < 0.05:
            return  # died
        moment = now()
        with self._engine.begin() as connection:
            payment = lock_payment(connection, message.payment_id)
            row = lock_operation(connection, message.operation_id)
            if row.dispatch_number != number or row.lease_until is None:
                return
            failed = chance < 0.35
            if failed:
                overloaded = chance < 0.2
                failed_call = FailedCall(message.operation_id, moment, is_overload=overloaded)
                note_failure(connection, LANE, failed_call, GUARD, now=moment)
            else:
                note_success(connection, LANE)
            give_back_slot(
                connection, LANE, slot, message.operation_id, lease_until=row.lease_until,
                outcome="refused" if failed else "posted", success=not failed, latency_ms=1, now=moment,
            )  # fmt: skip
            if failed:
                record_not_posted(connection, message.operation_id, refused=False, counted=False, now=moment)
                put_back(connection, message.operation_id, not_before=moment, now=moment)
                return
            free_settling_slots(connection, LANE, message.operation_id)
            record_success(
                connection, message.operation_id, SapDocument("1000", "2026", str(slot)), now=moment
            )
            append_event(
                connection, partner_id=payment.payment.partner_id, payment_id=message.payment_id,
                operation_id=message.operation_id, event_type=EventType.PAID, payment={},
                traceparent=None, now=moment,
            )  # fmt: skip
        self._documents.append(message.operation_id)


class UnreliablePublisher(InMemoryPublisher):
    """Fails now and then, having taken the messages or not."""

    def __init__(self, seed):
        super().__init__()
        self._random = random.Random(seed)  # noqa: S311 - a seeded test

    def publish(self, topic, messages):
        chance = self._random.random()
        if chance < 0.05:
            raise TransientError("not taken")
        super().publish(topic, messages)
        if chance < 0.35:
            raise TransientError("taken, but nobody knows")


def test_everybody_at_once_never_deadlocks_and_every_operation_ends_once(database):
    owner = database.engine
    add_lanes(owner, s4_main=4)
    ids = [id_ for partner in PARTNERS for id_ in add_payments(owner, OPERATIONS // 3, partner, now=now())]
    dispatcher = database.engine_for("dispatcher")
    adapter = database.engine_for("sap_adapter")
    publisher, clock, documents = UnreliablePublisher(1), SystemClock(), []
    relay_settings = RelaySettings(lease_seconds=0.3, max_batch=500)
    rounds = [
        *(OperationsRelay(LANE, dispatcher, publisher, clock, relay_settings).go_round for _ in range(2)),
        *(Watchdog(dispatcher, clock, WATCHDOG, lambda: None).go_round for _ in range(2)),
        *(Adapter(adapter, publisher, seed, documents).go_round for seed in range(3)),
    ]
    failures, ended, counts = [], threading.Event(), Counter()

    def work(number, go_round):
        while not ended.is_set() and not failures:
            try:
                go_round()
            except TransientError:
                continue
            except Exception as error:  # noqa: BLE001 - shown by the test
                failures.append(error)
            counts[number] += 1

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(rounds)]
    for thread in threads:
        thread.start()
    open_operations = "SELECT count(*) FROM operations WHERE status NOT IN ('succeeded', 'parked')"
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not failures and time.monotonic() < deadline and scalar(owner, open_operations):
        ended.wait(0.1)
    ended.set()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    dispatcher.dispose()
    adapter.dispose()

    assert failures == []
    assert scalar(owner, open_operations) == 0, counts
    assert all(count > 100 for count in counts.values()), counts
    assert max(Counter(documents).values()) == 1
    with owner.begin() as connection:
        statuses = dict(connection.execute(text("SELECT operation_id, status FROM operations")).all())
        parked = connection.execute(
            text("SELECT DISTINCT parked_reason FROM operations WHERE status = 'parked'")
        ).scalars()
        assert set(parked) <= {"poison"}
        slots = connection.execute(
            text("SELECT count(*) FROM sap_slots WHERE operation_id IS NOT NULL AND lease_until > :now"),
            {"now": now() + timedelta(seconds=CLAIM_SECONDS + WATCHDOG.settling_seconds)},
        ).scalar()
    assert slots == 0
    assert {id_ for id_ in ids if statuses[id_] == "succeeded"} == set(documents)
