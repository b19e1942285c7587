"""The first schema: payments, lanes, feed, webhooks, and what each service may touch."""

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    here = Path(__file__).parent
    for name in ("0001_tables.sql", "0001_grants.sql"):
        # Handed to the driver as it stands: no parameter style is looked for in it.
        op.get_bind().exec_driver_sql((here / name).read_text(encoding="utf-8"))
