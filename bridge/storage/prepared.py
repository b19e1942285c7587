"""Statements that are parsed and planned once per connection, and cost one round trip each time after that.

pg8000 sends a statement of SQLAlchemy's in three round trips and parses its text in Python each time; that
is most of what a short statement costs. Here it is prepared under a name at its first use on a connection of
the pool, and from then on only bound and executed.
https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY
"""

import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pg8000 import InterfaceError
from pg8000.converters import make_params
from pg8000.core import BIND, EXECUTE_MSG, SYNC_MSG, Context
from pg8000.exceptions import Error as DriverError
from sqlalchemy import Connection, TextClause
from sqlalchemy.exc import DBAPIError

# as SQLAlchemy's text(): a colon and a name, but no cast and no escaped colon
_PARAMETER = re.compile(r"(?<![:\w\\]):(\w+)(?!:)")
_INT32 = struct.Struct("!i")
# int16 of the messages' formats: no format codes, so that all parameters (all columns) are text
_ALL_TEXT = b"\x00\x00"
_UNNAMED_PORTAL = b"\x00"
_NULL = _INT32.pack(-1)
# what the tables of a plan have become since; a connection that has lost its statements
_REPLANNING, _UNKNOWN_STATEMENT = ("0A000", "RevalidateCachedQuery"), "26000"
# its name on the connection, the columns of its rows, what reads each of them
Plan = tuple[bytes, Any, Any]


class Prepared:
    """One statement with `:name` parameters, ready on every connection it has been run on."""

    def __init__(self, statement: TextClause) -> None:
        self._names: list[str] = []
        self._sql = _PARAMETER.sub(self._placeholder, statement.text)

    def _placeholder(self, match: re.Match[str]) -> str:
        if match[1] not in self._names:
            self._names.append(match[1])
        return f"${self._names.index(match[1]) + 1}"

    def rows(self, connection: Connection, parameters: Mapping[str, Any]) -> list[list[Any]]:
        """Run it in the connection's transaction, or on its own where the driver is in autocommit.

        Raises DBAPIError as SQLAlchemy does; a connection that broke is thrown away.
        """
        driver = cast("Any", connection.connection.dbapi_connection)
        try:
            if not driver.autocommit:
                _begin(connection, driver)
            plan = connection.info.get(self)
            if plan is None:
                plan = connection.info[self] = driver.prepare_statement(self._sql, ())
            values = make_params(driver.py_types, [parameters[name] for name in self._names])
            return cast("list[list[Any]]", run(driver, plan, [execution_of(plan, values)], self._sql).rows)
        except (DriverError, OSError) as error:
            raise self._wrapped(connection, error) from error

    def _wrapped(self, connection: Connection, error: Exception) -> DBAPIError:
        # the driver lets some errors of the socket through as they are
        original = InterfaceError("network error") if isinstance(error, OSError) else error
        if is_out_of_date(original):
            original = out_of_date_error()
        is_gone = connection.dialect.is_disconnect(original, None, None)  # type: ignore[arg-type]
        if is_gone:
            connection.invalidate(original)
        return cast(
            "DBAPIError",
            DBAPIError.instance(
                self._sql,
                None,
                original,
                DriverError,
                hide_parameters=True,
                connection_invalidated=is_gone,
                dialect=connection.dialect,
            ),
        )


def run(driver: Any, plan: Plan, messages: Sequence[bytes], sql: str) -> Context:
    """Send the messages and Sync at once, and read the answer, whose rows are those of `plan`.

    The driver's own way asks the server to flush after each of them. The answer then comes in three pieces,
    for each of which the thread wakes up, waits for the interpreter lock, and goes to sleep again.
    """
    _, columns, readers = plan
    if driver._sock is None:  # noqa: SLF001 - the driver has no public way to send a message
        raise InterfaceError("connection is closed")
    driver._sock.write(b"".join(messages) + SYNC_MSG)  # noqa: SLF001
    driver._sock.flush()  # noqa: SLF001
    context = Context(sql, columns=columns, input_funcs=readers)
    driver.handle_messages(context)
    return context


def is_out_of_date(error: Exception) -> bool:
    """Tell whether the server can't run a statement any more as it was prepared on this connection."""
    fields = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    return (fields.get("C"), fields.get("R")) == _REPLANNING or fields.get("C") == _UNKNOWN_STATEMENT


def out_of_date_error() -> InterfaceError:
    """Return an error as of a broken connection: it is thrown away, and whoever repeats has a new one."""
    return InterfaceError("network error: the connection's statements are out of date")


def execution_of(plan: Plan, values: Sequence[str | None]) -> bytes:
    """Return the messages that bind and execute it."""
    bound = _bound(plan[0], values)
    return b"".join((BIND, _INT32.pack(len(bound) + _INT32.size), bound, EXECUTE_MSG))


def _bound(name: bytes, values: Sequence[str | None]) -> bytes:
    """Return what the message Bind contains.

    https://www.postgresql.org/docs/current/protocol-message-formats.html
    """
    parts = [_UNNAMED_PORTAL, name, _ALL_TEXT, struct.pack("!H", len(values))]
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            raw = value.encode()
            parts.append(_INT32.pack(len(raw)))
            parts.append(raw)
    parts.append(_ALL_TEXT)
    return b"".join(parts)


def _begin(connection: Connection, driver: Any) -> None:
    """Begin what SQLAlchemy and the driver would have begun at their own first statement."""
    if not connection.in_transaction():
        connection.begin()
    if not driver._in_transaction:  # noqa: SLF001 - the driver has no public name for it
        driver.execute_simple("begin transaction")
