"""A replica that is promoted may lack what its primary had acknowledged: it is noticed, and recovered."""

import os
from datetime import UTC, datetime

import pytest
from accepted import add_lanes
from scratch import scratch_folder
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from bridge.errors import RecoveryDueError
from bridge.storage import recoveries
from bridge.storage.engine import DatabaseSettings, make_engine
from bridge.storage.restores import (
    end_recovery,
    hold_lanes_of_a_restored_database,
    is_recovery_due,
    require_recovered,
)
from devstack.postgres import OWNER, Postgres, free_port

pytestmark = pytest.mark.integration

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


@pytest.fixture
def replica(postgres_server):
    """A streaming replica of the server that the tests have, as PostgreSQL's own tool makes it."""
    with scratch_folder("bridge-replica-") as folder:
        replica = Postgres(folder / "data", free_port(), durable=False)
        replica.data_folder.mkdir(parents=True, mode=0o700)
        if replica.account is not None:
            os.chown(replica.data_folder, replica.account.uid, replica.account.gid)
        done = replica._run(
            "pg_basebackup", "--host=127.0.0.1", f"--port={postgres_server.port}", f"--username={OWNER}",
            f"--pgdata={replica.data_folder}", "--checkpoint=fast", "--wal-method=stream",
            "--write-recovery-conf", "--no-sync",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        with replica.running(folder / "log"):
            yield replica


def at(replica, url):
    return make_url(url).set(port=replica.port).render_as_string(hide_password=False)


def test_a_promoted_replica_closes_the_gate_before_its_first_checkpoint(database, request):
    add_lanes(database.engine, s4_main=4)
    # now, so that the replica has the database of this test
    replica = request.getfixturevalue("replica")
    owner = create_engine(at(replica, database.url), connect_args={"ssl_context": False})
    with owner.begin() as connection:
        assert not is_recovery_due(connection)
        assert connection.execute(text("SELECT pg_promote(true, 120)")).scalar_one()
    settings = DatabaseSettings(at(replica, database.url_for("sap_adapter")), None, None, None)
    adapter = make_engine(settings, pool_size=1, application_name="sap_adapter")
    hold_lanes_of_a_restored_database(adapter)
    with adapter.begin() as connection, pytest.raises(RecoveryDueError):
        require_recovered(connection)
    with owner.begin() as connection:
        assert connection.execute(text("SELECT held_by FROM sap_systems")).scalar_one() == "recovery"
        recoveries.begin(connection, "rec_1", since=NOW, replaces=None, started_by="olga", now=NOW)
        recovery = recoveries.lock_running(connection)
        end_recovery(connection)
        recoveries.finish(connection, recovery, now=NOW)
    with owner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        assert not is_recovery_due(connection)
        connection.execute(text("CHECKPOINT"))
        assert not is_recovery_due(connection)
    # the primary that was left behind does not know of it
    with database.engine.begin() as connection:
        assert not is_recovery_due(connection)
    adapter.dispose()
    owner.dispose()
