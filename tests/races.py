"""Requests at once, on real connections: seeing that one waits for a lock, and starting many together."""

import threading
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import text
from waiting import DEADLINE_SECONDS, wait_until

WAITING = text("""
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
""")


class InBackground:
    """A call in a thread of its own."""

    def __init__(self, engine, call):
        self._engine = engine
        self._pool = ThreadPoolExecutor(1)
        self._future = self._pool.submit(call)

    def wait_until_blocked(self):
        def blocked():
            with self._engine.connect() as connection:
                return connection.execute(WAITING).scalars().all()

        return wait_until(blocked, what="a connection waiting for a lock")[0]

    def result(self):
        try:
            return self._future.result(DEADLINE_SECONDS)
        finally:
            self._pool.shutdown()


def at_once(*calls):
    """Start all calls together and return their results in order."""
    barrier = threading.Barrier(len(calls))

    def one(call):
        barrier.wait(DEADLINE_SECONDS)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(one, calls))
