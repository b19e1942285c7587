"""How sure a process is of the time that all processes share, and how wrong its machine's clock is."""

from bridge.metrics import Figures, Metrics
from bridge.storage.database_clock import DatabaseClock

UNCERTAINTY, OFFSET = "bridge.clock.uncertainty", "bridge.clock.offset"
# What is told of a clock that has never been compared with the database's: it may be anything.
UNKNOWN_SECONDS = 3600.0


def register_clock_metrics(metrics: Metrics, clock: DatabaseClock) -> None:
    """Show both figures. A look has a sample taken if one is due, so that an idle process stays certain."""

    def read() -> Figures:
        clock.refresh_soon()
        offset_seconds = clock.local_offset_seconds()
        return {
            UNCERTAINTY: [(min(clock.uncertainty_seconds(), UNKNOWN_SECONDS), {})],
            OFFSET: [] if offset_seconds is None else [(offset_seconds, {})],
        }

    metrics.gauges([UNCERTAINTY, OFFSET], read)
