"""Statements that are parsed and planned once per connection, and cost one round trip each time after that.

pg8000 sends a statement of SQLAlchemy's in three round trips and parses its text in Python each time; that
is most of what a short statement costs. Here it is prepared under a name at its first use on a connection of
the pool, and from then on only bound and executed.
https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY
"""

import re
from collections.abc import Mapping
from typing import Any, cast

from pg8000 import InterfaceError
from pg8000.converters import make_params
from pg8000.exceptions import Error as DriverError
from sqlalchemy import Connection, TextClause
from sqlalchemy.exc import DBAPIError

# as SQLAlchemy's text(): a colon and a name, but no cast and no escaped colon
_PARAMETER = re.compile(r"(?<![:\w\\]):(\w+)(?!:)")


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
            name, columns, readers = plan
            found: list[list[Any]] = driver.execute_named(name, values, columns, readers, self._sql).rows
        except (DriverError, OSError) as error:
            raise self._wrapped(connection, error) from error
        return found

    def _wrapped(self, connection: Connection, error: Exception) -> DBAPIError:
        # the driver lets some errors of the socket through as they are
        original = InterfaceError("network error") if isinstance(error, OSError) else error
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


def _begin(connection: Connection, driver: Any) -> None:
    """Begin what SQLAlchemy and the driver would have begun at their own first statement."""
    if not connection.in_transaction():
        connection.begin()
    if not driver._in_transaction:  # noqa: SLF001 - the driver has no public name for it
        driver.execute_simple("begin transaction")
