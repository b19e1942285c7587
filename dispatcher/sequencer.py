"""Gives every partner's new events their numbers in the feed, whether or not anything can be published."""

import time
from collections.abc import Callable

from sqlalchemy import Engine

from bridge.storage.feed import partners_to_sequence, sequence_events
from bridge.storage.restores import may_decide
from bridge.storage.setbacks import Setbacks
from dispatcher.worker import Round

MAX_PARTNERS = 100
MAX_EVENTS = 500
# Under load one round numbers the events of this time; a lone event is not delayed by it.
PAUSE_SECONDS = 0.025
# Another transaction holds a partner's counter: it numbers the events itself, or is about to let go.
BUSY_SECONDS = 0.05
_FIRST = ""
# How often to look whether the recovery after a restore is over.
RECOVERY_SECONDS = 5.0


class Sequencer:
    """`sequenced` is called after each partner whose events got numbers: they can be relayed now.

    A round takes a page of the partners that have new events and the next round goes on behind it, so that
    busy partners keep nobody waiting. Used by one thread.
    """

    def __init__(
        self, engine: Engine, sequenced: Callable[[], None], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._sequenced = sequenced
        self._setbacks = Setbacks("sequencer", monotonic)
        self._after = _FIRST

    def go_round(self) -> Round:
        """Number what is new, one partner in one transaction; one that fails or is locked stops no other."""
        began_after = self._after
        with self._engine.begin() as connection:
            if not may_decide(connection):
                return Round(next_seconds=RECOVERY_SECONDS)
            partners = partners_to_sequence(connection, after=began_after, limit=MAX_PARTNERS)
        is_last_page = len(partners) < MAX_PARTNERS
        # what is before the page that this round began with, or behind it
        is_more = began_after != _FIRST if is_last_page else True
        is_busy = False
        is_idle = all(self._setbacks.rests(partner_id) for partner_id in partners)
        for partner_id in partners:
            # before it is tried: whatever it raises, the next round begins behind it
            self._after = partner_id
            if self._setbacks.rests(partner_id):
                continue
            with self._setbacks.contained(partner_id):
                count = self._sequence(partner_id)
                is_more = is_more or count == MAX_EVENTS
                is_busy = is_busy or count is None
        if is_last_page:
            self._after = _FIRST
        if is_more and not is_idle:
            return Round(again=True)
        return Round(pause_seconds=PAUSE_SECONDS, next_seconds=BUSY_SECONDS if is_busy or is_more else None)

    def _sequence(self, partner_id: str) -> int | None:
        with self._engine.begin() as connection:
            count = sequence_events(connection, partner_id, limit=MAX_EVENTS)
        if count:
            self._sequenced()
        return count
