"""A PostgreSQL of a test's own, whose data folder can be copied and put back while it is stopped."""

import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

from databases import Database, local_engine

from bridge.storage.migrate import upgrade
from devstack.logins import create_database, create_logins
from devstack.postgres import DATABASE, Postgres, free_port


class OwnServer:
    """One cluster on one timeline, with a migrated database in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.postgres = Postgres(folder / "data", free_port(), durable=False)
        self._running = ExitStack()

    def start(self) -> None:
        self._running.enter_context(self.postgres.running(self._folder / "log"))

    def stop(self) -> None:
        self._running.close()

    def make_database(self) -> Database:
        create_database(self.url("postgres"), DATABASE)
        upgrade(self.url(DATABASE))
        create_logins(self.url(DATABASE))
        return Database(self.url(DATABASE), local_engine(self.url(DATABASE)))

    def url(self, database: str) -> str:
        return self.postgres.url(database)

    def copy(self) -> Path:
        """Copy the folder; PostgreSQL is stopped."""
        copied = self.postgres.data_folder.with_name("copy")
        _copy(self.postgres.data_folder, copied)
        return copied

    def put_back(self, copied: Path) -> None:
        """Have the copy in the folder's place; PostgreSQL is stopped."""
        _copy(copied, self.postgres.data_folder)


def _copy(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    # with its owner: as root PostgreSQL runs as another account
    subprocess.run(["cp", "--archive", str(source), str(target)], check=True)
