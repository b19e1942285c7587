"""Who did what by hand, when and why. Rows are only ever added."""

from datetime import datetime

from sqlalchemy import Connection, text

APPEND = text("""
    /* note what an operator does */
    INSERT INTO audit (actor, action, subject, reason, created_at)
    VALUES (:actor, :action, :subject, :reason, :now)
""")


def append(
    connection: Connection, *, actor: str, action: str, subject: str, reason: str | None, now: datetime
) -> None:
    """`action` is `<noun>.<verb>`, `subject` the id it was done to; neither holds personal data."""
    parameters = {"actor": actor, "action": action, "subject": subject, "reason": reason, "now": now}
    connection.execute(APPEND, parameters)
