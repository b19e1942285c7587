"""Liveness and readiness (`/healthz` is taken by Google's front end)."""

from collections.abc import Callable, Mapping

import structlog
from flask import Flask, Response, jsonify

_log = structlog.get_logger(__name__)


def register_health(app: Flask, checks: Mapping[str, Callable[[], object]]) -> None:
    """Add `/livez` (the process answers) and `/readyz`: 503 with the names of the checks that raised.

    Each check has to bound its own time.
    """

    @app.get("/livez")
    def livez() -> Response:
        return jsonify(status="ok")

    @app.get("/readyz")
    def readyz() -> tuple[Response, int]:
        missing = [name for name, check in checks.items() if not _passes(name, check)]
        if missing:
            return jsonify(status="unavailable", missing=missing), 503
        return jsonify(status="ok"), 200


def _passes(name: str, check: Callable[[], object]) -> bool:
    try:
        check()
    except Exception as error:  # noqa: BLE001 - whatever it is, the service is not ready
        _log.warning("not ready", missing=name, error=type(error).__name__)
        return False
    return True
