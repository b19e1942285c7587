"""Client assertions that have been used: a client's `jti` is good once (RFC 7523 section 3, point 7)."""

from datetime import datetime

from sqlalchemy import Connection, text

MAX_FORGOTTEN_AT_ONCE = 100

SPEND = text("""
    /* spend an assertion: no row comes back for one that is spent already */
    INSERT INTO client_assertions (client_id, jti, expires_at)
    VALUES (:client_id, :jti, :kept_until)
    ON CONFLICT (client_id, jti) DO NOTHING
    RETURNING jti
""")

FORGET = text("""
    /* forget some assertions whose time is over: they would be refused for that */
    DELETE FROM client_assertions
    WHERE (client_id, jti) IN (
        SELECT client_id, jti FROM client_assertions WHERE expires_at < :now ORDER BY expires_at LIMIT :limit
        FOR UPDATE SKIP LOCKED
    )
""")


def spend(connection: Connection, *, client_id: str, jti: str, kept_until: datetime, now: datetime) -> bool:
    """Tell whether this is the assertion's first use. Forgets old ones on the way, a bounded number.

    `kept_until` must not be before the moment from which the assertion is refused as expired.
    """
    connection.execute(FORGET, {"now": now, "limit": MAX_FORGOTTEN_AT_ONCE})
    row = {"client_id": client_id, "jti": jti, "kept_until": kept_until}
    return connection.execute(SPEND, row).first() is not None
