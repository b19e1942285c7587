"""The PostgreSQL that the local stack and the tests run on."""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool
from waiting import wait_until

from devstack import postgres as postgres_module
from devstack.logins import create_database, drop_database
from devstack.postgres import Account, Postgres, can_reach, free_port

pytestmark = pytest.mark.integration


def query(url, statement):
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        return connection.execute(text(statement)).scalar()


def test_server_is_version_18_in_utc_and_checksummed(postgres_server):
    url = postgres_server.url("postgres")
    assert query(url, "SHOW server_version").startswith("18.")
    assert query(url, "SHOW timezone") == "UTC"
    assert query(url, "SHOW data_checksums") == "on"


def test_server_listens_on_loopback_only(postgres_server):
    url = postgres_server.url("postgres")
    assert query(url, "SHOW listen_addresses") == "127.0.0.1"
    assert query(url, "SHOW unix_socket_directories") == ""


def test_durable_is_the_default(tmp_path):
    assert "fsync=on" in Postgres(tmp_path / "data", 1).command()


def test_databases_are_created_once_and_dropped_with_clients_connected(postgres_server):
    maintenance = postgres_server.url("postgres")
    create_database(maintenance, "short_lived")
    create_database(maintenance, "short_lived")
    engine = create_engine(postgres_server.url("short_lived"))
    connection = engine.connect()
    drop_database(maintenance, "short_lived")
    assert query(maintenance, "SELECT count(*) FROM pg_database WHERE datname = 'short_lived'") == 0
    connection.invalidate()
    connection.close()
    engine.dispose()


def start(server, log):
    process = subprocess.Popen(
        server.command(), stdout=log, stderr=log, cwd="/", env=server.environment(),
        start_new_session=True, **server.run_as(),
    )  # fmt: skip
    wait_until(server.is_ready)
    return process


def test_committed_rows_survive_kill_and_orphaned_backends_do_not_block_the_restart(tmp_path):
    server = Postgres(tmp_path / "data", free_port())
    server.initialise()
    with (tmp_path / "log").open("ab") as log:
        process = start(server, log)
        try:
            create_database(server.url("postgres"), "bridge")
            engine = create_engine(server.url(), poolclass=NullPool)
            with engine.begin() as connection:
                connection.execute(text("CREATE TABLE t AS SELECT 1 AS n"))
            # stopped, a backend cannot notice that its postmaster died: the worst case for a restart
            backend = next(p for p in server.strays() if p.pid != process.pid)
            backend.send_signal(signal.SIGSTOP)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            assert backend.is_running()
            server.kill_strays()
            assert server.strays() == []
            process = start(server, log)
            assert query(server.url(), "SELECT n FROM t") == 1
        finally:
            process.kill()
            process.wait()
            server.kill_strays()
            shutil.rmtree(server.data_folder)


def test_a_half_made_cluster_is_made_anew(tmp_path):
    server = Postgres(tmp_path / "data", free_port(), durable=False)
    server.data_folder.mkdir(parents=True)
    (server.data_folder / "PG_VERSION").write_text("18\n")
    with server.running(tmp_path / "log"):
        assert query(server.url("postgres"), "SELECT 1") == 1
    shutil.rmtree(server.data_folder)


def test_folder_behind_a_closed_door_is_replaced_and_the_door_stays_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(postgres_module, "account_to_run_as", lambda: Account("nobody", 65534, 65534))
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = Postgres(closed / "data", 1)
    assert not server.data_folder.is_relative_to(tmp_path)
    assert server.data_folder.is_relative_to(tempfile.gettempdir())
    assert server.data_folder == Postgres(closed / "data", 1).data_folder
    assert closed.stat().st_mode & 0o777 == 0o700


def test_reach_follows_the_mode_bits(tmp_path):
    nobody = Account("nobody", 65534, 65534)
    assert can_reach(nobody, Path(tempfile.gettempdir()))
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o700)
    assert not can_reach(nobody, folder)


def test_server_runs_from_a_checkout_that_no_other_account_may_enter(tmp_path, monkeypatch):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    package = postgres_module.wheel_install_folder().parent
    for name in (package.name, f"{package.name}.libs"):
        if (package.parent / name).exists():
            shutil.copytree(
                package.parent / name,
                closed / name,
                ignore=shutil.ignore_patterns("include", "pginstall"),
            )
    install = closed / package.name / "pginstall18"
    monkeypatch.setattr(postgres_module, "wheel_install_folder", lambda: install)
    server = Postgres(closed / "data", free_port(), durable=False)
    try:
        with server.running(tmp_path / "log"):
            assert query(server.url("postgres"), "SELECT 1") == 1
    finally:
        shutil.rmtree(server.data_folder)
        if not server._bin.is_relative_to(closed):
            shutil.rmtree(server._bin.parents[2])
