"""What partners do with their webhook endpoints: register, read, change, rotate, delete.

The endpoint is in the partner's document; whether it is enabled is on its cursor. A change writes Firestore,
then, in one transaction, mirror, cursor and audit; a request that is repeated after a failure between the two
finishes the second. Idempotency keys are kept beside the secret that was made under them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine

from bridge.clock import Clock, to_the_millisecond
from bridge.errors import RejectedError
from bridge.ids import new_id
from bridge.partner import PartnerConfiguration
from bridge.storage import audit, webhook_endpoints, webhooks
from bridge.storage.feed import feed_head
from bridge.storage.transactions import transaction
from bridge.storage.webhook_endpoints import EndpointState
from bridge.webhook_endpoint import MAX_ENDPOINTS, AskedBy, SigningSecret, WebhookEndpoint
from gateway.partner_record import PartnerRecord
from gateway.webhook_request import EndpointChangesModel, NewEndpointModel
from gateway.webhook_secrets import SecretMaker
from gateway.webhook_target import WebhookTarget


@dataclass(frozen=True, slots=True)
class StandingEndpoint:
    """An endpoint and how it stands. `secret` is in clear, only for the answer that shows it."""

    endpoint: WebhookEndpoint
    state: EndpointState
    secret: str | None = None
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class WebhookEndpoints:
    """`engine` is one of `make_statement_engine`; `wake` rings at the webhooks service, after a commit."""

    record: PartnerRecord
    engine: Engine
    clock: Clock
    secrets: SecretMaker
    target: WebhookTarget
    wake: Callable[[], None]

    def list(self, partner: PartnerConfiguration) -> list[StandingEndpoint]:
        """Return all of the partner's, the oldest first, as of the newest document that anybody has seen."""
        mirrored = self.record.mirror.get(partner.partner_id)
        newest = partner
        if mirrored is not None and mirrored.configuration.version > partner.version:
            newest = mirrored.configuration
        with self.engine.connect() as connection:
            states = webhook_endpoints.endpoint_states(connection, partner.partner_id)
        standing = [
            StandingEndpoint(endpoint, states.get(endpoint.endpoint_id, EndpointState()))
            for endpoint in newest.webhook_endpoints
        ]
        return [each for each in standing if each.state.status != "deleted"]

    def get(self, partner: PartnerConfiguration, endpoint_id: str) -> StandingEndpoint:
        """404 if the partner has no such endpoint."""
        for standing in self.list(partner):
            if standing.endpoint.endpoint_id == endpoint_id:
                return standing
        raise no_such_endpoint()

    def create(self, partner_id: str, wanted: NewEndpointModel, asked_by: AskedBy | None) -> StandingEndpoint:
        """Register an endpoint, or return the one that was registered under the same key. 409, 422."""
        now = to_the_millisecond(self.clock.now())
        endpoint_id = new_id("whe", now)
        made: list[tuple[WebhookEndpoint, SigningSecret]] = []

        def alter(standing: PartnerConfiguration) -> PartnerConfiguration | None:
            made[:] = _asked_for(standing, asked_by)
            if made:
                return None
            if len(standing.webhook_endpoints) >= MAX_ENDPOINTS:
                raise RejectedError(
                    "too-many-endpoints", 409, f"There are {MAX_ENDPOINTS} webhook endpoints already."
                )
            if not urls_checked:
                self.target.require(wanted.url)
                urls_checked.append(wanted.url)
            endpoint = self._new(partner_id, endpoint_id, wanted, asked_by, now)
            made[:] = [(endpoint, endpoint.secrets[0])]
            return standing.model_copy(update={"webhook_endpoints": (*standing.webhook_endpoints, endpoint)})

        urls_checked: list[str] = []
        changed = self.record.change(partner_id, alter)
        ((endpoint, secret),) = made
        replayed = endpoint.endpoint_id != endpoint_id
        action = None if replayed else "webhook_endpoint.create"
        state = self._settle(changed, endpoint, action, now)
        return StandingEndpoint(
            endpoint, state, self.secrets.shown(endpoint.endpoint_id, secret), replayed=replayed
        )

    def repeated(self, partner: PartnerConfiguration, asked_by: AskedBy | None) -> StandingEndpoint | None:
        """Return what an earlier request with the same key has registered, as it stands. 422 as `create`."""
        standing = self.list(partner)
        endpoints = tuple(each.endpoint for each in standing)
        for endpoint, secret in _asked_for(
            partner.model_copy(update={"webhook_endpoints": endpoints}), asked_by
        ):
            state = next(each.state for each in standing if each.endpoint is endpoint)
            shown = self.secrets.shown(endpoint.endpoint_id, secret)
            return StandingEndpoint(endpoint, state, shown, replayed=True)
        return None

    def change(
        self, partner: PartnerConfiguration, endpoint_id: str, wanted: EndpointChangesModel
    ) -> StandingEndpoint:
        """Change what `wanted` names. 404, 422."""
        now = self.clock.now()
        named = wanted.model_fields_set
        values: dict[str, Any] = {
            name: getattr(wanted, name) for name in ("url", "event_types", "description") if name in named
        }
        endpoint = self.get(partner, endpoint_id).endpoint
        if "event_types" in values:
            values["event_types"] = tuple(dict.fromkeys(values["event_types"]))
        if "url" in values:
            self.target.require(values["url"])
        if values:
            changed = self._alter(
                partner.partner_id, endpoint_id, lambda standing: standing.model_copy(update=values)
            )
            endpoint = _of(changed, endpoint_id)
            self._settle(changed, endpoint, "webhook_endpoint.change", now)
        if "status" in named:
            self._set_status(partner.partner_id, endpoint, wanted.status, now)
        return self.get(partner, endpoint_id)

    def rotate(
        self, partner: PartnerConfiguration, endpoint_id: str, asked_by: AskedBy | None
    ) -> StandingEndpoint:
        """Give the endpoint a new secret and its next key; the others sign for a day more. 404, 409."""
        now = to_the_millisecond(self.clock.now())
        standing = self.get(partner, endpoint_id)
        earlier = _asked_for(partner.model_copy(update={"webhook_endpoints": (standing.endpoint,)}), asked_by)
        if earlier:
            ((endpoint, secret),) = earlier
            shown = self.secrets.shown(endpoint_id, secret)
            return StandingEndpoint(endpoint, standing.state, shown, replayed=True)
        changed = self._alter(
            partner.partner_id,
            endpoint_id,
            lambda before: (
                before if _knows(before, asked_by) else self.secrets.rotated(before, asked_by, now)
            ),
        )
        endpoint = _of(changed, endpoint_id)
        state = self._settle(changed, endpoint, "webhook_endpoint.rotate_secret", now)
        return StandingEndpoint(endpoint, state, self.secrets.shown(endpoint_id, endpoint.secrets[0]))

    def delete(self, partner_id: str, endpoint_id: str) -> None:
        """End the endpoint. 404 if the partner has no such endpoint (any more)."""
        was_there: list[str] = []

        def alter(standing: PartnerConfiguration) -> PartnerConfiguration | None:
            left = tuple(each for each in standing.webhook_endpoints if each.endpoint_id != endpoint_id)
            if len(left) == len(standing.webhook_endpoints):
                return None
            was_there.append(endpoint_id)
            return standing.model_copy(update={"webhook_endpoints": left})

        changed = self.record.change(partner_id, alter)
        now = self.clock.now()
        with transaction(self.engine) as connection:
            self.record.keep(connection, changed)
            ended = webhook_endpoints.end(connection, endpoint_id=endpoint_id, partner_id=partner_id)
            if ended or was_there:
                _note(connection, partner_id, "webhook_endpoint.delete", endpoint_id, now)
        if not (ended or was_there):
            raise no_such_endpoint()

    def _new(
        self,
        partner_id: str,
        endpoint_id: str,
        wanted: NewEndpointModel,
        asked_by: AskedBy | None,
        now: datetime,
    ) -> WebhookEndpoint:
        with self.engine.connect() as connection:
            head = feed_head(connection, partner_id)
        return WebhookEndpoint(
            endpoint_id=endpoint_id,
            url=wanted.url,
            event_types=tuple(dict.fromkeys(wanted.event_types)),
            description=wanted.description,
            starts_after_sequence=head.last_sequence,
            secrets=(self.secrets.secret(endpoint_id, asked_by),),
            keys=(self.secrets.key(endpoint_id),),
            next_key=self.secrets.key(endpoint_id),
            created_at=now,
        )

    def _alter(
        self, partner_id: str, endpoint_id: str, alter: Callable[[WebhookEndpoint], WebhookEndpoint]
    ) -> PartnerConfiguration:
        """Change one endpoint in the record; 404 if it is gone by now."""

        def alter_one(standing: PartnerConfiguration) -> PartnerConfiguration | None:
            before = _of(standing, endpoint_id)
            after = alter(before)
            if after == before:
                return None
            endpoints = tuple(after if each is before else each for each in standing.webhook_endpoints)
            return standing.model_copy(update={"webhook_endpoints": endpoints})

        return self.record.change(partner_id, alter_one)

    def _settle(
        self, changed: PartnerConfiguration, endpoint: WebhookEndpoint, action: str | None, now: datetime
    ) -> EndpointState:
        """Have everybody know the version, and return how the endpoint stands."""
        partner_id, endpoint_id = changed.partner_id, endpoint.endpoint_id
        with transaction(self.engine) as connection:
            self.record.keep(connection, changed)
            self._make_cursor(connection, changed, endpoint, now)
            webhook_endpoints.need_version(
                connection, endpoint_id=endpoint_id, partner_id=partner_id, version=changed.version
            )
            if action is not None:
                _note(connection, partner_id, action, endpoint_id, now)
            return webhook_endpoints.endpoint_states(connection, partner_id)[endpoint_id]

    def _set_status(self, partner_id: str, endpoint: WebhookEndpoint, status: str, now: datetime) -> None:
        endpoint_id = endpoint.endpoint_id
        with transaction(self.engine) as connection:
            cursor = webhooks.lock_cursor(connection, endpoint_id=endpoint_id, partner_id=partner_id)
            if cursor is None:
                # no event has been told yet; any version of the document has the endpoint
                webhooks.insert_cursor(
                    connection,
                    endpoint_id=endpoint_id,
                    partner_id=partner_id,
                    starts_after_sequence=endpoint.starts_after_sequence,
                    configuration_version=0,
                    now=now,
                )
            if status == "enabled":
                is_new = webhook_endpoints.enable(connection, endpoint_id=endpoint_id, partner_id=partner_id)
            else:
                is_new = webhook_endpoints.disable(connection, endpoint_id, "partner")
            if is_new:
                action = "enable" if status == "enabled" else "disable"
                _note(connection, partner_id, f"webhook_endpoint.{action}", endpoint_id, now)
        if is_new:
            self.wake()

    def _make_cursor(
        self,
        connection: Connection,
        configuration: PartnerConfiguration,
        endpoint: WebhookEndpoint,
        now: datetime,
    ) -> None:
        webhooks.insert_cursor(
            connection,
            endpoint_id=endpoint.endpoint_id,
            partner_id=configuration.partner_id,
            starts_after_sequence=endpoint.starts_after_sequence,
            configuration_version=configuration.version,
            now=now,
        )


def no_such_endpoint() -> RejectedError:
    return RejectedError("not-found", 404, "There is no such webhook endpoint.")


def _of(configuration: PartnerConfiguration, endpoint_id: str) -> WebhookEndpoint:
    endpoint = configuration.endpoint(endpoint_id)
    if endpoint is None:
        raise no_such_endpoint()
    return endpoint


def _knows(endpoint: WebhookEndpoint, asked_by: AskedBy | None) -> bool:
    return asked_by is not None and any(secret.asked_by == asked_by for secret in endpoint.secrets)


def _asked_for(
    standing: PartnerConfiguration, asked_by: AskedBy | None
) -> list[tuple[WebhookEndpoint, SigningSecret]]:
    """Return what an earlier request with the same key has made; 422 if that was another request."""
    if asked_by is None:
        return []
    for endpoint in standing.webhook_endpoints:
        for secret in endpoint.secrets:
            if secret.asked_by is not None and secret.asked_by.key == asked_by.key:
                if secret.asked_by.fingerprint != asked_by.fingerprint:
                    raise RejectedError(
                        "idempotency-key-reused",
                        422,
                        "The idempotency key was used before with another request.",
                    )
                return [(endpoint, secret)]
    return []


def _note(connection: Connection, partner_id: str, action: str, endpoint_id: str, now: datetime) -> None:
    audit.append(connection, actor=partner_id, action=action, subject=endpoint_id, reason=None, now=now)
