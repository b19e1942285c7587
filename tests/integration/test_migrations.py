import pytest
from sqlalchemy import text

from bridge.storage.migrate import upgrade

pytestmark = pytest.mark.integration


def test_migrating_twice_changes_nothing_and_adds_new_sap_systems(database):
    upgrade(database.url, {"s4-main": 3})
    upgrade(database.url, {"s4-main": 9, "s4-second": 2})
    with database.engine.connect() as connection:
        systems = connection.execute(text("SELECT sap_system, hard_cap FROM sap_systems ORDER BY 1")).all()
        slots = connection.execute(text("SELECT sap_system, count(*) FROM sap_slots GROUP BY 1 ORDER BY 1"))
        assert [tuple(row) for row in systems] == [("s4-main", 3), ("s4-second", 2)]
        assert [tuple(row) for row in slots] == [("s4-main", 3), ("s4-second", 2)]


def test_no_service_may_change_the_past(database):
    with database.engine.connect() as connection:
        changeable = connection.execute(
            text("""
            SELECT grantee, table_name, privilege_type FROM information_schema.role_table_grants
            WHERE table_name IN ('events', 'feed', 'audit') AND privilege_type NOT IN ('SELECT', 'INSERT')
              AND grantee <> current_user
            """)
        ).all()
    # what the feed keeps no longer is deleted from its old end; it is not changed
    assert [tuple(row) for row in changeable] == [("retention", "feed", "DELETE")]
