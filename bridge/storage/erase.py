"""Erase what retention no longer keeps: `python -m bridge.storage.erase` (a job in production, once a day).

Settings: those of bridge.storage.engine, REFUND_WINDOW_DAYS (the gateway's: until then a payment can be
refunded), ERASE_AFTER_DAYS (counted from there) and FEED_RETENTION_DAYS. It commits page by page and may be
killed, started again or run twice at once. Prints one JSON line with what was erased.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine

from bridge.clock import Clock
from bridge.environment import only_check, whole
from bridge.errors import SettingsError
from bridge.storage.database_clock import DatabaseClock
from bridge.storage.engine import DatabaseSettings, make_engine, wait_for_database
from bridge.storage.feed_retention import delete_oldest, partners_with_feed
from bridge.storage.retention import BEFORE_THE_FIRST, erase_page, forget_assertions

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
    """How many rows. `finished` is false when the job's limit came first: the next run goes on."""

    payments: int = 0
    operations: int = 0
    client_assertions: int = 0
    feed_rows: int = 0
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
    """Erase everything that is due now, a page per transaction."""
    now = clock.now()
    payments = operations = 0
    after: str | None = BEFORE_THE_FIRST
    for _ in range(max_transactions):
        if after is None:
            break
        with engine.begin() as connection:
            page = erase_page(
                connection, accepted_until=now - keep_payments, after=after, limit=per_transaction
            )
        payments += page.payments
        operations += page.operations
        after = page.last_payment_id
    assertions = 0
    for _ in range(max_transactions):
        with engine.begin() as connection:
            forgotten = forget_assertions(connection, now=now, limit=ASSERTIONS_PER_TRANSACTION)
        assertions += forgotten
        if forgotten == 0:
            break
    feed_rows, feeds_finished = _shorten_feeds(engine, now - keep_feed, per_transaction, max_transactions)
    return Erased(payments, operations, assertions, feed_rows, finished=after is None and feeds_finished)


def _shorten_feeds(
    engine: Engine, written_until: datetime, per_transaction: int, max_transactions: int
) -> tuple[int, bool]:
    """Delete old rows of all feeds; return how many, and whether the limit left none."""
    deleted, last_partner = 0, BEFORE_THE_FIRST
    for _ in range(max_transactions):
        with engine.begin() as connection:
            partners = partners_with_feed(connection, after=last_partner, limit=PARTNERS_PER_PAGE)
        for partner_id in partners:
            rows = _shorten_feed(engine, partner_id, written_until, per_transaction, max_transactions)
            deleted += rows
            if rows == per_transaction * max_transactions:
                return deleted, False
        if len(partners) < PARTNERS_PER_PAGE:
            return deleted, True
        last_partner = partners[-1]
    return deleted, False


def _shorten_feed(
    engine: Engine, partner_id: str, written_until: datetime, per_transaction: int, max_transactions: int
) -> int:
    deleted = 0
    for _ in range(max_transactions):
        with engine.begin() as connection:
            rows = delete_oldest(connection, partner_id, written_until=written_until, limit=per_transaction)
        deleted += rows
        if rows < per_transaction:
            break
    return deleted


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
    return 0


if __name__ == "__main__":
    sys.exit(main())
