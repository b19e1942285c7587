"""A webhook endpoint as the partner's document has it: where, what, and what it is signed with.

Whether it is enabled is not here: that changes with every failing receiver, and stands in PostgreSQL, on the
endpoint's cursor (docs/decisions/0012-an-endpoints-state-is-on-its-cursor.md).
"""

from datetime import datetime
from typing import Annotated

from pydantic import AwareDatetime, Field, StringConstraints

from bridge.document import DocumentPart

MAX_ENDPOINTS = 20
MAX_URL_CHARACTERS = 2048
MAX_EVENT_TYPES = 20
# Two rotations within the overlap leave three; a few more, and the header of signatures grows too long.
MAX_SECRETS = 5
SECRET_PREFIX = "whsec_"  # noqa: S105 - how every secret begins
PUBLIC_KEY_PREFIX = "whpk_"


class AskedBy(DocumentPart):
    """The request that made something: HMACs (hex) of its idempotency key, and of what it asked for."""

    key: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    fingerprint: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class SigningSecret(DocumentPart):
    """A `whsec_…` secret under our key ring (bridge.keyring). It signs until `signs_until`, if it is set."""

    encrypted: str
    signs_until: AwareDatetime | None = None
    asked_by: AskedBy | None = None

    def signs_at(self, now: datetime) -> bool:
        return self.signs_until is None or now < self.signs_until


class SigningKey(DocumentPart):
    """An ed25519 key pair. `public`: `whpk_` and 32 bytes in base64; `encrypted`: its seed, sealed."""

    public: Annotated[str, StringConstraints(pattern=r"^whpk_[A-Za-z0-9+/]{43}=$")]
    encrypted: str
    signs_until: AwareDatetime | None = None

    def signs_at(self, now: datetime) -> bool:
        return self.signs_until is None or now < self.signs_until


class WebhookEndpoint(DocumentPart):
    """Where a partner wants to be told. `event_types` are exact or end in `.*`.

    `starts_after_sequence` is the feed's sequence when the endpoint was made: what came before is not sent.
    `secrets` are the newest first, and all that are not over sign. `next_key` signs after the next rotation
    and is published before; `keys` sign now, the newest first (none: no ed25519 signatures).
    """

    endpoint_id: Annotated[str, StringConstraints(pattern=r"^whe_[0-9a-z]{26}$")]
    url: Annotated[str, StringConstraints(min_length=1, max_length=MAX_URL_CHARACTERS)]
    event_types: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_EVENT_TYPES)] = ("payment.*",)
    starts_after_sequence: Annotated[int, Field(ge=0)] = 0
    secrets: Annotated[tuple[SigningSecret, ...], Field(min_length=1, max_length=MAX_SECRETS)]
    keys: Annotated[tuple[SigningKey, ...], Field(max_length=MAX_SECRETS)] = ()
    next_key: SigningKey | None = None
    description: str | None = None
    created_at: AwareDatetime | None = None

    def wants(self, event_type: str) -> bool:
        """Tell whether an event of this type is sent to the endpoint."""
        return any(
            pattern == event_type or (pattern.endswith(".*") and event_type.startswith(pattern[:-1]))
            for pattern in self.event_types
        )
