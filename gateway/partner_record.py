"""A partner's change of its own document: read, alter, write by version, mirror.

Firestore is the record; PostgreSQL gets the same version in the transaction that has the rest of the change.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection

from bridge.clock import Clock
from bridge.errors import TransientError, UnknownOutcomeError
from bridge.partner import PartnerConfiguration
from bridge.partner_mirror import PartnerMirror
from bridge.ports import InvalidDocumentError, PartnerStore, VersionConflictError
from bridge.storage import partner_configs

# Others that change the same partner at the same moment: operators, and the partner itself.
MAX_TRIES = 5

# Returns the changed document (its version is set by the caller), or None to leave it as it is.
Alter = Callable[[PartnerConfiguration], PartnerConfiguration | None]


@dataclass(frozen=True, slots=True)
class PartnerRecord:
    """Changes documents by optimistic concurrency. TransientError: repeat the request."""

    store: PartnerStore
    mirror: PartnerMirror
    clock: Clock

    def change(self, partner_id: str, alter: Alter) -> PartnerConfiguration:
        """Return the document after the change. Errors of `alter` pass, and nothing is written then."""
        for _ in range(MAX_TRIES):
            standing = self._standing(partner_id)
            altered = alter(standing)
            if altered is None:
                return standing
            new = PartnerConfiguration.read(altered.model_dump() | {"version": self._next_version(standing)})
            try:
                self.store.put(new, standing.version)
            except VersionConflictError:
                continue
            except UnknownOutcomeError as error:
                raise TransientError("the partner's document may have been changed") from error
            return new
        raise TransientError("the partner's document is changed all the time", retry_after_seconds=1)

    def keep(self, connection: Connection, configuration: PartnerConfiguration) -> None:
        """Mirror the document in the caller's transaction."""
        partner_configs.upsert(
            connection,
            partner_id=configuration.partner_id,
            version=configuration.version,
            document=configuration.model_dump(mode="json"),
            seen_at=self.clock.now(),
        )

    def _standing(self, partner_id: str) -> PartnerConfiguration:
        try:
            standing = self.store.get(partner_id)
        except InvalidDocumentError as error:
            raise TransientError("the partner's document is damaged") from error
        if standing is None:
            raise TransientError("the partner's document is gone")
        return standing

    def _next_version(self, standing: PartnerConfiguration) -> int:
        """Return a version above all that readers have seen: they never go back to a lower one."""
        mirrored = self.mirror.get(standing.partner_id)
        return max(standing.version, mirrored.configuration.version if mirrored else 0) + 1
