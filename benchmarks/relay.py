"""The relay beside its ceilings: the same publish RPCs without a database, and a peer's dequeue."""

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import create_engine, event, make_url, text

from benchmarks.payments import PARTNER_ID, new_payment
from benchmarks.stage import PEER_DATABASE, PROJECT, Stage
from bridge.clock import SystemClock
from bridge.gcp.pubsub import PubSubPublisher
from bridge.ids import new_id
from bridge.messages import EVENTS_TOPIC, EventMessage, OperationMessage
from bridge.storage.accept import accept, make_statement_engine
from bridge.storage.engine import DatabaseSettings, make_engine
from devstack.logins import login_of, url_as
from dispatcher.app import Dispatcher
from dispatcher.relay import EventsRelay, RelaySettings
from dispatcher.settings import Settings

BATCH_MESSAGES = 1000
PUBLISH_SECONDS = 5.0
# as in the dispatcher: one claims while the other publishes
RELAY_THREADS = 2
IDLE_WARM_UP_SECONDS = 3.0
SETTINGS = RelaySettings(lease_seconds=10.0, max_batch=BATCH_MESSAGES)

ADD_EVENTS = text("""
    /* events of one payment that have their place in the feed and wait to be relayed */
    WITH new AS (
        INSERT INTO events (event_id, partner_id, payment_id, event_type, data, created_at)
        SELECT :prefix || lpad(CAST(number AS text), 10, '0'), :partner_id, :payment_id, 'payment.accepted',
               '{"payment": {}}', :now
        FROM generate_series(1, CAST(:count AS integer)) AS number
        RETURNING event_id
    )
    INSERT INTO outbox (lane, partner_id, event_id, sequence, not_before, created_at)
    SELECT 'events', :partner_id, event_id, row_number() OVER (), :now, :now FROM new
""")


class RelayBench:
    """On a stage whose broker has the events topic without a subscription."""

    def __init__(self, stage: Stage, broker: str) -> None:
        self._stage = stage
        self._broker = broker
        self._owner = create_engine(stage.postgres.url())
        settings = DatabaseSettings(url_as(stage.postgres.url(), login_of("dispatcher")), None, None, None)
        self._engine = make_engine(settings, pool_size=4, application_name="bench-relay", prepared=True)
        self._publisher = PubSubPublisher(PROJECT, emulator_host=broker, timeout_seconds=PUBLISH_SECONDS)
        self._payment_id = self._accept()
        self._rounds = 0

    def bare_per_second(self, count: int) -> float:
        """Publish that many messages in the relay's batches, without a database."""
        event_id = new_id("evt", SystemClock().now())
        started = time.perf_counter()
        for first in range(0, count, BATCH_MESSAGES):
            messages = [
                EventMessage(event_id, PARTNER_ID, first + number) for number in range(BATCH_MESSAGES)
            ]
            self._publisher.publish(EVENTS_TOPIC, messages)
        return count / (time.perf_counter() - started)

    def relay_per_second(self, count: int) -> float:
        """Let the relay publish that many rows of the outbox."""
        self._rounds += 1
        with self._owner.begin() as connection:
            connection.execute(
                ADD_EVENTS,
                {
                    "prefix": f"evt_{self._rounds:06}",
                    "partner_id": PARTNER_ID,
                    "payment_id": self._payment_id,
                    "count": count,
                    "now": SystemClock().now(),
                },
            )
        with self._owner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE outbox"))
        relay = EventsRelay(self._engine, self._publisher, SystemClock(), SETTINGS)

        def go_rounds(_number: int) -> None:
            while relay.go_round().again:
                pass

        started = time.perf_counter()
        with ThreadPoolExecutor(RELAY_THREADS) as threads:
            list(threads.map(go_rounds, range(RELAY_THREADS)))
        taken = time.perf_counter() - started
        with self._owner.connect() as connection:
            left = connection.execute(text("SELECT count(*) FROM outbox WHERE lane = 'events'")).scalar()
        if left:
            raise RuntimeError(f"{left} events were not relayed")
        return count / taken

    def peer_per_second(self, count: int) -> float:
        """Let PgQueuer dequeue that many jobs that do nothing, by its fastest driver."""
        return asyncio.run(_dequeue(self._stage, count))

    def close(self) -> None:
        self._publisher.close()
        self._engine.dispose()
        self._owner.dispose()

    def _accept(self) -> str:
        settings = DatabaseSettings(url_as(self._stage.postgres.url(), login_of("gateway")), None, None, None)
        engine = make_statement_engine(settings, pool_size=1, application_name="bench-relay")
        new = new_payment("relay", 0)
        with engine.connect() as connection:
            accept(connection, new)
        engine.dispose()
        with self._owner.begin() as connection:
            connection.execute(text("DELETE FROM outbox"))
            connection.execute(text("UPDATE operations SET status = 'cancelled', completed_at = created_at"))
        return new.payment.payment_id


async def _dequeue(stage: Stage, count: int) -> float:
    import asyncpg  # noqa: PLC0415 - the group `bench` is installed by its targets only
    from pgqueuer import QueueManager  # noqa: PLC0415 - as above
    from pgqueuer.db import AsyncpgDriver  # noqa: PLC0415 - as above
    from pgqueuer.queries import Queries  # noqa: PLC0415 - as above
    from pgqueuer.types import QueueExecutionMode  # noqa: PLC0415 - as above

    url = make_url(stage.postgres.url(PEER_DATABASE))
    connection = await asyncpg.connect(host=url.host, port=url.port, user=url.username, database=url.database)
    try:
        queries = Queries(AsyncpgDriver(connection))
        manager = QueueManager(queries)

        @manager.entrypoint("payment")
        async def payment(_job: object) -> None:
            """Do nothing."""

        await queries.enqueue(["payment"] * count, [b"{}"] * count, [0] * count)
        started = time.perf_counter()
        await manager.run(batch_size=BATCH_MESSAGES, mode=QueueExecutionMode.drain)
        return count / (time.perf_counter() - started)
    finally:
        await connection.close()


def idle_statements_per_second(stage: Stage, seconds: float) -> float:
    """Let a dispatcher run with nothing to do and count what it asks the database."""
    environment = {
        "DATABASE_URL": url_as(stage.postgres.url(), login_of("dispatcher")),
        "GOOGLE_CLOUD_PROJECT": PROJECT,
    }
    settings = Settings.from_environment(environment)
    engine = make_engine(settings.database, pool_size=8, application_name="bench-idle", prepared=True)
    stop, statements = threading.Event(), []
    dispatcher = Dispatcher(settings, engine, NobodyPublishes(), SystemClock(), stop)
    thread = threading.Thread(target=dispatcher.run)
    thread.start()
    try:
        time.sleep(IDLE_WARM_UP_SECONDS)
        event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
        time.sleep(seconds)
        return len(statements) / seconds
    finally:
        stop.set()
        thread.join()
        engine.dispose()


class NobodyPublishes:
    """There is nothing to publish while idle."""

    def publish(self, topic: str, messages: Sequence[OperationMessage | EventMessage]) -> None:
        raise RuntimeError(f"{len(messages)} messages for {topic} while idle")
