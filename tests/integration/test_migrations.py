import pytest
from sqlalchemy import create_engine, text

from bridge.errors import SettingsError
from bridge.storage.engine import DatabaseSettings
from bridge.storage.migrate import Settings, add_extension_if_available, run, upgrade
from devstack.logins import ROLES, create_database, drop_database, url_as

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


def test_whoever_migrates_everything_belongs_to_the_owner_and_each_login_gets_its_role(
    postgres_server, migrated_template
):
    admin = create_engine(postgres_server.url("postgres"), isolation_level="AUTOCOMMIT")
    login = "bridge-gateway@a-project.iam"  # as Cloud SQL names a service account
    with admin.connect() as connection:
        connection.execute(text("CREATE ROLE cloud_owner CREATEROLE CREATEDB"))
        connection.execute(text("CREATE ROLE migrator LOGIN IN ROLE cloud_owner"))
        connection.execute(text(f'CREATE ROLE "{login}" LOGIN'))
        # the cluster has the services' roles already; whoever makes them may grant them
        for role in ROLES:
            connection.execute(text(f"GRANT {role} TO cloud_owner WITH ADMIN OPTION"))
    create_database(postgres_server.url("postgres"), "of_cloud_owner")
    url = url_as(postgres_server.url("of_cloud_owner"), "migrator")
    try:
        with admin.connect() as connection:
            connection.execute(text("ALTER DATABASE of_cloud_owner OWNER TO cloud_owner"))
        settings = Settings(
            DatabaseSettings(url, None, None, None), {"s4-main": 2}, "cloud_owner", {"gateway": login}
        )
        run(settings)
        run(settings)
        seen = create_engine(postgres_server.url("of_cloud_owner"))
        with seen.connect() as connection:
            owners = connection.execute(
                text("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname IN ('public', 'webhooks')")
            ).scalars()
            assert set(owners) == {"cloud_owner"}
        seen.dispose()
        service = create_engine(url_as(url, login))
        with service.connect() as connection:
            assert connection.execute(text("SELECT hard_cap FROM sap_systems")).scalar() == 2
        service.dispose()
    finally:
        drop_database(postgres_server.url("postgres"), "of_cloud_owner")
        with admin.connect() as connection:
            connection.execute(text(f'DROP OWNED BY cloud_owner, migrator, "{login}"'))
            connection.execute(text(f'DROP ROLE migrator, "{login}", cloud_owner'))
        admin.dispose()


@pytest.mark.parametrize("logins", ["[]", "{", '{"gateway": 1}', '{"gateway": ""}'])
def test_logins_that_are_none_are_refused(logins):
    with pytest.raises(SettingsError, match="DATABASE_LOGINS"):
        Settings.from_environment({"DATABASE_URL": "postgresql+pg8000://u@h/d", "DATABASE_LOGINS": logins})


def test_an_extension_is_added_where_the_server_has_it_and_missed_by_nobody_where_it_has_not(database):
    """Cloud SQL has pgaudit, which logs nothing until it is created; other servers do not know it."""
    with database.engine.begin() as connection:
        [available] = connection.execute(
            text("SELECT name FROM pg_available_extensions WHERE installed_version IS NULL LIMIT 1")
        ).one()
        assert add_extension_if_available(connection, available)
        assert add_extension_if_available(connection, available)
        assert not add_extension_if_available(connection, "no_such_extension")
        found = connection.execute(
            text("SELECT count(*) FROM pg_extension WHERE extname = :name"), {"name": available}
        )
        assert found.scalar_one() == 1
        connection.rollback()
