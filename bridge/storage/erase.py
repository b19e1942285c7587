"""Erase what retention no longer keeps: `python -m bridge.storage.erase` (a job in production, once a day).

Settings: those of bridge.storage.engine, REFUND_WINDOW_DAYS (the gateway's: until then a payment can be
refunded), ERASE_AFTER_DAYS (counted from there) and FEED_RETENTION_DAYS. It commits page by page and may be
killed, started again or run twice at once. Prints one JSON line with what was erased.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Engine

from bridge.clock import Clock
from bridge.environment import only_check, whole
from bridge.errors import SettingsError
from bridge.storage.database_clock import DatabaseClock
from bridge.storage.engine import DatabaseSettings, make_engine, wait_for_database
from bridge.storage.feed_retention import delete_oldest, partners_with_feed
from bridge.storage.retention import (
    BEFORE_THE_FIRST,
    ErasedPage,
    erase_page,
    erase_passed,
    forget_assertions,
    next_page,
    pass_page,
    passed_page,
)
from bridge.storage.setbacks import Setbacks

PAYMENTS_PER_TRANSACTION = 500
ASSERTIONS_PER_TRANSACTION = 1_000
PARTNERS_PER_PAGE = 1_000
MAX_TRANSACTIONS = 100_000
# Webhooks are tried for days: the feed is where a partner finds what it has missed of them.
MIN_FEED_DAYS = 7


@dataclass(frozen=True, slots=True)
class Settings:
    """`keep_payments`: how long after acceptance names, accounts, texts and the receipt are kept.

    `keep_feed`: how long events are in the feed.
    """

    database: DatabaseSettings
    keep_payments: timedelta
    keep_feed: timedelta

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the environment; SettingsError names the first variable that is wrong."""
        days = whole(environ, "REFUND_WINDOW_DAYS", 400, at_most=3650) + whole(
            environ, "ERASE_AFTER_DAYS", 30, at_most=3650
        )
        feed_days = whole(environ, "FEED_RETENTION_DAYS", 90, at_most=3650)
        if feed_days < MIN_FEED_DAYS:
            raise SettingsError(f"FEED_RETENTION_DAYS is below {MIN_FEED_DAYS}")
        return cls(
            DatabaseSettings.from_environment(environ), timedelta(days=days), timedelta(days=feed_days)
        )


@dataclass(frozen=True, slots=True)
class Erased:
    """How many rows. `finished` is false when the job's limit came first: the next run goes on there.

    `failures`: pages, payments and feeds that failed and were passed; the next run tries them again.
    """

    payments: int = 0
    operations: int = 0
    client_assertions: int = 0
    feed_rows: int = 0
    failures: int = 0
    finished: bool = True


def erase_all(
    engine: Engine,
    clock: Clock,
    *,
    keep_payments: timedelta,
    keep_feed: timedelta,
    per_transaction: int = PAYMENTS_PER_TRANSACTION,
    max_transactions: int = MAX_TRANSACTIONS,
) -> Erased:
    """Erase everything that is due now, a page per transaction. One that fails stops only itself."""
    now = clock.now()
    run = _Run(engine, Setbacks("erase", clock.monotonic), per_transaction, max_transactions)
    run.retry_passed(now - keep_payments)
    run.walk_payments(now - keep_payments)
    run.forget_assertions(now)
    run.shorten_feeds(now - keep_feed)
    return run.erased


class _Run:
    """One run of the job, and what it has come to."""

    def __init__(
        self, engine: Engine, setbacks: Setbacks, per_transaction: int, max_transactions: int
    ) -> None:
        self._engine = engine
        self._setbacks = setbacks
        self._per_transaction = per_transaction
        self._max_transactions = max_transactions
        self.erased = Erased()

    def retry_passed(self, accepted_until: datetime) -> None:
        """Try again what earlier runs had to pass; each alone, as some may fail."""
        after = BEFORE_THE_FIRST
        for _ in range(self._max_transactions):
            with self._engine.begin() as connection:
                page = passed_page(connection, after=after, limit=self._per_transaction)
            for payment_id in page:
                with self._contained(payment_id), self._engine.begin() as connection:
                    self._count(erase_passed(connection, [payment_id], accepted_until=accepted_until))
            if len(page) < self._per_transaction:
                return
            after = page[-1]
        self.erased = replace(self.erased, finished=False)

    def walk_payments(self, accepted_until: datetime) -> None:
        """Go on with the walk through the payments, from the oldest on."""
        limit = self._per_transaction
        for _ in range(self._max_transactions):
            page = None
            with self._contained("page of payments"), self._engine.begin() as connection:
                page = erase_page(connection, accepted_until=accepted_until, limit=limit)
            if page is None:
                with self._engine.begin() as connection:
                    passed = next_page(connection, accepted_until=accepted_until, limit=limit)
                    pass_page(connection, passed)
                page = ErasedPage(0, 0, is_last=len(passed) < limit)
            self._count(page)
            if page.is_last:
                return
        self.erased = replace(self.erased, finished=False)

    def forget_assertions(self, now: datetime) -> None:
        """Forget client assertions that have expired; those that are locked the next run forgets."""
        for _ in range(self._max_transactions):
            with self._engine.begin() as connection:
                forgotten = forget_assertions(connection, now=now, limit=ASSERTIONS_PER_TRANSACTION)
            self.erased = replace(self.erased, client_assertions=self.erased.client_assertions + forgotten)
            if forgotten == 0:
                return

    def shorten_feeds(self, written_until: datetime) -> None:
        """Delete old rows of all feeds. A partner with too many for one run stops nobody else."""
        after = BEFORE_THE_FIRST
        while True:
            with self._engine.begin() as connection:
                partners = partners_with_feed(connection, after=after, limit=PARTNERS_PER_PAGE)
            for partner_id in partners:
                with self._contained(partner_id):
                    self._shorten_feed(partner_id, written_until)
            if len(partners) < PARTNERS_PER_PAGE:
                return
            after = partners[-1]

    def _shorten_feed(self, partner_id: str, written_until: datetime) -> None:
        for _ in range(self._max_transactions):
            with self._engine.begin() as connection:
                rows = delete_oldest(
                    connection, partner_id, written_until=written_until, limit=self._per_transaction
                )
            self.erased = replace(self.erased, feed_rows=self.erased.feed_rows + rows)
            if rows < self._per_transaction:
                return
        self.erased = replace(self.erased, finished=False)

    def _count(self, page: ErasedPage) -> None:
        self.erased = replace(
            self.erased,
            payments=self.erased.payments + page.payments,
            operations=self.erased.operations + page.operations,
        )

    @contextmanager
    def _contained(self, item: str) -> Iterator[None]:
        with self._setbacks.contained(item):
            yield
            return
        self.erased = replace(self.erased, failures=self.erased.failures + 1)


def main() -> int:
    """Erase in the database that the environment names."""
    try:
        settings = Settings.from_environment(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"erase: {error}\n")
        return 2
    if only_check(sys.argv):
        return 0
    clock = DatabaseClock()
    engine = make_engine(settings.database, pool_size=1, application_name="erase", clock=clock)
    try:
        wait_for_database(engine)
        erased = erase_all(engine, clock, keep_payments=settings.keep_payments, keep_feed=settings.keep_feed)
    finally:
        engine.dispose()
    sys.stdout.write(json.dumps(asdict(erased)) + "\n")
    return 1 if erased.failures else 0


if __name__ == "__main__":
    sys.exit(main())
