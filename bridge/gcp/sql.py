"""Connections to Cloud SQL: private IP, IAM authentication, certificates refreshed when they are needed."""

from collections.abc import Callable, Mapping
from typing import Any

from google.cloud.sql.connector import Connector, IPTypes


def cloud_sql_creator(
    instance: str,
    *,
    user: str,
    database: str,
    application_name: str,
    startup_params: Mapping[str, str],
    timeout_seconds: float,
) -> Callable[[], Any]:
    """Return what makes one pg8000 connection to `instance` (project:region:name).

    The connector is made at the first connection, so after fork; `user` is the service account's e-mail
    without `.gserviceaccount.com`.
    """
    connectors: list[Connector] = []

    def connect() -> Any:
        if not connectors:
            # Lazy: a background refresh starves where the CPU is throttled between requests.
            connectors.append(Connector(refresh_strategy="lazy"))
        return connectors[0].connect(
            instance,
            "pg8000",
            user=user,
            db=database,
            enable_iam_auth=True,
            ip_type=IPTypes.PRIVATE,
            application_name=application_name,
            timeout=int(timeout_seconds),
            startup_params=dict(startup_params),
        )

    return connect
