"""Partners take turns: a partner's waiting deliveries get their tasks as its places become free."""

from dataclasses import replace
from datetime import timedelta

from sqlalchemy import Connection, Engine

from bridge.clock import Clock
from bridge.storage import webhook_turns
from bridge.storage.transactions import single_statements
from bridge.storage.webhook_turns import Turn
from webhooks.shares import Shares
from webhooks.tasks import DeliveryTask, DeliveryTasks, tasks_for


class Turns:
    """`lost_after_seconds`: a task that is late by so much is taken for lost, and holds no place any more."""

    def __init__(
        self, engine: Engine, tasks: DeliveryTasks, shares: Shares, clock: Clock, *, lost_after_seconds: float
    ) -> None:
        self._engine = engine
        self._tasks = tasks
        self._shares = shares
        self._clock = clock
        self._lost_after = timedelta(seconds=lost_after_seconds)

    def call(self, turn: Turn) -> bool:
        """Make the tasks of those whose turn it is; False if the queue can't be reached.

        Endpoints without room in this process are left out: their tasks would come for nothing.
        """
        return self._tasks.create(self._take(turn))

    def call_refused(self) -> None:
        """Call one of those that have found no worker among those that slow endpoints share, if one is free.

        What a partner was refused for may have been sent meanwhile: then it is the next partner's turn.
        """
        while (partner_id := self._shares.next_refused()) is not None:
            # a probe as well: its own task has come, and found no worker
            tasks = self._take(Turn(partner_id, limit=1, with_probes=True))
            if tasks:
                self._tasks.create(tasks)
                return

    def _take(self, turn: Turn) -> list[DeliveryTask]:
        now = self._clock.now()
        turn = replace(turn, without=self._shares.full(turn.partner_id))
        with single_statements(self._engine) as connection:
            taken = webhook_turns.take_turn(connection, turn, now=now, lost_after=self._lost_after)
        return tasks_for(taken, now)

    def free_places(self, connection: Connection, partner_id: str) -> int:
        """Return how many more tasks of the partner may stand in the queue."""
        return webhook_turns.free_places(
            connection, partner_id, now=self._clock.now(), lost_after=self._lost_after
        )
