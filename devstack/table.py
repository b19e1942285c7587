"""The table of everything the local stack runs: one entry per process or step."""

import signal

from bridge.messages import WEBHOOK_QUEUE
from devstack import edge
from devstack.emulators import Emulators
from devstack.keys import SAP_USER, Keys
from devstack.layout import PROJECT_ID, QUEUE_LOCATION, REPOSITORY, SAP_SYSTEMS, Layout
from devstack.postgres import Postgres
from devstack.programs import base_environment, python
from devstack.services import WEBHOOK_DISPATCHES, services
from devstack.units import Unit, accepts_connections, answers_http


def build_table(layout: Layout, keys: Keys, emulators: Emulators, postgres: Postgres) -> list[Unit]:
    """Every unit, in the order in which the first ones start."""
    return [
        *_infrastructure(layout, emulators, postgres),
        *_outside_world(layout, keys),
        *_steps(layout),
        *services(layout, keys, postgres),
        *_edge(layout),
    ]


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
            base_environment(layout),
            ready=answers_http(ports["pubsub"], "/"),
        ),
        Unit(
            "firestore",
            emulators.firestore_command(ports["firestore"]),
            base_environment(layout),
            ready=answers_http(ports["firestore"], "/"),
        ),
        python(
            layout,
            "cloud_tasks",
            "devstack.cloud_tasks",
            f"--port={ports['cloud_tasks']}",
            f"--data={layout.data('cloud_tasks')}.sqlite",
            f"--queue={queue}",
            # fewer than the webhooks service has threads: pushes find one free while receivers hang
            f"--max-concurrent-dispatches={WEBHOOK_DISPATCHES}",
            ready=accepts_connections(ports["cloud_tasks"]),
        ),
    ]


def _outside_world(layout: Layout, keys: Keys) -> list[Unit]:
    """What is not ours in production: SAP and the partners."""
    ports = layout.ports
    return [
        python(
            layout,
            "receiver",
            "devstack.receiver",
            f"--port={ports['receiver']}",
            f"--data={layout.data('receiver')}.sqlite",
            f"--secrets={keys.receiver_secrets}",
            ready=answers_http(ports["receiver"], "/livez"),
        ),
        python(
            layout,
            "sap_mock",
            "sap_mock",
            environment={
                "HOST": "127.0.0.1",
                "PORT": str(ports["sap_mock"]),
                "SAP_MOCK_DATA": f"{layout.data('sap_mock')}.sqlite",
                "SAP_MOCK_SYSTEMS": ",".join(SAP_SYSTEMS),
                "SAP_MOCK_USER": SAP_USER,
                "SAP_MOCK_PASSWORD": keys.sap_password,
            },
            ready=answers_http(ports["sap_mock"], "/_control/stats"),
        ),
    ]


def _edge(layout: Layout) -> list[Unit]:
    """The API Gateway's stand-in; it needs the gateway's keys, but once started outlives the gateway."""
    if not layout.has_edge:
        return []
    ports = layout.ports
    command = edge.command(
        ports["envoy"],
        ports["gateway"],
        layout.state_folder,
        token_issuer=layout.api,
        token_audience=layout.api,
    )
    return [
        Unit(
            "envoy",
            command,
            base_environment(layout),
            after=("gateway",),
            ready=edge.is_ready(ports["envoy"]),
            working_directory=REPOSITORY,
        )
    ]


def _steps(layout: Layout) -> list[Unit]:
    where = (f"--state-dir={layout.state_folder}", f"--port-offset={layout.port_offset}")
    return [
        python(layout, "prepare-database", "devstack.prepare", "database", *where, after=("postgres",)),
        python(
            layout,
            "prepare-partners",
            "devstack.prepare",
            "partners",
            *where,
            after=("prepare-database", "firestore"),
            again_after=("firestore",),
        ),
        python(
            layout,
            "prepare-topics",
            "devstack.prepare",
            "topics",
            *where,
            after=("pubsub",),
            again_after=("pubsub",),
        ),
    ]
