"""The engine that a service has in production, on the test's database and with the service's own rights."""

from bridge.storage.engine import DatabaseSettings, make_engine


def service_engine(database, role, *, pool_size=10):
    settings = DatabaseSettings(database.url_for(role), None, None, None)
    return make_engine(settings, pool_size=pool_size, application_name=role, prepared=True)
