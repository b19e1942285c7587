"""The table of everything the local stack runs: one entry per process or step."""

import os
import signal
import sys
from collections.abc import Mapping

from bridge.messages import WEBHOOK_QUEUE
from devstack.emulators import Emulators
from devstack.keys import Keys
from devstack.layout import PROJECT_ID, QUEUE_LOCATION, REPOSITORY, Layout
from devstack.logins import login_of
from devstack.postgres import DATABASE, Postgres, url_at
from devstack.units import Unit, accepts_connections, answers_http

# Only these of the caller's variables reach the processes: a proxy, a K_SERVICE or the credentials of the
# person who runs the stack have no business in it.
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "JAVA_HOME", "VIRTUAL_ENV", "PYTHONPATH")


def build_table(layout: Layout, keys: Keys, emulators: Emulators, postgres: Postgres) -> list[Unit]:
    """Every unit, in the order in which the first ones start."""
    return [
        *_infrastructure(layout, emulators, postgres),
        *_outside_world(layout, keys),
        *_steps(layout),
        *_services(layout, keys),
    ]


def _base_environment(layout: Layout) -> dict[str, str]:
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    # DEVSTACK tells a person with a process list which stack a process belongs to
    return {**passed, "PYTHONUNBUFFERED": "1", "TZ": "UTC", "DEVSTACK": str(layout.state_folder)}


def _python(
    layout: Layout,
    name: str,
    module: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    **rest: object,
) -> Unit:
    return Unit(
        name,
        (sys.executable, "-m", module, *arguments),
        {**_base_environment(layout), **(environment or {})},
        working_directory=REPOSITORY,
        **rest,  # type: ignore[arg-type] # the remaining fields of Unit, by name
    )


def _infrastructure(layout: Layout, emulators: Emulators, postgres: Postgres) -> list[Unit]:
    ports = layout.ports
    queue = f"projects/{PROJECT_ID}/locations/{QUEUE_LOCATION}/queues/{WEBHOOK_QUEUE}"
    return [
        Unit(
            "postgres",
            tuple(postgres.command()),
            postgres.environment(),
            ready=postgres.is_ready,
            run_as=postgres.run_as(),
            folder=postgres.data_folder,
            stop_signal=signal.SIGINT,  # fast shutdown: roll back and end, whoever is connected
        ),
        Unit(
            "pubsub",
            emulators.pubsub_command(ports["pubsub"]),
            _base_environment(layout),
            ready=answers_http(ports["pubsub"], "/"),
        ),
        Unit(
            "firestore",
            emulators.firestore_command(ports["firestore"]),
            _base_environment(layout),
            ready=answers_http(ports["firestore"], "/"),
        ),
        _python(
            layout,
            "cloud_tasks",
            "devstack.cloud_tasks",
            f"--port={ports['cloud_tasks']}",
            f"--data={layout.data('cloud_tasks')}.sqlite",
            f"--queue={queue}",
            ready=accepts_connections(ports["cloud_tasks"]),
        ),
    ]


def _outside_world(layout: Layout, keys: Keys) -> list[Unit]:
    """What is not ours in production: SAP and the partners."""
    ports = layout.ports
    return [
        _python(
            layout,
            "receiver",
            "devstack.receiver",
            f"--port={ports['receiver']}",
            f"--data={layout.data('receiver')}.sqlite",
            f"--secrets={keys.receiver_secrets}",
            ready=answers_http(ports["receiver"], "/livez"),
        ),
    ]


def _steps(layout: Layout) -> list[Unit]:
    where = (f"--state-dir={layout.state_folder}", f"--port-offset={layout.port_offset}")
    return [
        _python(layout, "prepare-database", "devstack.prepare", "database", *where, after=("postgres",)),
        _python(
            layout,
            "prepare-topics",
            "devstack.prepare",
            "topics",
            *where,
            after=("pubsub",),
            again_after=("pubsub",),
        ),
    ]


def _services(layout: Layout, keys: Keys) -> list[Unit]:
    return []


def _service_environment(layout: Layout, role: str) -> dict[str, str]:
    """What every service of the bridge gets; each logs in to the database with its own rights."""
    return {
        "HOST": "127.0.0.1",
        "DATABASE_URL": url_at(layout.ports["postgres"], DATABASE, login_of(role)),
        "GOOGLE_CLOUD_PROJECT": PROJECT_ID,
        "PUBSUB_EMULATOR_HOST": layout.address("pubsub"),
        "FIRESTORE_EMULATOR_HOST": layout.address("firestore"),
        "CLOUD_TASKS_EMULATOR_HOST": layout.address("cloud_tasks"),
        "PUSH_AUTHENTICATION": "emulator",
    }
