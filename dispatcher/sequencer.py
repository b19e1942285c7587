"""Gives every partner's new events their numbers in the feed, whether or not anything can be published."""

from collections.abc import Callable

from sqlalchemy import Engine

from bridge.storage.feed import partners_to_sequence, sequence_events
from dispatcher.worker import Round

MAX_PARTNERS = 100
MAX_EVENTS = 500
# Under load one round numbers the events of this time; a lone event is not delayed by it.
PAUSE_SECONDS = 0.025


class Sequencer:
    """`sequenced` is called after each partner whose events got numbers: they can be relayed now."""

    def __init__(self, engine: Engine, sequenced: Callable[[], None]) -> None:
        self._engine = engine
        self._sequenced = sequenced

    def go_round(self) -> Round:
        """Number what is new, one partner in one transaction."""
        with self._engine.begin() as connection:
            partners = partners_to_sequence(connection, limit=MAX_PARTNERS)
        counts = [self._sequence(partner_id) for partner_id in partners]
        if len(partners) == MAX_PARTNERS or MAX_EVENTS in counts:
            return Round(again=True)
        return Round(pause_seconds=PAUSE_SECONDS)

    def _sequence(self, partner_id: str) -> int:
        with self._engine.begin() as connection:
            count = sequence_events(connection, partner_id, limit=MAX_EVENTS)
        if count:
            self._sequenced()
        return count
