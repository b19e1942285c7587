"""The gateway's composition root."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from flask import Flask, Response
from sqlalchemy import Engine

from bridge.clock import Clock, certain_moment
from bridge.key_ring_file import open_key_ring
from bridge.keyring import KeyRing
from bridge.metrics import UNMEASURED, Metrics
from bridge.ports import PartnerDirectory
from bridge.storage.accept import find_key
from bridge.storage.engine import ping
from bridge.storage.wake import WEBHOOKS_CHANNEL, Waker
from bridge.tracing import UNTRACED, Tracer
from bridge.web.addresses import Resolver, resolve
from bridge.web.health import register_health
from bridge.web.logs import register_request_log
from bridge.web.metrics import register_request_metrics
from bridge.web.problems import register_problems
from bridge.web.request_id import register_request_id
from bridge.web.strict import register_strict_requests
from bridge.web.sync_flask import SyncFlask
from bridge.web.tracing import register_tracing
from gateway.accept_payment import AcceptPayment
from gateway.acceptance_metrics import register_acceptance_metrics
from gateway.authorization import register_authorization, require_declared_routes
from gateway.batch import AcceptBatch
from gateway.batch_routes import BatchRoutes
from gateway.caller_address import CallerAddress
from gateway.cancel_payment import CancelPayment
from gateway.client_assertions import ClientAssertions
from gateway.client_secrets import SecretVerifier
from gateway.counters import make_counters
from gateway.discovery import register_discovery
from gateway.estimates import Estimates
from gateway.event_routes import EventRoutes
from gateway.idempotency import Fingerprints
from gateway.keys import ReceiptKeys, read_edge_key, read_fingerprint_key, read_receipt_keys
from gateway.limits import Limits, PartnerRequests, TokenLimits
from gateway.openapi_routes import register_openapi
from gateway.operate_payment import OncePerKey, OperatePayment
from gateway.operation_routes import OperationRoutes
from gateway.partner_record import PartnerRecord
from gateway.payment_routes import PaymentRoutes
from gateway.payment_view import PaymentView
from gateway.receipts import Receipts
from gateway.settings import Settings
from gateway.signing_keys import TOKEN_LIFETIME_SECONDS, TokenKeys
from gateway.token_endpoint import PATH as TOKEN_PATH
from gateway.token_endpoint import TokenEndpoint
from gateway.tokens import AccessTokens
from gateway.webhook_deliveries import WebhookDeliveries
from gateway.webhook_endpoints import WebhookEndpoints
from gateway.webhook_routes import WebhookRoutes
from gateway.webhook_secrets import SecretMaker
from gateway.webhook_target import WebhookTarget


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys, read at boot so that a wrong file is one line there."""

    token: TokenKeys
    receipt: ReceiptKeys
    fingerprint: bytes
    parties: KeyRing
    webhooks: KeyRing
    edge: bytes | None = None

    @classmethod
    def read(cls, settings: Settings) -> "Keys":
        return cls(
            token=TokenKeys.from_folder(settings.token_signing_keys_dir),
            receipt=read_receipt_keys(settings.receipt_signing_key),
            fingerprint=read_fingerprint_key(settings.fingerprint_key),
            edge=read_edge_key(settings.edge_key) if settings.edge_key else None,
            parties=open_key_ring(settings.party_key_ring),
            webhooks=open_key_ring(settings.webhook_key_ring),
        )


def create_app(
    settings: Settings,
    keys: Keys,
    engine: Engine,
    directory: PartnerDirectory,
    record: PartnerRecord,
    clock: Clock,
    tracer: Tracer = UNTRACED,
    resolver: Resolver = resolve,
    metrics: Metrics = UNMEASURED,
) -> Flask:
    """Wire the service. Call it in the process that serves: nothing it makes may cross a fork.

    `engine` is one of `make_statement_engine`: accepting and reading are single statements.
    """
    app = SyncFlask(__name__, static_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False  # closed by default: no route that nobody declared
    app.url_map.merge_slashes = False  # a double slash is another path, not a redirect
    app.json.sort_keys = False  # type: ignore[attr-defined] # of Flask's default provider

    issuer = settings.token_issuer
    tokens = AccessTokens(
        keys.token, issuer=issuer, audience=settings.token_audience, lifetime_seconds=TOKEN_LIFETIME_SECONDS
    )
    receipts = Receipts(keys.receipt, issuer)
    fingerprints = Fingerprints(keys.fingerprint)
    wake = Waker(engine).wake
    accept_payment = AcceptPayment(
        engine=engine,
        clock=clock,
        key_ring=keys.parties,
        fingerprints=fingerprints,
        receipts=receipts,
        wake=wake,
    )

    once_per_key = OncePerKey(engine, clock, fingerprints)
    operate_payment = OperatePayment(once_per_key, timedelta(days=settings.refund_window_days), wake)
    cancel_payment = CancelPayment(once_per_key, wake)

    register_request_metrics(app, metrics)
    register_acceptance_metrics(app, metrics)
    register_tracing(app, tracer, settings.firestore.project)
    register_request_id(app)
    register_request_log(app)
    register_problems(app, issuer)
    register_strict_requests(app)
    register_authorization(app, tokens, directory, clock)
    limits = Limits(make_counters(settings.counters_url, clock), clock)
    PartnerRequests(limits, _known_key(engine)).register(app)
    register_health(app, {"database": lambda: ping(engine), "clock": lambda: certain_moment(clock)})
    register_discovery(
        app,
        issuer=issuer,
        token_jwks=lambda: keys.token.public_jwks(clock.now()),
        receipt_jwks=receipts.public_jwks(),
    )
    TokenEndpoint(
        tokens,
        SecretVerifier(),
        ClientAssertions(engine, frozenset({issuer, issuer + TOKEN_PATH})),
        TokenLimits(
            limits,
            requests_per_address=settings.token_requests_per_minute,
            tokens_per_client=settings.tokens_per_minute,
            caller_address=CallerAddress(settings.forwarded_hops, keys.edge),
        ),
        directory,
        clock,
    ).register(app)
    view = PaymentView(Estimates(engine, clock))
    PaymentRoutes(accept_payment, engine, view).register(app)
    BatchRoutes(AcceptBatch(accept_payment), view, issuer).register(app)
    OperationRoutes(operate_payment, cancel_payment, view).register(app)
    EventRoutes(engine).register(app)
    ring_webhooks = Waker(engine, WEBHOOKS_CHANNEL).wake
    endpoints = WebhookEndpoints(
        record=record,
        engine=engine,
        clock=clock,
        secrets=SecretMaker(keys.webhooks),
        target=WebhookTarget(resolver, allow_http_loopback=settings.allow_http_loopback),
        wake=ring_webhooks,
    )
    deliveries = WebhookDeliveries(endpoints, engine, clock, ring_webhooks)
    WebhookRoutes(endpoints, deliveries, fingerprints, clock).register(app)
    register_openapi(app, issuer)
    app.after_request(_harden)
    require_declared_routes(app)
    return app


def _known_key(engine: Engine) -> Callable[[str, str], bool]:
    def is_known(partner_id: str, idempotency_key: str) -> bool:
        with engine.connect() as connection:
            return find_key(connection, partner_id, idempotency_key) is not None

    return is_known


def _harden(response: Response) -> Response:
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "no-store")
    return response
