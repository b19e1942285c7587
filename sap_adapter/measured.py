"""A connector whose calls are measured: one line and one measurement each, by what came of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import TypeVar

import structlog

from bridge.errors import TransientError
from bridge.metrics import Metrics
from sap_adapter.connector import Connector, Entry, FoundDocument, JournalFacts, Posted, Refused, Sending

_log = structlog.get_logger(__name__)
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class _Call:
    """What a call's end is called: `lost` for any error but TransientError, which is `not_taken`."""

    name: str
    lost: str
    not_taken: str


_POST = _Call("post", lost="unknown", not_taken="not_posted")
_FIND = _Call("find", lost="unanswered", not_taken="unanswered")


class MeasuredConnector:
    """See Connector."""

    def __init__(self, connector: Connector, metrics: Metrics, sap_system: str) -> None:
        self._connector = connector
        self._durations = metrics.histogram("bridge.sap.request.duration")
        self._sap_system = sap_system

    def render(self, facts: JournalFacts) -> Entry:
        """See Connector."""
        return self._connector.render(facts)

    def with_posting_date(self, content: bytes, posting_date: date) -> bytes:
        """See Connector."""
        return self._connector.with_posting_date(content, posting_date)

    def post(self, sending: Sending) -> Posted | Refused:
        """See Connector."""
        return self._measured(
            _POST,
            lambda: self._connector.post(sending),
            lambda outcome: "posted" if isinstance(outcome, Posted) else "refused",
        )

    def find(self, company_code: str, reference: str) -> list[FoundDocument]:
        """See Connector."""
        return self._measured(
            _FIND, lambda: self._connector.find(company_code, reference), lambda _found: "answered"
        )

    def _measured(self, kind: _Call, call: Callable[[], _Answer], named: Callable[[_Answer], str]) -> _Answer:
        started = time.perf_counter()
        outcome = kind.lost
        try:
            answer = call()
            outcome = named(answer)
        except TransientError:
            outcome = kind.not_taken
            raise
        finally:
            self._tell(kind, outcome, time.perf_counter() - started)
        return answer

    def _tell(self, kind: _Call, outcome: str, seconds: float) -> None:
        self._durations.record(seconds, {"bridge.lane": self._sap_system, "bridge.outcome": outcome})
        _log.info(
            "sap call",
            call=kind.name,
            sap_system=self._sap_system,
            outcome=outcome,
            duration_ms=round(seconds * 1000, 1),
        )
