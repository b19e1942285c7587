"""The receiver's HTTP side: `POST /webhooks/<partner id>` and what tests read and steer it by."""

import json
import re
import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flask import Flask, Response, jsonify, request
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from standardwebhooks import WebhookVerificationError
from werkzeug.exceptions import HTTPException

from devstack.receiver.secrets_file import SecretsFile
from devstack.receiver.store import Control, Delivery, Query, Store

MAX_BODY_BYTES = 1024 * 1024
MAX_LISTED = 100_000
PARTNER_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")


class ControlBody(BaseModel):
    """Replaces all: a member left out is at its default."""

    model_config = ConfigDict(extra="forbid", strict=True)

    status: int = Field(default=200, ge=200, le=599)
    delay_ms: int = Field(default=0, ge=0, le=600_000)
    fail_first: int = Field(default=0, ge=0, le=1000)
    fail_rate: float = Field(default=0.0, ge=0.0, le=1.0)


class ListQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    payment_id: str | None = None
    partner_id: str | None = None
    since: datetime | None = None
    distinct: bool = False
    limit: int = Field(default=MAX_LISTED, ge=1, le=MAX_LISTED)


_CONTROL = TypeAdapter(ControlBody)
_QUERY = TypeAdapter(ListQuery)


def create_app(data: Path, secrets: Path) -> Flask:
    """Raises sqlite3.Error when `data` can't be used. `secrets`: see SecretsFile."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    store = Store(data)
    _add_partner_routes(app, store, SecretsFile(secrets))
    _add_test_routes(app, store)
    _add_error_handlers(app)
    return app


def _add_partner_routes(app: Flask, store: Store, secrets_file: SecretsFile) -> None:
    @app.post("/webhooks/<partner_id>")
    def receive(partner_id: str) -> tuple[str, int]:
        body = request.get_data(cache=False)  # raw: the signature is over these very bytes
        if not PARTNER_ID.fullmatch(partner_id):
            return "", 404
        headers = {name.lower(): value for name, value in request.headers.items()}
        verified = is_verified(secrets_file, partner_id, body, headers)
        answer = store.record(read_delivery(partner_id, body, headers.get("webhook-id"), verified=verified))
        time.sleep(answer.delay_ms / 1000)
        return "", answer.status


def _add_test_routes(app: Flask, store: Store) -> None:
    @app.get("/_received")
    def received() -> Response:
        query = _QUERY.validate_python(request.args.to_dict())
        since = None if query.since is None else rfc3339(query.since)
        rows = store.received(Query(query.payment_id, query.partner_id, since, query.distinct, query.limit))
        return jsonify(rows)

    @app.get("/_control")
    def show_control() -> Response:
        return jsonify(store.control())

    @app.put("/_control")
    def set_control() -> Response:
        body = _CONTROL.validate_json(request.get_data(cache=False))
        store.set_control(Control(**body.model_dump()))
        return jsonify(store.control())

    @app.post("/_reset")
    def reset() -> tuple[str, int]:
        store.reset()
        return "", 204

    @app.get("/livez")
    def livez() -> Response:
        return jsonify(status="ok")


def _add_error_handlers(app: Flask) -> None:
    @app.errorhandler(ValidationError)
    def refuse(error: ValidationError) -> tuple[Response, int]:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        details = [{"at": list(problem["loc"]), "detail": problem["msg"]} for problem in problems]
        return jsonify(title="invalid request", errors=details), 400

    @app.errorhandler(HTTPException)
    def explain(error: HTTPException) -> tuple[Response, int]:
        return jsonify(title=error.name), error.code or 500

    @app.errorhandler(sqlite3.Error)
    def storage_failed(error: sqlite3.Error) -> tuple[Response, int]:
        # not recorded, so not accepted: the sender comes again
        app.logger.error("storage failed: %s", error)
        return jsonify(title="storage failed"), 503


def is_verified(secrets_file: SecretsFile, partner_id: str, body: bytes, headers: dict[str, str]) -> bool:
    """Check the Standard Webhooks signature and its age (5 minutes, the library's bound)."""
    verifier = secrets_file.verifier(partner_id)
    if verifier is None:
        return False
    try:
        verifier.verify(body, headers, json_parse=False)
    except (WebhookVerificationError, ValueError):  # ValueError: malformed base64, header or text
        return False
    return True


def read_delivery(partner_id: str, body: bytes, webhook_id: str | None, *, verified: bool) -> Delivery:
    """Take what is there from an event of the public contract; a body that is something else has nothing."""
    event = _object(_parsed(body))
    payment = _object(_object(event.get("data")).get("payment"))
    return Delivery(
        id=webhook_id,
        partner_id=partner_id,
        type=_text(event.get("type")),
        payment_id=_text(payment.get("id")),
        sequence=_number(event.get("sequence")),
        previous_sequence=_number(event.get("previous_sequence")),
        verified=verified,
        received_at=rfc3339(datetime.now(UTC)),
    )


def rfc3339(moment: datetime) -> str:
    """UTC with milliseconds; a time without a zone is taken as UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> int | None:
    is_storable = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return value if is_storable else None
