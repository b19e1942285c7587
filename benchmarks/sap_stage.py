"""The SAP side on a private stage: broker, mock, adapters, dispatchers as processes, and our own pusher."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
import requests
from sqlalchemy import Engine, create_engine, text

from benchmarks.broker import broker, create_topic, drop_subscription, pull, subscribe
from benchmarks.payments import new_payment
from benchmarks.pusher import Pusher
from benchmarks.servers import Server, process, running
from benchmarks.stage import PROJECT, Stage
from bridge.clock import SystemClock
from bridge.key_ring_file import KeyRingSettings, open_key_ring
from bridge.messages import EVENTS_TOPIC, operations_topic
from bridge.partner_mirror import PartnerMirror
from bridge.storage.accept import NewPayment, accept, make_statement_engine
from bridge.storage.engine import DatabaseSettings
from bridge.storage.lane_control import set_cap
from bridge.storage.migrate import add_sap_systems
from bridge.storage.wake import Waker
from devstack.keys import SAP_USER, write_sap_connections
from devstack.logins import login_of, url_as
from devstack.preflight import StartError
from devstack.seed import SAP_SYSTEM, demo_document

READY_SECONDS = 120.0
POLL_SECONDS = 0.05
ADAPTER_THREADS = 48
WARM_UP_PAYMENTS = 10
# a second subscription of the operations, to see when each message was published
WATCH = "watch"
# short, as in the local stack: the mock's faults are scripted in seconds
SAP_TIMES = {
    "SAP_CONNECT_TIMEOUT_SECONDS": "2",
    "SAP_READ_TIMEOUT_SECONDS": "8",
    "SAP_LEASE_MARGIN_SECONDS": "2",
    "SAP_SETTLING_SECONDS": "4",
    "SAP_READ_LAG_SECONDS": "1",
}


@dataclass(frozen=True)
class SapStage:
    """What runs, and how to look at it. `owner` is the database's owner."""

    stage: Stage
    owner: Engine
    broker: str
    mocks: dict[str, Server]
    adapters: list[Server]
    dispatchers: list[int]
    pushers: list[Pusher]

    def sap_url(self, sap_system: str = SAP_SYSTEM) -> str:
        return f"http://127.0.0.1:{self.mocks[sap_system].port}"

    def faults(self, sap_system: str = SAP_SYSTEM, **faults: Any) -> None:
        """Replace the mock's faults."""
        url = f"{self.sap_url(sap_system)}/_control/faults"
        requests.put(url, json=faults, timeout=10).raise_for_status()

    def count_anew(self, **faults: Any) -> None:
        """Forget the mock's counts, its documents too, and set its faults."""
        requests.post(f"{self.sap_url()}/_control/reset", timeout=10).raise_for_status()
        self.faults(**faults)

    def stats(self, sap_system: str = SAP_SYSTEM) -> dict[str, int]:
        answer = requests.get(f"{self.sap_url(sap_system)}/_control/stats", timeout=10)
        found: dict[str, int] = answer.json()
        return found

    def scalar(self, statement: str, **parameters: Any) -> Any:
        with self.owner.connect() as connection:
            return connection.execute(text(statement), parameters).scalar()

    def cpu_seconds(self) -> tuple[float, float]:
        """Processor time that the adapters and the dispatchers have used so far."""
        dispatchers = 0.0
        for pid in self.dispatchers:
            times = psutil.Process(pid).cpu_times()
            dispatchers += times.user + times.system
        return sum(server.worker_cpu_seconds() for server in self.adapters), dispatchers

    def hand_over_one_by_one(self, run: str, count: int, pause_seconds: float) -> list[str]:
        """Accept payments at a distance, ringing after each as the gateway does; return their ids."""
        return [payment_id for payment_id, _, _ in self._one_by_one(run, count, pause_seconds)]

    def hand_over(self, run: str, count: int, *, partner: int = 0, sap_system: str = SAP_SYSTEM) -> list[str]:
        """Accept payments by the gateway's own statement; return their ids."""
        settings = DatabaseSettings(url_as(self.stage.postgres.url(), login_of("gateway")), None, None, None)
        engine = make_statement_engine(settings, pool_size=1, application_name="bench")
        made = []
        with engine.connect() as connection:
            for number in range(count):
                new = self._payment(run, number, partner=partner, sap_system=sap_system)
                if not accept(connection, new):
                    raise RuntimeError("a new payment was taken for an old one")
                made.append(new.payment.payment_id)
        engine.dispose()
        return made

    def _payment(
        self, run: str, number: int, *, partner: int = 0, sap_system: str = SAP_SYSTEM
    ) -> NewPayment:
        """A payment of one of the stage's partners, without names and accounts."""
        new = new_payment(f"{run}-{partner}", number)
        payment = replace(new.payment, partner_id=self.stage.keys.partners[partner].partner_id)
        return replace(new, payment=payment, encrypted_parties=None, sap_system=sap_system)

    def published_after_ms(self, count: int, pause_seconds: float) -> list[float]:
        """Accept payments one by one on an idle stage; return how long after its commit each was published.

        The first few are not counted: they wait for connections to be made and statements to be prepared.
        Both by this machine's clock; Pub/Sub tells its publish time to the millisecond.
        """
        self._one_by_one("warm-up", WARM_UP_PAYMENTS, pause_seconds)
        committed = {
            operation_id: at for _, operation_id, at in self._one_by_one("latency", count, pause_seconds)
        }
        first: dict[str, float] = {}
        deadline = time.monotonic() + READY_SECONDS
        while committed.keys() - first.keys():
            if time.monotonic() > deadline:
                raise RuntimeError("some payments were not published")
            for message in pull(self.broker, WATCH):
                operation_id = json.loads(message.data)["operation_id"]
                published = message.publish_time.timestamp()
                first[operation_id] = min(published, first.get(operation_id, published))
        return [(first[operation_id] - at) * 1000 for operation_id, at in committed.items()]

    def stop_watching(self) -> None:
        """Nobody else has a second subscription, for which the broker would keep every message."""
        drop_subscription(self.broker, WATCH)

    def _one_by_one(self, run: str, count: int, pause_seconds: float) -> list[tuple[str, str, float]]:
        """Return each one's payment and operation, and when it was committed."""
        settings = DatabaseSettings(url_as(self.stage.postgres.url(), login_of("gateway")), None, None, None)
        engine = make_statement_engine(settings, pool_size=2, application_name="bench")
        waker, made = Waker(engine), []
        for number in range(count):
            new = self._payment(run, number)
            with engine.connect() as connection:
                if not accept(connection, new):
                    raise RuntimeError("a new payment was taken for an old one")
            made.append((new.payment.payment_id, new.operation.operation_id, time.time()))
            waker.wake()
            time.sleep(pause_seconds)
        waker.close()
        engine.dispose()
        return made


@contextlib.contextmanager
def sap_staged(
    stage: Stage,
    *,
    hard_cap: int,
    adapters: int = 1,
    dispatchers: int = 1,
    in_flight: int = 32,
    sap_systems: Sequence[str] = (SAP_SYSTEM,),
    sap_times: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[SapStage]:
    """Start everything behind the gateway; each SAP system's pusher has `in_flight` requests open.

    `sap_times`: environment of the adapters that differs from SAP_TIMES.
    """
    owner = create_engine(stage.postgres.url(), pool_size=5)
    with contextlib.ExitStack() as stack:
        stack.callback(owner.dispose)
        address = stack.enter_context(broker(stage))
        create_topic(address, EVENTS_TOPIC, subscribed=False)
        for sap_system in sap_systems:
            create_topic(address, operations_topic(sap_system))
        subscribe(address, operations_topic(SAP_SYSTEM), WATCH)
        _set_up_lanes(stage, owner, sap_systems, hard_cap)
        mocks = {name: stack.enter_context(_mock(stage, name)) for name in sap_systems}
        connections = stage.folder / "sap-connections.json"
        urls_of_sap = {name: f"http://127.0.0.1:{mock.port}" for name, mock in mocks.items()}
        write_sap_connections(connections, urls_of_sap, stage.keys.sap_password)
        servers = [
            stack.enter_context(_adapter(stage, connections, number, sap_times)) for number in range(adapters)
        ]
        working = [stack.enter_context(_dispatcher(stage, address, number)) for number in range(dispatchers)]
        _wait_for_dispatchers(owner, dispatchers)
        urls = [f"http://127.0.0.1:{server.port}/pubsub/operations" for server in servers]
        pushers = []
        for sap_system in sap_systems:
            subscription = f"projects/{PROJECT}/subscriptions/{operations_topic(sap_system)}"
            pushers.append(Pusher(address, subscription, urls, in_flight=in_flight).start())
            stack.callback(pushers[-1].close)
        yield SapStage(stage, owner, address, mocks, servers, [each.pid for each in working], pushers)


def _wait_for_dispatchers(owner: Engine, count: int) -> None:
    """A dispatcher is ready when it listens for wakes."""
    listening = text("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%LISTEN bridge_wake'")
    deadline = time.monotonic() + READY_SECONDS
    while True:
        with owner.connect() as connection:
            if connection.execute(listening).scalar_one() >= count:
                return
        if time.monotonic() > deadline:
            raise StartError("a dispatcher did not start")
        time.sleep(POLL_SECONDS)


def _set_up_lanes(stage: Stage, owner: Engine, sap_systems: Sequence[str], hard_cap: int) -> None:
    """Lanes with that cap, and two partners in the mirror; Firestore is away on this stage."""
    with owner.begin() as connection:
        add_sap_systems(connection, dict.fromkeys(sap_systems, hard_cap))
        for sap_system in sap_systems:
            set_cap(connection, sap_system, hard_cap)
    webhook_keys = open_key_ring(KeyRingSettings(str(stage.keys.webhook_secrets), "webhook-secrets"))
    for number, partner in enumerate(stage.keys.partners, 1):
        document = demo_document("http://127.0.0.1:1", partner, number, webhook_keys)
        main = document.targets["main"]
        targets = {name: main.model_copy(update={"sap_system": name}) for name in sap_systems}
        routing = document.routing.model_copy(update={"default": sap_systems[0]})
        document = document.model_copy(update={"targets": targets, "routing": routing})
        PartnerMirror(owner).remember(document, SystemClock().now())


def _mock(stage: Stage, sap_system: str) -> contextlib.AbstractContextManager[Server]:
    environment = {
        "PATH": os.environ["PATH"],
        "SAP_MOCK_DATA": str(stage.folder / f"{sap_system}.sqlite"),
        "SAP_MOCK_USER": SAP_USER,
        "SAP_MOCK_PASSWORD": stage.keys.sap_password,
        "SAP_MOCK_SEED": "1",
    }
    return running(
        "sap_mock", ["sap_mock"], environment, "/_control/stats", stage.folder / f"{sap_system}.log"
    )


def _adapter(
    stage: Stage, connections: Path, number: int, sap_times: Mapping[str, str]
) -> contextlib.AbstractContextManager[Server]:
    environment = {
        **stage.environment(),
        **SAP_TIMES,
        **sap_times,
        "DATABASE_URL": url_as(stage.postgres.url(), login_of("sap_adapter")),
        "PUSH_AUTHENTICATION": "emulator",
        "SAP_CONNECTIONS_FILE": str(connections),
        "THREADS": str(ADAPTER_THREADS),
    }
    log = stage.folder / f"sap_adapter-{number}.log"
    return running("sap_adapter", ["sap_adapter"], environment, "/readyz", log)


def _dispatcher(stage: Stage, broker_address: str, number: int) -> contextlib.AbstractContextManager[Any]:
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": url_as(stage.postgres.url(), login_of("dispatcher")),
        "GOOGLE_CLOUD_PROJECT": PROJECT,
        "PUBSUB_EMULATOR_HOST": broker_address,
        "SAP_SETTLING_SECONDS": SAP_TIMES["SAP_SETTLING_SECONDS"],
        "SAP_READ_LAG_SECONDS": SAP_TIMES["SAP_READ_LAG_SECONDS"],
    }
    log = stage.folder / f"dispatcher-{number}.log"
    return process([sys.executable, "-m", "dispatcher"], environment, log)
