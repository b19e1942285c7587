"""Many threads that want the same thing at once: one fetches it, the others get what it got."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from bridge.errors import TransientError

MAX_WAIT_SECONDS = 20.0

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """One load per key at a time. Nothing is kept, and no lock is held while a load runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[str, Future[T]] = {}

    def run(self, key: str, load: Callable[[], T]) -> T:
        """Return what `load` returns, or what another thread's load of this key does; errors likewise."""
        with self._lock:
            flight = self._flights.get(key)
            leads = flight is None
            if flight is None:
                flight = self._flights[key] = Future()
        if not leads:
            return self._follow(flight)
        try:
            flight.set_result(load())
        except BaseException as error:  # the followers must not wait for ever
            flight.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._flights[key]
        return flight.result()

    def _follow(self, flight: "Future[T]") -> T:
        try:
            return flight.result(timeout=MAX_WAIT_SECONDS)
        except TimeoutError as error:
            raise TransientError("what another thread is loading has not come in time") from error
