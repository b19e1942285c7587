"""The feed while it is written from all sides: 5,000 events, two dispatchers, one of them killed half-way."""

import itertools
import os
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from accepted import LANE, add_lanes, set_lane
from pubsub_emulator import PROJECT, PubSubEmulator
from waiting import wait_until

from bridge.ids import new_id
from bridge.messages import EVENTS_TOPIC, operations_topic
from bridge.money import Money
from bridge.payment import EventType, Operation, OperationKind, OperationStatus, Payment, PaymentStatus
from bridge.storage.accept import NewPayment, accept, make_statement_engine
from bridge.storage.engine import DatabaseSettings
from bridge.storage.events import append_event
from bridge.storage.feed import feed_page

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).parents[2]
WRITERS = 8
PAYMENTS_OF_A_WRITER = 313
PAYMENTS_WITHOUT_BROKER = 10
EVENTS = 2 * WRITERS * PAYMENTS_OF_A_WRITER  # a little over 5,000
EVENTS_WITHOUT_BROKER = 2 * WRITERS * PAYMENTS_WITHOUT_BROKER
PAGE_EVENTS = 500
PARTNER = "par_a"
EVENTS_OF_A_PAYMENT = [EventType.ACCEPTED, EventType.PAID]


@pytest.fixture
def owner(database):
    add_lanes(database.engine, s4_main=4)
    set_lane(database.engine, LANE, held=True)  # the operations stay: only their events are looked at
    return database.engine


@pytest.fixture
def gateway(database):
    """The engine that accepts, with the gateway's rights."""
    settings = DatabaseSettings(database.url_for("gateway"), None, None, None)
    engine = make_statement_engine(settings, pool_size=WRITERS, application_name="gateway")
    yield engine
    engine.dispose()


@pytest.fixture
def emulator(tmp_path):
    emulator = PubSubEmulator(tmp_path).start()
    for topic in (EVENTS_TOPIC, operations_topic(LANE)):
        emulator.create_topic(topic)
    yield emulator
    emulator.kill()


@pytest.fixture
def dispatchers(owner, database, emulator, tmp_path):
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": database.url_for("dispatcher"),
        "GOOGLE_CLOUD_PROJECT": PROJECT,
        "PUBSUB_EMULATOR_HOST": emulator.address,
        "POLL_SECONDS": "0.05",
    }
    processes = []
    for number in range(2):
        with (tmp_path / f"dispatcher-{number}.log").open("wb") as log:
            command = [sys.executable, "-m", "dispatcher"]
            processes.append(
                subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
            )
    logs = [tmp_path / f"dispatcher-{number}.log" for number in range(2)]
    wait_until(lambda: all("ready" in log.read_text() for log in logs))
    yield processes
    for process in processes:
        process.kill()
        process.wait()


class Writing:
    """Payments by `WRITERS` threads at once: each accepted by the real statement, then paid."""

    def __init__(self, owner, gateway):
        self._owner = owner
        self._gateway = gateway
        self._numbers = itertools.count(1)

    def start(self, pool, payments):
        """Each writer writes that many payments."""
        return [pool.submit(self._write, payments) for _ in range(WRITERS)]

    def _write(self, payments):
        for _ in range(payments):
            payment, operation = self._accept(datetime.now(UTC))
            with self._owner.begin() as connection:
                append_event(
                    connection,
                    partner_id=PARTNER,
                    payment_id=payment.payment_id,
                    operation_id=operation.operation_id,
                    event_type=EventType.PAID,
                    payment=payment.as_json([operation]),
                    traceparent=None,
                    now=datetime.now(UTC),
                )

    def _accept(self, now):
        number = next(self._numbers)
        payment = Payment(
            payment_id=new_id("pay", now),
            partner_id=PARTNER,
            external_id=f"INV-{number}",
            status=PaymentStatus.ACCEPTED,
            currency="EUR",
            amount_minor=1250,
            captured_minor=0,
            refunded_minor=0,
            capture="automatic",
            requested_execution_date=None,
            created_at=now,
            updated_at=now,
        )
        operation = Operation(
            operation_id=new_id("op", now),
            kind=OperationKind.PAYMENT,
            status=OperationStatus.ACCEPTED,
            amount=Money(1250, "EUR"),
            created_at=now,
            sap_document=None,
            failure=None,
            completed_at=None,
        )
        new = NewPayment(
            payment=payment,
            operation=operation,
            idempotency_key=f"key-{number}",
            fingerprint=b"f" * 32,
            sap_system=LANE,
            company_code="1000",
            time_zone="Europe/Berlin",
            encrypted_parties=None,
            metadata={},
            receipt="receipt",
            event_id=new_id("evt", now),
            not_before=now,
            traceparent=None,
        )
        with self._gateway.connect() as connection:
            assert accept(connection, new)
        return payment, operation


class Reader:
    """A partner that polls: what it has seen, in the order it saw it."""

    def __init__(self, engine):
        self._engine = engine
        self.seen = []

    def read_until(self, count, *, meanwhile=lambda: None):
        def has_seen_all():
            after = self.seen[-1].sequence if self.seen else 0
            with self._engine.begin() as connection:
                self.seen.extend(feed_page(connection, PARTNER, after=after, limit=PAGE_EVENTS))
            meanwhile()
            return len(self.seen) >= count

        wait_until(has_seen_all, what=f"{count} events in the feed")

    def check(self, count):
        """Each event once, in order without a gap, `accepted` before `paid` for each payment."""
        assert [event.sequence for event in self.seen] == list(range(1, count + 1))
        assert len({event.event_id for event in self.seen}) == count
        by_payment = defaultdict(list)
        for event in self.seen:
            by_payment[event.data["payment"]["id"]].append(event.event_type)
        assert len(by_payment) == count // 2
        assert all(types == EVENTS_OF_A_PAYMENT for types in by_payment.values())


def test_the_feed_is_whole_though_a_dispatcher_is_killed_and_grows_without_the_broker(
    owner, gateway, emulator, dispatchers
):
    reader = Reader(owner)
    writing = Writing(owner, gateway)
    killed_at = []

    def kill_one_half_way():
        if not killed_at and len(reader.seen) >= EVENTS // 2:
            dispatchers[0].kill()  # SIGKILL
            killed_at.append(len(reader.seen))

    with ThreadPoolExecutor(WRITERS) as pool:
        writers = writing.start(pool, PAYMENTS_OF_A_WRITER)
        reader.read_until(EVENTS, meanwhile=kill_one_half_way)
        assert all(writer.result() is None for writer in writers)
        reader.check(EVENTS)
        assert killed_at[0] < EVENTS, "it was killed when all was done"
        assert dispatchers[1].poll() is None
        assert emulator.pull(EVENTS_TOPIC, 1)  # they have been publishing all the while

        emulator.kill()
        for writer in writing.start(pool, PAYMENTS_WITHOUT_BROKER):
            writer.result()
        reader.read_until(EVENTS + EVENTS_WITHOUT_BROKER)
    reader.check(EVENTS + EVENTS_WITHOUT_BROKER)
