"""What the services need from outside, as protocols that adapters (bridge.gcp) and fakes share."""

from datetime import datetime
from typing import Protocol

from bridge.errors import PermanentError
from bridge.high_water_mark import HighWaterMark, StandingMark
from bridge.partner import PartnerConfiguration


class InvalidDocumentError(PermanentError):
    """A document does not fit its model; the text names the fields, never a value."""


class VersionConflictError(PermanentError):
    """The document has another version than the one the change was made from."""


class ClientTakenError(PermanentError):
    """A client_id of the document belongs to another partner."""


class PartnerStore(Protocol):
    """The record of the partners' configuration, one document per partner (production: Firestore)."""

    def get(self, partner_id: str) -> PartnerConfiguration | None:
        """Read one document; TransientError while the store is away, InvalidDocumentError for a bad one."""
        ...

    def find_by_client(self, client_id: str) -> PartnerConfiguration | None:
        """Read the partner that has this client, active or revoked; the oldest if there are several.

        Errors as `get`.
        """
        ...

    def page(self, after: str, limit: int) -> list[tuple[str, PartnerConfiguration | None]]:
        """Return up to `limit` partners by id, from the first that follows `after` (empty: from the first).

        A document that does not fit the model comes as None. TransientError while the store is away.
        """
        ...

    def put(self, document: PartnerConfiguration, expected_version: int | None) -> None:
        """Replace the document that stands at `expected_version` (None: there is none yet).

        Raises VersionConflictError if another stands there, ClientTakenError, TransientError if nothing was
        written, UnknownOutcomeError if the answer was lost: read before trying again.
        """
        ...


class MarkStore(Protocol):
    """Keeps the high-water mark of one environment outside of its database (production: Firestore)."""

    def read(self) -> StandingMark | None:
        """Return the mark that stands there; None before the first.

        TransientError while the store is away, InvalidDocumentError for a document that is no mark.
        """
        ...

    def write(self, mark: HighWaterMark, over: StandingMark | None) -> None:
        """Replace the mark that was read (None: there was none) by one with a higher serial.

        Raises VersionConflictError if another stands there by now, ValueError if the serial does not rise,
        TransientError if nothing was written, UnknownOutcomeError if the answer was lost.
        """
        ...


class TaskQueue(Protocol):
    """Calls one of our own services at a given time (production: Cloud Tasks)."""

    def schedule(self, name: str, url: str, payload: bytes, at: datetime) -> bool:
        """Have `payload` (JSON) POSTed to `url` at `at`, at once if that is past; at least once, until a 2xx.

        Idempotent by `name` (letters, digits, - and _; up to 500): True when the task was created, False when
        a task of that name exists or existed within the last hour or so. `at` is aware and at most 30 days
        ahead; the whole stays under 100 KB. Raises PermanentError for a task that could never be accepted,
        TransientError when the queue can't be reached: the task may exist then; scheduling it again is safe.
        """
        ...


class KeyWrapper(Protocol):
    """Encrypts data keys under keys that never leave where they are (production: Cloud KMS).

    `kms_key` is the resource name of a CryptoKey; `bound_to` has to be the same at both calls. Both raise
    PermanentError when they are refused (the text says why, and names keys only), TransientError otherwise.
    """

    def wrap(self, kms_key: str, plaintext: bytes, bound_to: bytes) -> bytes:
        """Encrypt with the key's primary version."""
        ...

    def unwrap(self, kms_key: str, wrapped: bytes, bound_to: bytes) -> bytes:
        """Decrypt what any version of the key that still works has wrapped."""
        ...


class PartnerDirectory(Protocol):
    """The configuration of partners as every service reads it: cached, and served while Firestore is away.

    Both methods raise TransientError when neither Firestore nor the last good copy can answer.
    """

    def partner(self, partner_id: str, *, at_least_version: int = 0) -> PartnerConfiguration | None:
        """Return the partner's configuration; None if there is no such partner.

        `at_least_version`: whoever wrote that version has mirrored it in PostgreSQL before it said so; a copy
        that is older is not good enough.
        """
        ...

    def by_client(self, client_id: str) -> PartnerConfiguration | None:
        """Return the configuration of the partner that has this OAuth2 client; None if nobody has.

        Partner and client may be suspended or revoked; `PartnerConfiguration.client` gives an active client.
        """
        ...
