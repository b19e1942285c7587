"""The high-water mark: what is kept outside of the database, so that an old database is known as old.

The database proposes marks, one serial after the other, each with a token of its own, and commits a proposal
before it is written outside. The true database therefore knows every token that can stand there. A database
that was put back to an earlier state does not know the tokens that were proposed since.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class HighWaterMark:
    """One mark as it stands outside.

    `database_id` is the database that proposed it; `epoch` counts the recoveries after which another history
    took the mark over; `proposed_at` is the database's time: everything up to then is behind the mark.
    """

    database_id: str
    serial: int
    token: str
    epoch: int
    proposed_at: datetime


@dataclass(frozen=True, slots=True)
class StandingMark:
    """A mark as it was read; `version` is the store's own, and changes with every write."""

    mark: HighWaterMark
    version: object


class Suspicion(StrEnum):
    """Why a database may not decide anything before it is recovered."""

    BEHIND = "behind"
    ANOTHER_DATABASE = "another-database"
    MARK_MISSING = "mark-missing"


@dataclass(frozen=True, slots=True)
class MarksOfDatabase:
    """What the database knows of its marks.

    `serial` is that of the newest proposal, `noted_serial` of the newest that is known to stand outside.
    `tokens` are those that may stand there: the noted one, and those proposed since, in order.
    `is_compared`: this very database has been compared since PostgreSQL started. `takes_over`: a recovery
    has ended since PostgreSQL started, and the mark has not followed yet.
    """

    database_id: str
    serial: int
    noted_serial: int
    tokens: tuple[str, ...]
    is_compared: bool
    takes_over: bool

    def suspicion(self, mark: HighWaterMark | None, *, may_forget: bool = False) -> Suspicion | None:
        """Compare with the mark as it stood before this was read; None: the database is the newest there is.

        A mark that is older than what the database has noted was put back itself, and says nothing against
        the database. A mark that has gone says nothing against a database that was compared with it, nor
        where what keeps it forgets (`may_forget`: the emulator, when it starts).
        """
        if self.takes_over:
            return None
        if mark is None:
            is_explained = self.is_compared or may_forget or self.serial == 0
            return None if is_explained else Suspicion.MARK_MISSING
        if mark.database_id != self.database_id:
            return Suspicion.ANOTHER_DATABASE
        is_known = mark.token in self.tokens or mark.serial < self.noted_serial
        return None if is_known else Suspicion.BEHIND
