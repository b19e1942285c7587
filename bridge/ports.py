"""What the services need from outside, as protocols that adapters (bridge.gcp) and fakes share."""

from datetime import datetime
from typing import Protocol

from bridge.partner import PartnerConfiguration


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


class PartnerDirectory(Protocol):
    """The configuration of partners as every service reads it: cached, and served while Firestore is away.

    Both methods raise TransientError when neither Firestore nor the last good copy can answer.
    """

    def partner(self, partner_id: str) -> PartnerConfiguration | None:
        """Return the partner's configuration; None if there is no such partner."""
        ...

    def by_client(self, client_id: str) -> PartnerConfiguration | None:
        """Return the configuration of the partner that has this OAuth2 client; None if nobody has."""
        ...
