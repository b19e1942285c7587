"""How a webhook endpoint stands: enabled, disabled, deleted, failing since. Its cursor is the record of that.

Every function takes a connection inside the caller's transaction. Fan-out and holding lock the cursor, so
that what they write agrees with its state.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection, text

DisabledReason = Literal["partner", "gone", "failing"]

SELECT_STATES = text("""
    /* how the endpoints of the partner stand */
    SELECT endpoint_id, status, disabled_reason, failing_since FROM webhooks.cursors
    WHERE partner_id = :partner_id
""")

NEED_VERSION = text("""
    /* the endpoint was changed: readers need that version of the document, and it need not fail any more */
    UPDATE webhooks.cursors SET configuration_version = :version, failed_attempts = 0, probe_at = NULL
    WHERE endpoint_id = :endpoint_id AND partner_id = :partner_id AND configuration_version < :version
""")

ENABLE = text("""
    /* send again; the sweeper releases what was held */
    UPDATE webhooks.cursors
    SET status = 'enabled', disabled_reason = NULL, failing_since = NULL, failed_attempts = 0, probe_at = NULL
    WHERE endpoint_id = :endpoint_id AND partner_id = :partner_id AND status = 'disabled'
    RETURNING endpoint_id
""")

DISABLE = text("""
    /* send no more; events are held from now on */
    UPDATE webhooks.cursors SET status = 'disabled', disabled_reason = :reason
    WHERE endpoint_id = :endpoint_id AND status = 'enabled'
    RETURNING endpoint_id
""")

DISABLE_FAILING = text("""
    /* every attempt has failed for too long; only one of all that find it out gets a row back */
    UPDATE webhooks.cursors SET status = 'disabled', disabled_reason = 'failing'
    WHERE endpoint_id = :endpoint_id AND status = 'enabled' AND failing_since <= :failing_by
    RETURNING endpoint_id
""")

END = text("""
    /* the endpoint is gone: walk it no further */
    UPDATE webhooks.cursors SET status = 'deleted', disabled_reason = NULL, failing_since = NULL
    WHERE endpoint_id = :endpoint_id AND partner_id = :partner_id AND status <> 'deleted'
    RETURNING endpoint_id
""")


@dataclass(frozen=True, slots=True)
class EndpointState:
    """`status`: enabled, disabled (with a reason) or deleted. `failing_since`: first of a row of failures."""

    status: str = "enabled"
    disabled_reason: DisabledReason | None = None
    failing_since: datetime | None = None


def endpoint_states(connection: Connection, partner_id: str) -> dict[str, EndpointState]:
    """Return how the partner's endpoints stand; one without a cursor has seen no event yet and is enabled."""
    rows = connection.execute(SELECT_STATES, {"partner_id": partner_id})
    return {
        row.endpoint_id: EndpointState(row.status, row.disabled_reason, row.failing_since) for row in rows
    }


def need_version(connection: Connection, *, endpoint_id: str, partner_id: str, version: int) -> None:
    """Have readers take that version of the partner's document, which is mirrored in this transaction."""
    connection.execute(
        NEED_VERSION, {"endpoint_id": endpoint_id, "partner_id": partner_id, "version": version}
    )


def enable(connection: Connection, *, endpoint_id: str, partner_id: str) -> bool:
    """False if the endpoint is not disabled."""
    parameters = {"endpoint_id": endpoint_id, "partner_id": partner_id}
    return connection.execute(ENABLE, parameters).one_or_none() is not None


def disable(connection: Connection, endpoint_id: str, reason: DisabledReason) -> bool:
    """False if the endpoint is not enabled: somebody else was first."""
    parameters = {"endpoint_id": endpoint_id, "reason": reason}
    return connection.execute(DISABLE, parameters).one_or_none() is not None


def disable_failing(connection: Connection, endpoint_id: str, *, failing_by: datetime) -> bool:
    """Disable the endpoint if it has failed since `failing_by`; False if not, or somebody else was first."""
    parameters = {"endpoint_id": endpoint_id, "failing_by": failing_by}
    return connection.execute(DISABLE_FAILING, parameters).one_or_none() is not None


def end(connection: Connection, *, endpoint_id: str, partner_id: str) -> bool:
    """Mark the endpoint as deleted, for good; False if the partner has no such endpoint (any more)."""
    parameters = {"endpoint_id": endpoint_id, "partner_id": partner_id}
    return connection.execute(END, parameters).one_or_none() is not None
