"""Where the local stack keeps things and which ports it uses. Pure: nothing here touches the disk."""

from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT_ID = "partner-payments-local"
QUEUE_LOCATION = "europe-west3"
# the SAP systems of the local stack and how many calls each takes at once; the second is for tests of lanes;
# one sap_mock plays both, each with a ledger and faults of its own
SAP_SYSTEMS = {"s4-main": 8, "s4-second": 8}
# where the demo partners' money stands until it is with the bank: payments debit it, refunds credit it
CLEARING_ACCOUNT = "113100"
MAX_PORT = 65535

# What partners use. Where there is no Envoy, the gateway itself listens on it.
API_PORT = 8080
PORTS = {
    "envoy": API_PORT,
    "gateway": 8081,
    "sap_adapter": 8082,
    "webhooks": 8083,
    "partners": 8084,
    "pubsub": 8085,
    "firestore": 8086,
    "dead_letters": 8087,
    "cloud_tasks": 8088,
    "backoffice": 8089,
    "sap_mock": 8090,
    "receiver": 8091,
    "postgres": 8092,
    # Prometheus text, one port for each service that tells metrics
    "gateway_metrics": 8093,
    "dispatcher_metrics": 8094,
    "sap_adapter_metrics": 8095,
    "webhooks_metrics": 8096,
    "backoffice_metrics": 8097,
}
MEASURED = ("gateway", "dispatcher", "sap_adapter", "webhooks", "backoffice")


@dataclass(frozen=True)
class Layout:
    """One stack: its state folder, and the offset added to every port so that several can run at once.

    `has_edge`: Envoy stands before the gateway.
    """

    state_folder: Path
    port_offset: int = 0
    has_edge: bool = True

    @property
    def ports(self) -> dict[str, int]:
        ports = dict(PORTS)
        if not self.has_edge:
            ports["gateway"] = ports.pop("envoy")
        return {name: port + self.port_offset for name, port in ports.items()}

    @property
    def api(self) -> str:
        """The address that partners use, whoever listens there."""
        return f"http://127.0.0.1:{API_PORT + self.port_offset}"

    def address(self, name: str) -> str:
        """host:port, as the emulator variables of Google's clients want it."""
        return f"127.0.0.1:{self.ports[name]}"

    def url(self, name: str) -> str:
        return f"http://{self.address(name)}"

    @property
    def stack_file(self) -> Path:
        return self.state_folder / "stack.json"

    @property
    def lock_file(self) -> Path:
        return self.state_folder / "supervisor.lock"

    @property
    def keys_folder(self) -> Path:
        return self.state_folder / "keys"

    @property
    def sap_connections(self) -> Path:
        """Written at each start: it names the mock's port."""
        return self.keys_folder / "sap-connections.json"

    @property
    def logs_folder(self) -> Path:
        return self.state_folder / "logs"

    @property
    def traces_file(self) -> Path:
        """A tenth of the traces, as in production: one JSON line per span, from all services."""
        return self.logs_folder / "traces.jsonl"

    def log(self, name: str) -> Path:
        return self.logs_folder / f"{name}.log"

    def data(self, name: str) -> Path:
        """The folder a process keeps its own data in."""
        return self.state_folder / name
