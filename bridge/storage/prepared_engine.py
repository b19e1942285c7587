"""An engine whose statements are prepared where they are first used, and cost one round trip from then on.

For services whose statements are a fixed set: pg8000 would scan each one's text in Python every time, and
have it parsed and planned by the server, in three round trips. What begins a transaction goes with its first
statement. `bridge.storage.prepared` leaves SQLAlchemy out as well, statement by statement.
https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY
"""

import time
from collections.abc import Sequence
from typing import Any, cast
from weakref import WeakKeyDictionary

from pg8000 import IntegrityError, ProgrammingError
from pg8000.converters import make_params
from pg8000.dbapi import convert_paramstyle
from pg8000.exceptions import DatabaseError
from sqlalchemy import Engine, event

from bridge.storage.failures import UNIQUE_VIOLATION
from bridge.storage.prepared import Plan, execution_of, is_out_of_date, out_of_date_error, run

# a connection that has rested for longer is asked whether it lives before it is used (as HikariCP does)
TRUSTED_REST_SECONDS = 0.5
# further statements are run as the driver does
MAX_STATEMENTS = 300
BEGIN, COMMIT = "begin transaction", "commit"
# A plan may be made while a table is empty and outlive that: it must use the indexes all the same. Before 18
# PostgreSQL does so by a cost of ten billion, at which it would compile the plan each time, and give it to
# several processes, wherever a table has to be read without an index: half a second for a handful of rows.
PLANNING = {"enable_seqscan": "off", "jit": "off", "max_parallel_workers_per_gather": "0"}


class PreparedStatements:
    """The statements of one engine's connections."""

    def __init__(self) -> None:
        self._plans: WeakKeyDictionary[Any, dict[str, Plan]] = WeakKeyDictionary()
        self._converted: dict[str, str] = {}

    def execute(self, cursor: Any, statement: str, parameters: Sequence[Any]) -> None:
        """Do what the driver's cursor does at `execute`, for SQLAlchemy's dialect."""
        driver = cursor._c  # noqa: SLF001 - its public name warns
        plans = self._plans.setdefault(driver, {})
        if not parameters or (statement not in plans and len(plans) >= MAX_STATEMENTS):
            cursor.execute(statement, parameters)
            return
        try:
            plan = self._plan(driver, plans, statement)
            messages = [execution_of(plan, make_params(driver.py_types, parameters))]
            if not driver.autocommit and not driver._in_transaction:  # noqa: SLF001 - no public name
                messages.insert(0, execution_of(self._plan(driver, plans, BEGIN), ()))
            done = run(driver, plan, messages, statement)
        except DatabaseError as error:
            raise _as_the_cursor_does(error) from error
        cursor._context = done  # noqa: SLF001 - what its own `execute` sets
        cursor._row_iter = iter(done.rows or ())  # noqa: SLF001 - as above

    def commit(self, proxied: Any) -> None:
        """Do what the driver's connection does at `commit`, in one round trip of three."""
        # The pool wraps the connection at each checkout; the prepared plans belong to the connection inside.
        driver = proxied.dbapi_connection
        if not driver._in_transaction:  # noqa: SLF001 - no public name
            return
        try:
            plan = self._plan(driver, self._plans.setdefault(driver, {}), COMMIT)
            run(driver, plan, [execution_of(plan, ())], COMMIT)
        except DatabaseError as error:
            raise _as_the_cursor_does(error) from error

    def _plan(self, driver: Any, plans: dict[str, Plan], statement: str) -> Plan:
        if statement not in plans:
            plans[statement] = driver.prepare_statement(self._sql(statement), ())
        return plans[statement]

    def _sql(self, statement: str) -> str:
        """Number the parameters, which takes the driver long."""
        if statement not in self._converted:
            self._converted[statement] = convert_paramstyle("format", statement, ())[0]
        return self._converted[statement]


def prepare_statements(engine: Engine) -> None:
    """Have the engine's statements prepared, and a connection that was just used trusted to be alive."""
    statements = PreparedStatements()
    rests_since: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
    ping = engine.dialect.do_ping

    def execute(cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:  # noqa: ARG001 - SQLAlchemy's signature
        statements.execute(cursor, statement, parameters)

    def ping_after_rest(driver: Any) -> bool:
        rested = time.monotonic() - rests_since.get(driver, 0.0)
        return rested <= TRUSTED_REST_SECONDS or ping(driver)

    @event.listens_for(engine, "checkin")
    def rest(driver: Any, _record: Any) -> None:
        if driver is not None:
            rests_since[driver] = time.monotonic()

    engine.dialect.do_execute = execute  # type: ignore[method-assign]
    engine.dialect.do_commit = statements.commit  # type: ignore[method-assign, assignment]
    engine.dialect.do_ping = ping_after_rest  # type: ignore[method-assign, assignment]


def _as_the_cursor_does(error: DatabaseError) -> Exception:
    """Return the kind of error that the driver's cursor makes of the connection's."""
    if is_out_of_date(error):
        return cast("Exception", out_of_date_error())
    fields = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    is_duplicate = fields.get("C") == UNIQUE_VIOLATION
    kind: type[Exception] = IntegrityError if is_duplicate else ProgrammingError
    return kind(*error.args)
