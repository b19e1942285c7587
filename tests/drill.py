"""A restore drill on a private stack: back up, go on, lose the database, put the backup back, recover."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil
import requests
from local_stack import CALL_TIMEOUT_SECONDS, Stack, devstack, processes_of
from sqlalchemy import create_engine, text
from waiting import wait_until

from devstack.demo.instructions import Instructions
from devstack.demo.partner_client import PartnerClient
from devstack.demo.sender import Sender
from devstack.layout import REPOSITORY
from devstack.lock import is_alive
from devstack.logins import login_of
from devstack.postgres import DATABASE, OWNER, Postgres, url_at
from devstack.running_stack import RunningStack
from devstack.services import SAP_SETTLING_TIMES

PROGRAM_TIMEOUT_SECONDS = 600
RECOVER_TIMEOUT_SECONDS = 600


@dataclass
class Backup:
    """What `pg_dump` and `pg_dumpall --roles-only` have written, and the moment before they did."""

    since: datetime
    database: bytes
    roles: bytes


@dataclass
class Drill:
    """One stack whose database is lost. SAP, the partners and their receiver go on as they are."""

    stack: Stack
    instructions: Instructions = field(default_factory=Instructions)

    def __post_init__(self):
        self.running = RunningStack.read(self.stack.layout.stack_file)
        self.clients = [PartnerClient(self.running.api, one) for one in self.running.partners]
        self.sender = Sender(self.clients, self.instructions)
        self.postgres = Postgres(self.stack.layout.data("postgres"), self.stack.layout.ports["postgres"])

    def documents(self):
        return self.stack.sap("GET", "/_control/stats")["documents"]

    def rows(self, statement):
        engine = create_engine(self.running.database_url)
        try:
            with engine.connect() as connection:
                return connection.execute(text(statement)).all()
        finally:
            engine.dispose()

    def back_up(self) -> Backup:
        since = datetime.now(UTC)
        where = ("--host=127.0.0.1", f"--port={self.postgres.port}", f"--username={OWNER}")
        return Backup(
            since,
            self._program("pg_dump", *where, "--format=custom", DATABASE),
            self._program("pg_dumpall", *where, "--roles-only"),
        )

    def destroy(self):
        """Kill everything at once, as a data centre that is lost; the broker keeps nothing either."""
        reaper = self.stack.document["reaper"]
        os.kill(self.stack.pid("supervisor"), signal.SIGKILL)
        # the reaper looks a last time for what is left, and would take a PostgreSQL of ours for that
        wait_until(
            lambda: not is_alive(reaper) and not processes_of(self.stack.layout),
            what="the whole stack gone",
        )
        shutil.rmtree(self.postgres.data_folder)

    @contextmanager
    def without_database(self):
        """PostgreSQL is stopped cleanly meanwhile, and everything else runs on."""
        supervisor, postgres = self.stack.pid("supervisor"), psutil.Process(self.stack.pid("postgres"))
        # it would start PostgreSQL again at once
        os.kill(supervisor, signal.SIGSTOP)
        try:
            postgres.send_signal(signal.SIGINT)
            wait_until(lambda: postgres.status() == psutil.STATUS_ZOMBIE, what="the end of PostgreSQL")
            yield
        finally:
            os.kill(supervisor, signal.SIGCONT)
        wait_until(
            lambda: self.stack.pid("postgres") != postgres.pid and self.postgres.is_ready(),
            what="PostgreSQL is back",
        )

    def copy_data_folder(self) -> Backup:
        """A plain copy, as a snapshot of the disk."""
        with self.without_database():
            self._copy(self.postgres.data_folder, self._copied)
        return Backup(datetime.now(UTC), b"", b"")

    def put_data_folder_back(self):
        """Have the copy in the folder's place: the same cluster on the same timeline."""
        with self.without_database():
            self._copy(self._copied, self.postgres.data_folder)
        shutil.rmtree(self._copied)

    @property
    def _copied(self) -> Path:
        return self.postgres.data_folder.with_name("copied")

    def _copy(self, source: Path, target: Path):
        shutil.rmtree(target, ignore_errors=True)
        # with its owner: as root PostgreSQL runs as another account
        subprocess.run(["cp", "--archive", str(source), str(target)], check=True)

    def restore(self, backup: Backup):
        """Put the backup into a new cluster, and start the stack on it."""
        where = ("--host=127.0.0.1", f"--port={self.postgres.port}", f"--username={OWNER}")
        with tempfile.TemporaryDirectory() as folder, self.postgres.running(Path(folder) / "log"):
            self._program("psql", *where, "--dbname=postgres", "--quiet", given=backup.roles)
            self._program("createdb", *where, DATABASE)
            self._program(
                "pg_restore", *where, f"--dbname={DATABASE}", "--exit-on-error", given=backup.database
            )
        done = devstack("up", self.stack.layout)
        assert done.returncode == 0, done.stderr

    def recover(self, backup: Backup):
        """`bridge recover --since …` as an operator types it; return what it printed."""
        done = subprocess.run(
            [
                *(sys.executable, "-m", "cli.main", "recover", "--json"),
                *("--since", backup.since.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), "--reason", "restore drill"),
                *("--job", f"{sys.executable} -m sap_adapter.recover"),
            ],
            cwd=REPOSITORY,
            env={
                "PATH": os.environ["PATH"],
                "USER": "drill",
                "LOGNAME": "drill",
                "BRIDGE_BACKOFFICE_URL": self.stack.layout.url("backoffice"),
                # what the job is told, as the adapter is
                "DATABASE_URL": url_at(self.postgres.port, DATABASE, login_of("recovery")),
                "SAP_CONNECTIONS_FILE": str(self.stack.layout.sap_connections),
                **SAP_SETTLING_TIMES,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=RECOVER_TIMEOUT_SECONDS,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def send_again(self, group: str, number: int) -> requests.Response:
        """What a partner does that has heard nothing: the same payment under the same key."""
        body = self.instructions.body(group, number)
        client = self.clients[number % len(self.clients)]
        return client.post(f"{body['external_id']}-key", body)

    def operate(self, payment, what: str) -> requests.Response:
        """Ask for a later step of the payment (a row with payment_id and partner_id), or its cancellation."""
        client = next(one for one in self.clients if one.partner_id == payment.partner_id)
        return client.post(f"{payment.payment_id}-{what}", {}, f"/v1/payments/{payment.payment_id}/{what}")

    def order(self, target: str, action: str) -> requests.Response:
        """Give an operator's order about an operation or a payment."""
        return requests.post(
            f"{self.stack.layout.url('backoffice')}/admin/payments/{target}/{action}",
            headers={"X-Operator": "drill", "X-Reason": "restore drill"},
            timeout=CALL_TIMEOUT_SECONDS,
        )

    def feeds(self):
        """Every number that was given: (partner, sequence) to event."""
        rows = self.rows("SELECT partner_id, sequence, event_id FROM feed")
        return {(row.partner_id, row.sequence): row.event_id for row in rows}

    def lanes(self):
        url = self.stack.layout.url("backoffice") + "/admin/lanes"
        answer = requests.get(url, headers={"X-Operator": "drill"}, timeout=CALL_TIMEOUT_SECONDS)
        answer.raise_for_status()
        return {lane["sap_system"]: lane["state"] for lane in answer.json()["data"]}

    def _program(self, name: str, *arguments: str, given: bytes = b"") -> bytes:
        done = subprocess.run(
            [str(self.postgres._bin / name), *arguments],
            input=given,
            capture_output=True,
            check=False,
            cwd="/",
            env=self.postgres.environment(),
            timeout=PROGRAM_TIMEOUT_SECONDS,
            **self.postgres.run_as(),
        )
        if name != "psql":  # the owner's role is there already
            assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout
