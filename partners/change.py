"""The use cases: show partners' documents, replace one, amend one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Engine

from bridge.clock import Clock
from bridge.errors import FieldError, RejectedError, TransientError, UnknownOutcomeError
from bridge.partner import PartnerConfiguration
from bridge.partner_mirror import PartnerMirror
from bridge.ports import ClientTakenError, InvalidDocumentError, PartnerStore, VersionConflictError
from bridge.storage import audit
from bridge.storage.lanes import sap_systems
from partners import documents

# How often an amendment is made again on what somebody else has written meanwhile.
MAX_AMENDMENTS = 3
STALE = "version-conflict"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Wish:
    """Whom it is about, who wants it, and why: what the audit trail keeps."""

    partner_id: str
    operator: str
    reason: str


@dataclass(frozen=True, slots=True)
class Change(Wish):
    """`body` in place of the document at `expected_version` (None: there is none)."""

    body: Any
    expected_version: int | None


# Edits a document (JSON mode, secrets included) in place; may raise RejectedError.
Amendment = Callable[[dict[str, Any]], None]


class Partners:
    """Reads and replaces partners' documents. Every change is in the audit trail before it is made."""

    def __init__(self, store: PartnerStore, engine: Engine, clock: Clock) -> None:
        self._store = store
        self._engine = engine
        self._mirror = PartnerMirror(engine)
        self._clock = clock

    def show(self, partner_id: str) -> PartnerConfiguration:
        """Return the document as of now: dated changes that are due are in it.

        RejectedError: 404, or 409 for a document that somebody has damaged; it names the fields.
        """
        try:
            found = self._store.get(partner_id)
        except InvalidDocumentError as error:
            raise RejectedError(
                "invalid-document", 409, f"The stored document is damaged: {error}"
            ) from error
        if found is None:
            raise RejectedError("not-found", 404, "There is no such partner.")
        return found.at(self._clock.now())

    def page(self, after: str, limit: int) -> list[tuple[str, PartnerConfiguration | None]]:
        """Return the partners whose id follows `after`, oldest first; None for a damaged document."""
        return self._store.page(after, limit)

    def change(self, change: Change) -> PartnerConfiguration:
        """Return the new document. RejectedError: 409, 412, 422; TransientError: nothing has changed.

        503 unknown-outcome: read before trying again.
        """
        base, newest_version = self._standing(change)
        document = documents.read(
            change.body, partner_id=change.partner_id, version=newest_version + 1, base=base
        )
        self._require_known_systems(document)
        self._require_dates_to_come(document)
        return self._write(change, "partner.change", document, change.expected_version)

    def amend(self, wish: Wish, action: str, amendment: Amendment) -> PartnerConfiguration:
        """Apply `amendment` to the document as it stands, again if somebody is quicker; errors as `change`.

        It is for changes that are right whatever else has changed meanwhile.
        """
        for _ in range(MAX_AMENDMENTS):
            standing = self.show(wish.partner_id)
            body = standing.model_dump(mode="json")
            amendment(body)
            mirrored = self._mirror.get(wish.partner_id)
            newest = max(standing.version, mirrored.configuration.version if mirrored is not None else 0)
            document = documents.read(body, partner_id=wish.partner_id, version=newest + 1, base=standing)
            self._require_dates_to_come(document)
            try:
                return self._write(wish, action, document, standing.version)
            except RejectedError as error:
                if error.slug != STALE:
                    raise
        raise stale()

    def _write(
        self, wish: Wish, action: str, document: PartnerConfiguration, expected_version: int | None
    ) -> PartnerConfiguration:
        self._note(action, wish, document)
        try:
            self._store.put(document, expected_version)
        except VersionConflictError as error:
            self._note(f"{action}_refused", wish, document)
            raise stale() from error
        except ClientTakenError as error:
            self._note(f"{action}_refused", wish, document)
            raise RejectedError("client-taken", 409, "A client_id belongs to another partner.") from error
        except TransientError:
            self._note(f"{action}_failed", wish, document)
            raise
        except UnknownOutcomeError as error:
            self._note(f"{action}_unknown", wish, document)
            raise RejectedError(
                "unknown-outcome", 503, "The change may have been made; read the partner before trying again."
            ) from error
        self._remember(document)
        return document

    def _require_known_systems(self, document: PartnerConfiguration) -> None:
        """Refuse a target whose lane is not there: its payments could not even be accepted."""
        with self._engine.connect() as connection:
            known = set(sap_systems(connection))
        targets = {f"/targets/{name}": target for name, target in document.targets.items()}
        for number, change in enumerate(document.dated_changes):
            dated = (change.targets or {}).items()
            targets |= {f"/dated_changes/{number}/targets/{name}": target for name, target in dated}
        unknown = [place for place, target in targets.items() if target.sap_system not in known]
        if unknown:
            raise documents.invalid(
                *(FieldError(f"{place}/sap_system", "is no SAP system of ours") for place in unknown)
            )

    def _require_dates_to_come(self, document: PartnerConfiguration) -> None:
        """Refuse a date that has passed: it would change what the document itself says by now."""
        now = self._clock.now()
        passed = [
            FieldError(f"/dated_changes/{number}/effective_from", "is not in the future")
            for number, change in enumerate(document.dated_changes)
            if change.effective_from <= now
        ]
        if passed:
            raise documents.invalid(*passed)

    def _standing(self, change: Change) -> tuple[PartnerConfiguration | None, int]:
        """Return the document that secrets are kept from, and the highest version that readers have seen.

        Readers never go back to a lower version, so a document that was lost, or put back from an old
        backup, has to be replaced by one above what the mirror has.
        """
        mirrored = self._mirror.get(change.partner_id)
        last_good = mirrored.configuration if mirrored is not None else None
        try:
            stored = self._store.get(change.partner_id)
        except InvalidDocumentError:
            # This change is how it is repaired; the store compares the version it can still read.
            stored_version = change.expected_version
            base = last_good
        else:
            stored_version = stored.version if stored is not None else None
            base = stored or last_good
        if stored_version != change.expected_version:
            raise stale()
        return base, max(stored_version or 0, last_good.version if last_good is not None else 0)

    def _remember(self, document: PartnerConfiguration) -> None:
        try:
            self._mirror.remember(document, self._clock.now())
        except TransientError:
            # Whoever reads it next will.
            _log.warning("changed partner not mirrored", partner_id=document.partner_id)

    def _note(self, action: str, wish: Wish, document: PartnerConfiguration) -> None:
        with self._engine.begin() as connection:
            audit.append(
                connection,
                actor=wish.operator,
                action=action,
                subject=f"{document.partner_id} version {document.version}",
                reason=wish.reason,
                now=self._clock.now(),
            )


def stale() -> RejectedError:
    return RejectedError(STALE, 412, "The document has another version; read it again.")
