"""The port Publisher in memory; passes the same conformance suite as Pub/Sub."""

import threading
from collections import Counter

from waiting import DEADLINE_SECONDS

from bridge.errors import TransientError
from bridge.messages import OperationMessage


class CrashError(BaseException):
    """The process dies here: nothing that follows is done, no handler runs."""


class InMemoryPublisher:
    """Keeps what it is given. `away`: it takes nothing. `crashes`: it takes it, then the process dies.

    While `gates[topic]` is cleared, publishing to that topic hangs (bounded).
    """

    # longer than a test waits
    GATE_SECONDS = 2 * DEADLINE_SECONDS

    def __init__(self, topics=()):
        self.batches = []
        self.away = False
        self.crashes = False
        self.topics = set(topics)
        self.gates = {}
        self.calls = 0
        self.before_publishing = None
        self._lock = threading.Lock()

    def publish(self, topic, messages):
        with self._lock:
            self.calls += 1
        if self.before_publishing is not None:
            self.before_publishing(messages)
        gate = self.gates.get(topic)
        if gate is not None and not gate.wait(self.GATE_SECONDS):
            raise TransientError("timed out")
        if self.away or (self.topics and topic not in self.topics):
            raise TransientError("not published")
        with self._lock:
            self.batches.append((topic, list(messages)))
        if self.crashes:
            raise CrashError

    def close(self):
        """Nothing is open."""

    def messages(self, topic=None):
        with self._lock:
            return [message for name, batch in self.batches if topic in (None, name) for message in batch]

    def operation_ids(self, topic=None):
        return [m.operation_id for m in self.messages(topic) if isinstance(m, OperationMessage)]

    def times(self, topic=None):
        return Counter(self.operation_ids(topic))
