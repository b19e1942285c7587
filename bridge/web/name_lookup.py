"""Name lookups that end in time: the system's resolver can't be interrupted, so it runs in threads."""

import os
import socket
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError

from bridge.threads import started_pool
from bridge.web.addresses import Resolver, UnresolvableHostError


class LookupTimeoutError(TimeoutError):
    """The name server has not answered in time."""


class NameLookup:
    """Looks names up in `threads` threads, all of which are started here. Thread-safe; make it after a fork.

    One lookup per name at a time: a name server that hangs holds one thread per name, not one per caller.
    """

    def __init__(self, resolver: Resolver, *, threads: int) -> None:
        self._resolver = resolver
        self._lock = threading.Lock()
        self._running: dict[tuple[str, int], Future[list[str]]] = {}
        self._pool = started_pool(threads, "name-lookup")

    def addresses(self, host: str, port: int, seconds: float) -> list[str]:
        """Return the host's addresses, at least one.

        UnresolvableHostError if it has none, LookupTimeoutError after `seconds`; the system's OSError if no
        descriptor is left for the lookup.
        """
        try:
            found = self._lookup((host, port)).result(seconds)
        except FutureTimeoutError as error:
            raise LookupTimeoutError("the host's name is not resolved in time") from error
        except UnresolvableHostError as error:
            _require_descriptor()  # without one, the system only says that it found nothing
            raise UnresolvableHostError(str(error)) from error
        if not found:
            raise UnresolvableHostError("the host's name has no address")
        return found

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _lookup(self, key: tuple[str, int]) -> Future[list[str]]:
        with self._lock:
            lookup = self._running.get(key)
            if lookup is None:
                lookup = self._running[key] = self._pool.submit(self._run, key)
            return lookup

    def _run(self, key: tuple[str, int]) -> list[str]:
        try:
            return self._resolver(*key)
        finally:
            with self._lock:
                self._running.pop(key, None)


def _require_descriptor() -> None:
    """OSError if this process can open nothing more."""
    with socket.socket():
        os.close(os.open(os.devnull, os.O_RDONLY))
