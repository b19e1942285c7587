"""What every bounded loop of the services is held to: a small world for each, and the rounds it may take.

A loop that takes a page of what waits must not begin at the same end each time, and one item that is locked
or fails must stop nobody else. integration/test_bounded_loops.py has one subclass per loop, and the checks.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, text

# More than two pages and a bit, of the smallest page that still has a middle.
BOUND = 3
ITEMS = 2 * BOUND + 1

REFUSE = text("""
    CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF to_jsonb(coalesce(NEW, OLD)) ->> TG_ARGV[0] = TG_ARGV[1] THEN
            RAISE EXCEPTION 'planted by a test';
        END IF;
        RETURN coalesce(NEW, OLD);
    END $$
""")


def rounds_for(items: int, bound: int = BOUND) -> int:
    """How many rounds may pass until each of so many items has had its turn."""
    return math.ceil(items / bound) + 1


class BoundedLoop(ABC):
    """One loop over items that are known by a key, of which a round takes BOUND.

    `owner` is the engine of the database's owner. `table` and `key`: the rows whose lock, or whose failing
    update or insert, stands in the way of an item.
    """

    table: str
    key: str
    # whether one item can fail alone: a statement that takes a page of rows fails or succeeds as a whole
    can_fail = True

    def __init__(self, owner: Engine) -> None:
        self.owner = owner

    @abstractmethod
    def add_items(self) -> list[str]:
        """Make ITEMS items that wait, the one that the loop meets first at the front."""

    @abstractmethod
    def go_round(self) -> None:
        """One round of the loop, as the service does it."""

    @abstractmethod
    def served(self) -> set[str]:
        """The items that have had their turn since `add_items`."""

    @abstractmethod
    def keep_busy(self, items: list[str]) -> None:
        """Give these items, which have had their turn, more to do: for as long as the loop's work lasts."""

    @abstractmethod
    def settle(self) -> None:
        """Let the time pass for which a failed item rests."""

    @contextmanager
    def locked(self, item: str) -> Iterator[None]:
        """Hold the item's row in another transaction."""
        with self.owner.connect() as holder:
            row = f"SELECT {self.key} FROM {self.table} WHERE {self.key} = :item FOR UPDATE"
            found = holder.execute(text(row), {"item": item})
            assert found.all(), "there is nothing to lock"
            yield
            holder.rollback()

    @contextmanager
    def refused(self, item: str) -> Iterator[None]:
        """Have every change of the item's row fail."""
        with self.owner.begin() as connection:
            connection.execute(REFUSE)
            connection.execute(
                text(
                    f"CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE ON {self.table}"
                    f" FOR EACH ROW EXECUTE FUNCTION refuse('{self.key}', '{item}')"
                )
            )
        try:
            yield
        finally:
            with self.owner.begin() as connection:
                connection.execute(text(f"DROP TRIGGER refuse ON {self.table}"))
