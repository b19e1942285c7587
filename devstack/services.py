"""The bridge's own services in the table: what each is told through its environment.

The times of the SAP adapter are short: the mock answers in milliseconds, its faults are scripted in seconds.
"""

from collections.abc import Mapping

from devstack.keys import Keys
from devstack.layout import MEASURED, PROJECT_ID, QUEUE_LOCATION, Layout
from devstack.logins import login_of
from devstack.postgres import DATABASE, Postgres, url_at
from devstack.programs import python
from devstack.units import Unit, answers_http

# a service starts when what it needs at its first call is there
AFTER = ("prepare-database", "prepare-partners", "prepare-topics", "cloud_tasks", "sap_mock", "receiver")
# gunicorn lets running requests end (bridge.web.serve)
STOP_TIMEOUT_SECONDS = 8.0
WEBHOOK_THREADS = 32
WEBHOOK_DISPATCHES = 24
# quick at first, so that a receiver that was away is told soon after it is back
WEBHOOK_SCHEDULE_SECONDS = "1,2,3,5,10,30,60,300,1800,7200"
SAP_CALL_TIMES = {
    "SAP_CONNECT_TIMEOUT_SECONDS": "2",
    "SAP_READ_TIMEOUT_SECONDS": "8",
    "SAP_LEASE_MARGIN_SECONDS": "2",
}
# when the adapter believes SAP's "none" is when the dispatcher's watchdog has it asked: one value for both
SAP_SETTLING_TIMES = {"SAP_SETTLING_SECONDS": "4", "SAP_READ_LAG_SECONDS": "1"}
# longer than a call's lease and any ordinary wait in the broker, much shorter than a person's patience
WATCHDOG_TIMES = {"WATCHDOG_FIRST_SECONDS": "15", "WATCHDOG_INTERVAL_SECONDS": "2"}


def services(layout: Layout, keys: Keys, postgres: Postgres) -> list[Unit]:
    """One unit per service; all but the dispatcher's worker speak HTTP."""
    party_data = {"PARTY_KEY_RING": str(keys.party_data)}
    return [
        _http_service(
            layout,
            "gateway",
            "gateway",
            {
                **party_data,
                "TOKEN_ISSUER": layout.api,
                "TOKEN_AUDIENCE": layout.api,
                "TOKEN_SIGNING_KEYS_DIR": str(keys.token_signing_folder),
                "RECEIPT_SIGNING_KEY": str(keys.receipt_signing),
                "FINGERPRINT_KEY": str(keys.fingerprint),
                "WEBHOOK_KEY_RING": str(keys.webhook_secrets),
                "WEBHOOK_ALLOW_HTTP_LOOPBACK": "true",
                # every program on this machine has one address
                "TOKENS_PER_MINUTE": "100000",
                "TOKEN_REQUESTS_PER_MINUTE": "100000",
            },
        ),
        _http_service(
            layout,
            "sap_adapter",
            "sap_adapter",
            {
                **party_data,
                **SAP_CALL_TIMES,
                **SAP_SETTLING_TIMES,
                "SAP_CONNECTIONS_FILE": str(layout.sap_connections),
            },
        ),
        _http_service(
            layout,
            "webhooks",
            "webhooks",
            {
                "WEBHOOK_KEY_RING": str(keys.webhook_secrets),
                "WEBHOOK_SCHEDULE_SECONDS": WEBHOOK_SCHEDULE_SECONDS,
                "THREADS": str(WEBHOOK_THREADS),
                "WEBHOOK_ALLOW_HTTP_LOOPBACK": "true",
                "TASK_TARGET_URL": layout.url("webhooks") + "/tasks/deliveries",
                "TASK_LOCATION": QUEUE_LOCATION,
            },
        ),
        _http_service(layout, "partners", "partners", {"OPERATOR_AUTHENTICATION": "emulator"}),
        _http_service(
            layout, "backoffice", "backoffice", {"OPERATOR_AUTHENTICATION": "emulator", **SAP_SETTLING_TIMES}
        ),
        _http_service(layout, "dead_letters", "dispatcher.dead_letters", {}),
        python(
            layout,
            "dispatcher",
            "dispatcher",
            environment={**_environment(layout, "dispatcher"), **SAP_SETTLING_TIMES, **WATCHDOG_TIMES},
            after=AFTER,
            ready=lambda: postgres.has_session_of(login_of("dispatcher")),
            stop_timeout_seconds=STOP_TIMEOUT_SECONDS,
        ),
    ]


def _http_service(layout: Layout, name: str, module: str, own: Mapping[str, str]) -> Unit:
    port = layout.ports[name]
    return python(
        layout,
        name,
        module,
        environment={**_environment(layout, name), **own, "HOST": "127.0.0.1", "PORT": str(port)},
        after=AFTER,
        ready=answers_http(port, "/readyz"),
        stop_timeout_seconds=STOP_TIMEOUT_SECONDS,
    )


def _environment(layout: Layout, role: str) -> dict[str, str]:
    """What every service gets; each logs in to the database with its own rights."""
    metrics = {
        "OTEL_METRICS_EXPORTER": "prometheus",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(layout.ports.get(f"{role}_metrics")),
    }
    return {
        **(metrics if role in MEASURED else {}),
        "DATABASE_URL": url_at(layout.ports["postgres"], DATABASE, login_of(role)),
        "GOOGLE_CLOUD_PROJECT": PROJECT_ID,
        "PUBSUB_EMULATOR_HOST": layout.address("pubsub"),
        "FIRESTORE_EMULATOR_HOST": layout.address("firestore"),
        "CLOUD_TASKS_EMULATOR_HOST": layout.address("cloud_tasks"),
        "PUSH_AUTHENTICATION": "emulator",
        "OTEL_TRACES_EXPORTER": "file",
        "TRACES_FILE": str(layout.traces_file),
    }
