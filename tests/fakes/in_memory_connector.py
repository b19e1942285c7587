"""An execution target in memory, with scripted faults; it passes the conformance suite of Connector."""

import re
import threading
from collections import deque
from dataclasses import dataclass, field, replace
from datetime import date

from lxml import etree
from waiting import DEADLINE_SECONDS

from bridge.errors import TransientError, UnknownOutcomeError
from bridge.money import Money
from bridge.payment import SapDocument
from sap_adapter import journal_entry
from sap_adapter.connector import (
    DocumentPage,
    Entry,
    FoundDocument,
    JournalFacts,
    LogItem,
    Posted,
    PostedDocument,
    Refused,
    Sending,
)

# longer than a test waits
GATE_SECONDS = 2 * DEADLINE_SECONDS


@dataclass
class InMemoryConnector:
    """Books documents in a list. `script` holds what the next posts do; empty: they succeed.

    Script words: "ok", "not-posted", "drop" (nothing booked), "commit-then-drop", "refuse:<type id>",
    "wait" (blocks until `gate` is set, then books).
    """

    script: deque[str] = field(default_factory=deque)
    answers_questions: bool = True
    hidden: bool = False
    booked: list[tuple[str, FoundDocument]] = field(default_factory=list)
    posted: list[PostedDocument] = field(default_factory=list)
    page_documents: int = 3
    sendings: list[Sending] = field(default_factory=list)
    questions: int = 0
    max_in_flight: int = 0
    gate: threading.Event = field(default_factory=threading.Event)
    _in_flight: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def render(self, facts: JournalFacts) -> Entry:
        return journal_entry.render(facts)

    def with_posting_date(self, content: bytes, posting_date: date) -> bytes:
        return journal_entry.with_posting_date(content, posting_date)

    def post(self, sending: Sending) -> Posted | Refused:
        with self._lock:
            self.sendings.append(sending)
            self._in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self._in_flight)
            word = self.script.popleft() if self.script else "ok"
        try:
            return self._answer(word, sending)
        finally:
            with self._lock:
                self._in_flight -= 1

    def _answer(self, word: str, sending: Sending) -> Posted | Refused:
        match word.partition(":"):
            case ("not-posted", _, _):
                raise TransientError("scripted", retry_after_seconds=1.0)
            case ("drop", _, _):
                raise UnknownOutcomeError("scripted")
            case ("refuse", _, type_id):
                return Refused(
                    (LogItem("609(RW)", 3, "Error in document"), LogItem(type_id, 3, "Muster GmbH"))
                )
            case ("commit-then-drop", _, _):
                self._book(sending)
                raise UnknownOutcomeError("scripted")
            case ("wait", _, _):
                assert self.gate.wait(GATE_SECONDS)
        return Posted(self._book(sending))

    def _book(self, sending: Sending) -> SapDocument:
        entry = etree.fromstring(sending.content)
        money = self._amount(entry)
        with self._lock:
            number = f"{1400000001 + len(self.booked)}"
            document = SapDocument(entry.findtext("CompanyCode"), "2026", number)
            is_reversal = entry.findtext("ReversalReason") is not None
            document_type = entry.findtext("AccountingDocumentType")
            found = FoundDocument(document, document_type, money, is_reversal=is_reversal)
            self.booked.append((entry.findtext("DocumentReferenceID"), found))
            self.posted.append(self._listed(entry, found))
        return document

    def _listed(self, entry: etree._Element, found: FoundDocument) -> PostedDocument:
        reversed_key = entry.findtext("ReversalReferenceDocument")
        if reversed_key is not None:
            (original,) = [
                each for each in self.posted if reversed_key.startswith(each.found.document.number)
            ]
            reference = entry.findtext("DocumentReferenceID")
            return replace(original, found=found, reference=reference, is_reversal=True)
        return PostedDocument(
            found,
            entry.findtext("DocumentReferenceID"),
            entry.findtext("Item/Reference3IDByBusinessPartner"),
            entry.findtext("Item/DocumentItemText") or "",
            is_reversal=False,
        )

    def documents_since(self, day: date, offset: int) -> DocumentPage:  # noqa: ARG002 - all is of today
        if not self.answers_questions:
            raise TransientError("scripted")
        page = self.posted[offset : offset + self.page_documents]
        end = offset + len(page)
        return DocumentPage(tuple(page), end if end < len(self.posted) else None)

    def _amount(self, entry: etree._Element) -> Money:
        reversed_key = entry.findtext("ReversalReferenceDocument")
        if reversed_key is None:
            amount = entry.find("Item/AmountInTransactionCurrency")
            return Money.parse(re.sub("^-", "", amount.text), amount.get("currencyCode"))
        (original,) = [
            found.amount
            for _, found in self.booked
            if found.document.number + found.document.company_code + found.document.fiscal_year
            == reversed_key
        ]
        return original

    def find(self, company_code: str, reference: str) -> list[FoundDocument]:
        self.questions += 1
        if not self.answers_questions:
            raise TransientError("scripted")
        if self.hidden:
            return []
        return [
            found
            for booked_reference, found in self.booked
            if booked_reference == reference and found.document.company_code == company_code
        ]
