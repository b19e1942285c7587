"""The partner store as the directory asks it: once it is away, nobody waits for it until it is back."""

import threading
from collections.abc import Callable

import structlog

from bridge.clock import Clock
from bridge.errors import TransientError
from bridge.partner import PartnerConfiguration
from bridge.ports import InvalidDocumentError, PartnerStore

_log = structlog.get_logger(__name__)

Ask = Callable[[], PartnerConfiguration | None]


def in_background(task: Callable[[], None]) -> None:
    """Run `task` in a thread that does not keep the process alive."""
    threading.Thread(target=task, name="partner-store-probe", daemon=True).start()


class PartnerSource:
    """A circuit breaker around the store's two look-ups.

    The first failure opens it: from then on every call fails at once with TransientError, and a call in every
    `away_seconds` has the same question asked in the background; its answer closes the circuit.
    """

    def __init__(
        self,
        store: PartnerStore,
        clock: Clock,
        away_seconds: float,
        run: Callable[[Callable[[], None]], None] = in_background,
    ) -> None:
        self._store = store
        self._clock = clock
        self._away_seconds = away_seconds
        self._run = run
        self._lock = threading.Lock()
        # None: the store answers; else when to ask it again, on the monotonic clock
        self._next_probe_at: float | None = None

    def get(self, partner_id: str) -> PartnerConfiguration | None:
        """See PartnerStore."""
        return self._ask(lambda: self._store.get(partner_id))

    def find_by_client(self, client_id: str) -> PartnerConfiguration | None:
        """See PartnerStore."""
        return self._ask(lambda: self._store.find_by_client(client_id))

    def _ask(self, ask: Ask) -> PartnerConfiguration | None:
        with self._lock:
            away = self._next_probe_at is not None
        if away:
            if self._claim_probe():
                self._run(lambda: self._probe(ask))
            raise TransientError("the partner store is away")
        try:
            return ask()
        except TransientError:
            with self._lock:
                self._next_probe_at = self._clock.monotonic() + self._away_seconds
            _log.warning("partner store is away", retry_after_seconds=self._away_seconds)
            raise

    def _claim_probe(self) -> bool:
        """Tell one caller per interval that it may have the store asked."""
        now = self._clock.monotonic()
        with self._lock:
            if self._next_probe_at is None or now < self._next_probe_at:
                return False
            self._next_probe_at = now + self._away_seconds
            return True

    def _probe(self, ask: Ask) -> None:
        try:
            ask()
        except TransientError:
            return  # the next probe is due already
        except InvalidDocumentError:
            pass  # it answers; the question itself is judged where it is asked
        with self._lock:
            self._next_probe_at = None
        _log.info("partner store is back")
