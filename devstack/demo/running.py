"""A stack that runs as long as a command does."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from devstack import control
from devstack.layout import Layout


@contextmanager
def own_stack(layout: Layout, *, on_progress: Callable[[str], None] = lambda _what: None) -> Iterator[None]:
    """Start it and stop it at the end, whatever happens. One that runs already is left alone (StartError)."""
    # told to end (CI does it so), it stops the stack first
    before = signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(1))
    try:
        control.start_in_background(layout, on_progress=on_progress)
        try:
            yield
        finally:
            control.stop(layout)
    finally:
        signal.signal(signal.SIGTERM, before)
