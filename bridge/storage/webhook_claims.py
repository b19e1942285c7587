"""The claim that gives one process the right to make an attempt, at a place in its endpoint's rate.

Every function takes a connection inside the caller's transaction. The rate is a token bucket of one second's
worth, kept on the cursor as one moment (GCRA, ITU-T I.371): for all processes together, and each attempt that
comes too early is told once when its place is. Lock order: cursor, delivery.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, text

from bridge.clock import MAX_CLOCK_DIFFERENCE_SECONDS
from bridge.storage.prepared import Prepared
from bridge.storage.webhook_attempts import TEST_EVENT_TYPE
from bridge.storage.webhook_probes import MAX_PROBE_AHEAD

CLAIM_ATTEMPT = text("""
    /* take the attempt, if it is the next one of the delivery, is due and nobody is at it, and if the rate of
       the endpoint has a place for it: at a later place it is only put off, and holds that place then. Beyond
       the places that are given out, nothing is returned but the endpoint. A last place that is further ahead
       than any is given out stands for nothing: the clock was ahead when it was written. A failing endpoint
       gets one probe at a time, whatever its rate; the next is due when this claim or its attempt has ended.
       A test is sent to a failing or disabled endpoint too; it is no event, so its id and its time
       are those of the delivery */
    WITH due AS (
        SELECT event_id IS NULL AS is_test,
               COALESCE(slot_at = next_attempt_at AND slot_at >= :slot_since, false) AS has_place
        FROM webhooks.deliveries
        WHERE delivery_id = :delivery_id AND status = 'pending' AND attempts + 1 = :attempt_number
          AND next_attempt_at <= :due_by AND (lease_until IS NULL OR lease_until <= :now)
    ), place AS (
        UPDATE webhooks.cursors AS cursor
        SET paced_until = CASE
            WHEN due.has_place OR (probe_at IS NOT NULL AND NOT due.is_test) THEN paced_until
            ELSE GREATEST(CASE WHEN paced_until <= :paced_by THEN paced_until END, CAST(:now AS timestamptz))
                 + make_interval(secs => CAST(:interval_seconds AS double precision)) END,
            probe_at = CASE WHEN due.is_test OR probe_at IS NULL THEN probe_at
                ELSE CAST(:lease_until AS timestamptz) END
        FROM due
        WHERE endpoint_id = :endpoint_id
          AND (status = 'enabled' OR (due.is_test AND status = 'disabled'))
          AND (due.is_test OR probe_at IS NULL OR probe_at <= :due_by OR probe_at > :probe_possible_by)
          AND (due.has_place OR (probe_at IS NOT NULL AND NOT due.is_test)
               OR paced_until IS NULL OR paced_until <= :paced_by OR paced_until > :possible_by)
        RETURNING due.has_place, probe_at IS NOT NULL AND NOT due.is_test AS is_probe,
                  CASE WHEN due.has_place OR (probe_at IS NOT NULL AND NOT due.is_test)
                  THEN CAST(:now AS timestamptz)
                  ELSE GREATEST(CAST(:now AS timestamptz), paced_until - interval '1 second') END AS at
    ), claimed AS (
        UPDATE webhooks.deliveries AS delivery
        SET task = 'made', swept_until = NULL,
            lease_until = CASE WHEN place.at <= :now THEN CAST(:lease_until AS timestamptz) END,
            next_attempt_at = CASE WHEN place.at <= :now THEN next_attempt_at ELSE place.at END,
            slot_at = CASE WHEN place.at <= :now THEN NULL ELSE place.at END,
            sweep = CASE WHEN place.at <= :now THEN sweep ELSE sweep + 1 END
        FROM place
        WHERE delivery_id = :delivery_id AND status = 'pending' AND attempts + 1 = :attempt_number
          AND next_attempt_at <= :due_by AND (lease_until IS NULL OR lease_until <= :now)
        RETURNING delivery_id, event_id, sequence, previous_sequence, created_at, attempts_before,
                  place.has_place, place.is_probe, sweep, slot_at
    )
    SELECT COALESCE(claimed.event_id, 'evt_' || substr(claimed.delivery_id, 5)) AS event_id, claimed.sequence,
           claimed.previous_sequence, COALESCE(events.event_type, :test_event_type) AS event_type,
           COALESCE(events.data, CAST('{}' AS jsonb)) AS data,
           COALESCE(events.created_at, claimed.created_at) AS created_at, events.traceparent,
           claimed.attempts_before, claimed.has_place, claimed.is_probe, claimed.slot_at, claimed.sweep
    FROM claimed LEFT JOIN events USING (event_id)
""")

LET_WAIT = text("""
    /* the endpoint has no room for the attempt now; whoever ends one of its attempts makes the task. A first
       attempt gets its place in the line back, which it has left when its task was made */
    UPDATE webhooks.deliveries
    SET task = 'waiting', next_attempt_at = CASE WHEN attempts = 0 THEN created_at ELSE next_attempt_at END
    WHERE delivery_id = :delivery_id AND status = 'pending' AND attempts + 1 = :attempt_number
      AND next_attempt_at <= :due_by AND (lease_until IS NULL OR lease_until <= :now)
    RETURNING delivery_id
""")

RELEASE_CLAIM = text("""
    /* nothing was sent under this claim: the attempt can be taken again at once */
    UPDATE webhooks.deliveries SET lease_until = NULL
    WHERE delivery_id = :delivery_id AND status = 'pending' AND attempts + 1 = :attempt_number
      AND lease_until = :lease_until
""")

_CLAIM_ATTEMPT = Prepared(CLAIM_ATTEMPT)


@dataclass(frozen=True, slots=True)
class ClaimedEvent:
    """The event that a claimed attempt has to tell, as it stands in the feed.

    `attempts_before`: made before the schedule last began again. `was_put_off`: it has waited for its place
    in the endpoint's rate. `is_probe`: nothing else is sent to the endpoint, which fails, until it has ended.
    """

    event_id: str
    sequence: int
    previous_sequence: int
    event_type: str
    data: dict[str, Any]
    created_at: datetime
    traceparent: str | None
    attempts_before: int
    was_put_off: bool
    is_probe: bool


@dataclass(frozen=True, slots=True)
class PutOff:
    """The attempt's place in its endpoint's rate is at `slot_at`; its task gets its name by `sweep`."""

    slot_at: datetime
    sweep: int


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast an endpoint may be told: `per_second` deliveries, as many at once after a pause.

    Places are given out up to `ahead_seconds` ahead. One that was not taken within `late_seconds` is over:
    what has been late together must not be sent together.
    """

    per_second: int
    ahead_seconds: float
    late_seconds: float


def claim_attempt(
    connection: Connection,
    endpoint_id: str,
    delivery_id: str,
    attempt_number: int,
    *,
    pace: Pace,
    now: datetime,
    due_by: datetime,
    lease_until: datetime,
) -> ClaimedEvent | PutOff | None:
    """Take the attempt, or put it off to its place in the endpoint's rate.

    None if it is over, running, out of date, due past `due_by`, or not to be made, and if all places that can
    be are given out: then the attempt stays as it is.
    """
    rows = _CLAIM_ATTEMPT.rows(
        connection,
        {
            "endpoint_id": endpoint_id,
            "delivery_id": delivery_id,
            "attempt_number": attempt_number,
            "now": now,
            "due_by": due_by,
            "lease_until": lease_until,
            "interval_seconds": 1.0 / pace.per_second,
            "slot_since": now - timedelta(seconds=pace.late_seconds),
            "paced_by": now + timedelta(seconds=1.0 + pace.ahead_seconds),
            # the last place that is given out, at the lowest rate, and by another process
            "possible_by": now + timedelta(seconds=2.0 + pace.ahead_seconds + MAX_CLOCK_DIFFERENCE_SECONDS),
            "probe_possible_by": now + MAX_PROBE_AHEAD,
            "test_event_type": TEST_EVENT_TYPE,
        },
    )
    if not rows:
        return None
    *event, slot_at, sweep = rows[0]
    return ClaimedEvent(*event) if slot_at is None else PutOff(slot_at, sweep)


def let_wait(
    connection: Connection, delivery_id: str, attempt_number: int, *, now: datetime, due_by: datetime
) -> bool:
    """Have the attempt wait for room at its endpoint; False if it is over, running or out of date."""
    parameters = {
        "delivery_id": delivery_id,
        "attempt_number": attempt_number,
        "now": now,
        "due_by": due_by,
    }
    return connection.execute(LET_WAIT, parameters).one_or_none() is not None


def release_claim(
    connection: Connection, delivery_id: str, attempt_number: int, *, lease_until: datetime
) -> None:
    """Give the claim back, unless another has followed it."""
    connection.execute(
        RELEASE_CLAIM,
        {"delivery_id": delivery_id, "attempt_number": attempt_number, "lease_until": lease_until},
    )
