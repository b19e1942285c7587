"""The use cases on documents in SAP that a recovery could give no operation: list, accept, dismiss."""

from collections.abc import Callable, Sequence
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, Row

from backoffice.order import Order, invalid_state, not_found
from bridge.clock import Clock
from bridge.money import Money
from bridge.payment import OperationKind, SapDocument
from bridge.storage import recovered_steps, unplaced_documents
from bridge.storage.recovered_steps import LostStep
from bridge.storage.restores import require_recovered
from bridge.storage.unplaced_documents import NO_VALID_STEP, SettledAs

_log = structlog.get_logger(__name__)

MAX_LISTED = 500
ENDED = "booked-though-ended"
ACTIONS = {SettledAs.PLACED: "accept", SettledAs.DISMISSED: "dismiss"}


class UnplacedDocuments:
    """Settles one document per transaction, with its line in the audit trail. Repeating changes nothing."""

    def __init__(self, engine: Engine, clock: Clock, wake: Callable[[], None]) -> None:
        self._engine = engine
        self._clock = clock
        self._wake = wake

    def list(self) -> Sequence[dict[str, Any]]:
        """Return the documents that wait for an operator."""
        with self._engine.connect() as connection:
            found = unplaced_documents.open_documents(connection, limit=MAX_LISTED)
            return [unplaced_documents.view(one) for one in found]

    def accept(self, sap_system: str, document: SapDocument, order: Order) -> bool:
        """Give the document its operation, now that nothing stands in its way; return whether that was new.

        SAP is asked about it as about everything that a recovery finds. RejectedError (409) names what is in
        the way.
        """
        return self._settle(sap_system, document, order, SettledAs.PLACED, self._accept)

    def dismiss(self, sap_system: str, document: SapDocument, order: Order) -> bool:
        """Take the document off the list: it is not ours, or has been dealt with in SAP."""
        return self._settle(sap_system, document, order, SettledAs.DISMISSED, lambda *_: None)

    def _settle(
        self,
        sap_system: str,
        document: SapDocument,
        order: Order,
        settled_as: SettledAs,
        act: Callable[[Connection, Row[tuple[object, ...]]], str | None],
    ) -> bool:
        now, action = self._clock.now(), ACTIONS[settled_as]
        with self._engine.begin() as connection:
            require_recovered(connection)
            row = unplaced_documents.lock(connection, sap_system, document)
            if row is None:
                raise not_found("unplaced document")
            if row.settled_at is not None:
                return False
            reason = act(connection, row)
            if reason is not None:
                raise invalid_state(f"The document can't be given an operation: {reason}.")
            unplaced_documents.settle(connection, sap_system, document, settled_as, now=now)
            order.note(connection, f"unplaced-document.{action}", f"{sap_system}/{document}", now)
        _log.warning(
            "unplaced document settled", sap_system=sap_system, document=str(document), action=action
        )
        self._wake()
        return True

    def _accept(self, connection: Connection, row: Row[tuple[object, ...]]) -> str | None:
        now = self._clock.now()
        if row.reason == ENDED:
            document = SapDocument(row.company_code, row.fiscal_year, row.document_number)
            return unplaced_documents.revive(connection, row.sap_reference, document, now=now)
        if row.kind is None or row.reason == NO_VALID_STEP:
            return str(row.reason)
        if recovered_steps.find_reference(connection, row.sap_reference) is not None:
            return "second-document"
        lost = LostStep(
            kind=OperationKind(row.kind),
            reference=row.sap_reference,
            partner_id=row.partner_id,
            external_id=row.external_id,
            amount=Money(row.amount_minor, row.currency),
            sap_system=row.sap_system,
            company_code=row.company_code,
        )
        since = unplaced_documents.lost_since(connection, row.recovery_id)
        return recovered_steps.place(connection, lost, since=since, lanes_are_held=False, now=now)
