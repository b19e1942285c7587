"""The gate of a failing endpoint: while it fails, one delivery probes it and the others wait in their rows.

Every function takes a connection inside the caller's transaction. The gate is on the cursor: it closes after
FAILURES_BEFORE_PROBING failed attempts in a row, `probe_at` is when the next attempt may be made, and a
success opens it. Lock order: cursor, delivery.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

# One event that its receiver refuses, or a receiver that fails now and then, must not stop the others.
FAILURES_BEFORE_PROBING = 3
MAX_PROBE_PAUSE_SECONDS = 60.0
# A probe that is further ahead than a pause and a lease stands for nothing: the clock was ahead.
MAX_PROBE_AHEAD = timedelta(seconds=2 * MAX_PROBE_PAUSE_SECONDS)
_MAX_DOUBLINGS = 20

NOTE_FAILURE = text("""
    /* one more failure in a row; from the third on, only probes are sent, after pauses that double. What was
       under way when the gate closed changes nothing any more */
    UPDATE webhooks.cursors
    SET failing_since = COALESCE(failing_since, CAST(:since AS timestamptz)),
        failed_attempts = failed_attempts + 1,
        probe_at = CASE WHEN failed_attempts + 1 < :failures_before_probing THEN NULL
            ELSE CAST(:now AS timestamptz) + make_interval(secs => GREATEST(
                LEAST(CAST(:first_pause_seconds AS double precision)
                      * power(2, LEAST(failed_attempts + 1 - :failures_before_probing, :max_doublings)),
                      :max_pause_seconds),
                CAST(:least_pause_seconds AS double precision))) END
    WHERE endpoint_id = :endpoint_id AND status = 'enabled' AND (probe_at IS NULL OR :is_probe)
    RETURNING probe_at
""")

SELECT_PROBE_AT = text("""
    /* when the endpoint may be probed, if it is */
    SELECT probe_at FROM webhooks.cursors WHERE endpoint_id = :endpoint_id
""")

OPEN_GATE = text("""
    /* a success ends a row of failures */
    UPDATE webhooks.cursors SET failing_since = NULL, failed_attempts = 0, probe_at = NULL
    WHERE endpoint_id = :endpoint_id AND (failing_since IS NOT NULL OR probe_at IS NOT NULL)
""")

RETURN_PROBE = text("""
    /* the probe was not sent: another may be, at once */
    UPDATE webhooks.cursors SET probe_at = :now WHERE endpoint_id = :endpoint_id AND probe_at = :lease_until
""")

ALLOW_PROBE = text("""
    /* the partner has asked for a delivery: it may probe the endpoint at once, unless a probe is under way */
    UPDATE webhooks.cursors AS cursor SET probe_at = :now
    WHERE endpoint_id = :endpoint_id AND probe_at > :now
      AND NOT EXISTS (SELECT FROM webhooks.deliveries AS running
                      WHERE running.partner_id = cursor.partner_id AND running.status = 'pending'
                        AND running.task = 'made' AND running.endpoint_id = cursor.endpoint_id
                        AND running.lease_until = cursor.probe_at)
""")

LOCK_CLOSED_GATE = text("""
    /* nobody opens the gate until this transaction has ended */
    SELECT endpoint_id FROM webhooks.cursors WHERE endpoint_id = :endpoint_id AND probe_at > :due_by
      AND probe_at <= :possible_by
    FOR SHARE
""")

WAIT_FOR_PROBE = text("""
    /* the endpoint fails: what ends that, or the next probe, calls this delivery */
    UPDATE webhooks.deliveries SET task = 'waiting'
    WHERE delivery_id = :delivery_id AND status = 'pending' AND attempts + 1 = :attempt_number
      AND event_id IS NOT NULL AND next_attempt_at <= :due_by AND (lease_until IS NULL OR lease_until <= :now)
""")


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that failed and began at `since`.

    The pause before the next probe begins with `first_pause_seconds` and is never below what the receiver
    asks for by Retry-After (`retry_after_seconds`), as far as MAX_PROBE_PAUSE_SECONDS goes.
    """

    endpoint_id: str
    since: datetime
    is_probe: bool
    first_pause_seconds: float
    retry_after_seconds: float | None


def note_failure(connection: Connection, failure: Failure, *, now: datetime) -> datetime | None:
    """Count the failure; return when the endpoint may be probed, None while it gets its deliveries."""
    row = connection.execute(
        NOTE_FAILURE,
        {
            "endpoint_id": failure.endpoint_id,
            "since": failure.since,
            "now": now,
            "is_probe": failure.is_probe,
            "failures_before_probing": FAILURES_BEFORE_PROBING,
            "first_pause_seconds": failure.first_pause_seconds,
            "max_doublings": _MAX_DOUBLINGS,
            "max_pause_seconds": MAX_PROBE_PAUSE_SECONDS,
            "least_pause_seconds": min(failure.retry_after_seconds or 0.0, MAX_PROBE_PAUSE_SECONDS),
        },
    ).one_or_none()
    return row.probe_at if row is not None else probe_at(connection, failure.endpoint_id)


def probe_at(connection: Connection, endpoint_id: str) -> datetime | None:
    """Return when the endpoint may be probed; None if it gets its deliveries."""
    moment: datetime | None = connection.execute(
        SELECT_PROBE_AT, {"endpoint_id": endpoint_id}
    ).scalar_one_or_none()
    return moment


def open_gate(connection: Connection, endpoint_id: str) -> None:
    connection.execute(OPEN_GATE, {"endpoint_id": endpoint_id})


def return_probe(connection: Connection, endpoint_id: str, *, lease_until: datetime, now: datetime) -> None:
    """Allow the next probe at once, if the probe under that lease is the latest."""
    connection.execute(RETURN_PROBE, {"endpoint_id": endpoint_id, "lease_until": lease_until, "now": now})


def allow_probe(connection: Connection, endpoint_id: str, *, now: datetime) -> None:
    """Make the next probe due, if the endpoint fails and no probe runs. The caller has locked its cursor."""
    connection.execute(ALLOW_PROBE, {"endpoint_id": endpoint_id, "now": now})


def wait_for_probe(
    connection: Connection,
    endpoint_id: str,
    delivery_id: str,
    attempt_number: int,
    *,
    now: datetime,
    due_by: datetime,
) -> bool:
    """Have the attempt wait, without a task; False if the gate is open or the next probe is due."""
    gate = {"endpoint_id": endpoint_id, "due_by": due_by, "possible_by": now + MAX_PROBE_AHEAD}
    if connection.execute(LOCK_CLOSED_GATE, gate).one_or_none() is None:
        return False
    connection.execute(
        WAIT_FOR_PROBE,
        {"delivery_id": delivery_id, "attempt_number": attempt_number, "now": now, "due_by": due_by},
    )
    return True
