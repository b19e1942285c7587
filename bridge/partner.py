"""A partner's configuration as Firestore keeps it, one document per partner (`partners/{partner_id}`).

The models validate what is written and what is read. Secrets are in it only hashed (client secrets)
or encrypted under our own key ring (webhook signing secrets).
"""

import base64
import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    AwareDatetime,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from bridge.document import DocumentPart
from bridge.journal_mapping import JournalEntryMapping
from bridge.messages import require_lane_name
from bridge.money import Money, exponent, written
from bridge.payment import OperationKind
from bridge.routing import MAX_CURRENCIES, Name, Routing
from bridge.webhook_endpoint import MAX_ENDPOINTS, WebhookEndpoint

Scope = Literal["payments:read", "payments:write", "events:read", "webhooks:read", "webhooks:write"]
ALL_SCOPES: tuple[Scope, ...] = (
    "payments:read",
    "payments:write",
    "events:read",
    "webhooks:read",
    "webhooks:write",
)
PARTNER_ID_PATTERN = re.compile(r"^par_[0-9a-z]{26}$")
CLIENT_ID_PATTERN = re.compile(r"^[A-Za-z0-9._-]{1,100}$")
SapSystemId = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,39}$"), AfterValidator(require_lane_name)
]
MIN_RSA_BITS = 2048
MAX_RSA_BITS = 4096
MAX_CLIENT_KEYS = 5
MAX_TARGETS = 50
MAX_CURRENCY_DECIMALS = 6
MAX_DATED_CHANGES = 10
MAX_DELIVERIES_PER_SECOND = 500
Base64Url = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,700}$")]
CompanyCode = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]{4}$")]


class PartnerStatus(StrEnum):
    ACTIVE = "active"
    SUSPENDED = "suspended"


class _ClientKey(DocumentPart):
    kid: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._~:/+=-]{1,100}$")]
    use: Literal["sig"] | None = None


class RsaClientKey(_ClientKey):
    """An RSA public key as a JWK (RFC 7518 section 6.3.1); private members are refused with all others."""

    kty: Literal["RSA"]
    n: Base64Url
    e: Base64Url
    alg: Literal["RS256"] | None = None

    @field_validator("n")
    @classmethod
    def _of_a_usual_size(cls, value: str) -> str:
        bits = int.from_bytes(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))).bit_length()
        if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
            raise ValueError(f"not {MIN_RSA_BITS} to {MAX_RSA_BITS} bits long")
        return value

    @field_validator("e")
    @classmethod
    def _the_usual_exponent(cls, value: str) -> str:
        if value != "AQAB":
            raise ValueError("not 65537, the exponent in use")
        return value

    @property
    def algorithm(self) -> str:
        return "RS256"


class EcClientKey(_ClientKey):
    """A public key on the curve P-256 as a JWK (RFC 7518 section 6.2.1)."""

    kty: Literal["EC"]
    crv: Literal["P-256"]
    x: Base64Url
    y: Base64Url
    alg: Literal["ES256"] | None = None

    @property
    def algorithm(self) -> str:
        return "ES256"


ClientKey = RsaClientKey | EcClientKey


class Client(DocumentPart):
    """An OAuth2 client of the partner: it shows a secret or signs with one of its keys (RFC 7523).

    `secret_hash` is an argon2id hash in PHC string format.
    """

    client_id: Annotated[str, StringConstraints(pattern=CLIENT_ID_PATTERN.pattern)]
    secret_hash: str | None = None
    public_keys: Annotated[
        tuple[Annotated[ClientKey, Field(discriminator="kty")], ...], Field(max_length=MAX_CLIENT_KEYS)
    ] = ()
    scopes: tuple[Scope, ...] = ALL_SCOPES
    status: Literal["active", "revoked"] = "active"

    @model_validator(mode="after")
    def _can_authenticate(self) -> "Client":
        if self.secret_hash is None and not self.public_keys:
            raise ValueError("neither secret_hash nor public_keys")
        if len({key.kid for key in self.public_keys}) != len(self.public_keys):
            raise ValueError("kid occurs twice")
        return self


class PartnerLimits(DocumentPart):
    """How much the partner may ask for. Requests are counted over ten seconds, so that short bursts pass.

    `payments_per_day`: payments accepted per day, in UTC. `deliveries_per_second`: webhooks sent to each of
    its endpoints, retries among them; after a pause a second's worth may go out at once. (Cloud Tasks
    dispatches no more than the highest value from a queue.)
    """

    requests_per_second: Annotated[int, Field(ge=1, le=100_000)] = 100
    payments_per_day: Annotated[int, Field(ge=1, le=1_000_000_000)] = 250_000
    deliveries_per_second: Annotated[int, Field(ge=1, le=MAX_DELIVERIES_PER_SECOND)] = 100


class SapTarget(DocumentPart):
    """A company code in a SAP system, and how the partner's operations become journal entries there.

    Which target a payment goes to (bridge.routing) is fixed at its acceptance. `currency_decimals`: of
    the currencies that SAP's table TCURX keeps otherwise than ISO 4217 (HUF and COP have no decimals there).
    """

    sap_system: SapSystemId
    company_code: CompanyCode
    time_zone: str
    mappings: dict[OperationKind, JournalEntryMapping]
    currency_decimals: Annotated[
        dict[str, Annotated[int, Field(ge=0, le=MAX_CURRENCY_DECIMALS)]], Field(max_length=MAX_CURRENCIES)
    ] = Field(default_factory=dict)

    @field_validator("currency_decimals")
    @classmethod
    def _known_currencies(cls, value: dict[str, int]) -> dict[str, int]:
        for currency in value:
            exponent(currency)
        return value

    def written(self, amount: Money) -> str:
        """Return the amount as SAP keeps it; InvalidMoneyError if it has more decimals than that."""
        return written(amount, self.currency_decimals)

    @field_validator("time_zone")
    @classmethod
    def _known_time_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError("not an IANA time zone") from error
        return value


class DatedChange(DocumentPart):
    """What holds from a moment on: each member that is given takes the place of the document's."""

    effective_from: AwareDatetime
    status: PartnerStatus | None = None
    targets: Annotated[dict[Name, SapTarget], Field(min_length=1, max_length=MAX_TARGETS)] | None = None
    routing: Routing | None = None
    limits: PartnerLimits | None = None

    @property
    def changed(self) -> dict[str, Any]:
        """The members that are given."""
        names = ("status", "targets", "routing", "limits")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @model_validator(mode="after")
    def _changes_something(self) -> "DatedChange":
        if not self.changed:
            raise ValueError("changes nothing")
        return self


def require_routable(routing: Routing, targets: Mapping[str, SapTarget]) -> None:
    """ValueError unless every target that is routed to is there, and no two are the same place."""
    unknown = sorted({routing.default, *(rule.target for rule in routing.rules)} - set(targets))
    if unknown:
        raise ValueError(f"routing names targets that are not there: {', '.join(unknown)}")
    places = [(target.sap_system, target.company_code) for target in targets.values()]
    if len(set(places)) != len(places):
        raise ValueError("two targets are the same company code of the same SAP system")


class PartnerConfiguration(DocumentPart):
    """All that the services need to know of a partner. `version` rises with every change by hand.

    `dated_changes` are in the order of their dates. Whoever reads the configuration reads it `at` a moment.
    """

    partner_id: Annotated[str, StringConstraints(pattern=PARTNER_ID_PATTERN.pattern)]
    version: Annotated[int, Field(ge=1)]
    name: str
    status: PartnerStatus
    # held: payments are accepted, and none is posted until this is active again
    posting: Literal["active", "held"] = "active"
    clients: tuple[Client, ...]
    targets: Annotated[dict[Name, SapTarget], Field(min_length=1, max_length=MAX_TARGETS)]
    routing: Routing
    limits: PartnerLimits = PartnerLimits()
    webhook_endpoints: Annotated[tuple[WebhookEndpoint, ...], Field(max_length=MAX_ENDPOINTS)] = ()
    dated_changes: Annotated[tuple[DatedChange, ...], Field(max_length=MAX_DATED_CHANGES)] = ()

    @model_validator(mode="after")
    def _unique_ids(self) -> "PartnerConfiguration":
        for what, ids in (
            ("client_id", [client.client_id for client in self.clients]),
            ("endpoint_id", [endpoint.endpoint_id for endpoint in self.webhook_endpoints]),
        ):
            if len(set(ids)) != len(ids):
                raise ValueError(f"{what} occurs twice")
        return self

    @model_validator(mode="after")
    def _routed(self) -> "PartnerConfiguration":
        require_routable(self.routing, self.targets)
        return self

    @model_validator(mode="after")
    def _routed_from_each_date_on(self) -> "PartnerConfiguration":
        dates = [change.effective_from for change in self.dated_changes]
        if any(later <= earlier for earlier, later in pairwise(dates)):
            raise ValueError("dated_changes are not in the order of their dates")
        for date in dates:
            then = self.at(date)
            require_routable(then.routing, then.targets)
        return self

    def at(self, now: datetime) -> "PartnerConfiguration":
        """Return the configuration as it is at that moment: what is due is in it, what is to come is kept."""
        due = [change for change in self.dated_changes if change.effective_from <= now]
        if not due:
            return self
        changed = {name: value for change in due for name, value in change.changed.items()}
        return self.model_copy(update={**changed, "dated_changes": self.dated_changes[len(due) :]})

    def client(self, client_id: str) -> Client | None:
        """Return the partner's active client of that id, if it has one."""
        return next((c for c in self.clients if c.client_id == client_id and c.status == "active"), None)

    def target_of(self, amount: Money) -> SapTarget:
        """Return where a payment of this amount goes when it is accepted now."""
        return self.targets[self.routing.target_of(amount)]

    def target_at(self, sap_system: str, company_code: str) -> SapTarget | None:
        """Return the target of a payment accepted earlier: its place is fixed, its mappings are today's."""
        place = (sap_system, company_code)
        return next((t for t in self.targets.values() if (t.sap_system, t.company_code) == place), None)

    def endpoint(self, endpoint_id: str) -> WebhookEndpoint | None:
        return next((e for e in self.webhook_endpoints if e.endpoint_id == endpoint_id), None)
