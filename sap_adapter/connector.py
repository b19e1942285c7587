"""The port behind which an execution target lives: render once, post, and find what was posted.

S/4HANA over SOAP and OData is the first connector (sap_adapter/s4hana.py).
"""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol

from bridge.errors import TransientError, UnknownOutcomeError
from bridge.mapping_values import JournalValues
from bridge.money import Money
from bridge.payment import OperationKind, SapDocument


class NotCalledError(TransientError):
    """The target was not called: this process has no descriptor or thread left. Not the target's fault."""


class AnswerForgottenError(UnknownOutcomeError):
    """The target has processed this very message before and no longer knows with what result."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A rendered document as it is frozen at the first claim: the target's own bytes and its type."""

    document_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Sending:
    """One posting. `message_uuid` is the same for every repetition of a generation, `reference` for all."""

    operation_id: str
    message_uuid: str
    created_at: datetime
    content: bytes


@dataclass(frozen=True, slots=True)
class LogItem:
    """A line of SAP's log. `type_id` is message number and class, e.g. "102(F5)"; `note` carries names."""

    type_id: str
    severity: int
    note: str


@dataclass(frozen=True, slots=True)
class Posted:
    """The target has booked it."""

    document: SapDocument


@dataclass(frozen=True, slots=True)
class Refused:
    """The target has definitely not booked it, and says why."""

    log: tuple[LogItem, ...]


@dataclass(frozen=True, slots=True)
class FoundDocument:
    """A document that carries our reference, with what it must agree in.

    `is_reversal`: it takes another one back; `is_reversed`: another one takes it back.
    """

    document: SapDocument
    document_type: str
    amount: Money
    is_reversal: bool = False
    is_reversed: bool = False


@dataclass(frozen=True, slots=True)
class PostedDocument:
    """A document of ours as the target lists it, known here or not.

    `mark`: whose step it was (sap_adapter/document_mark.py). A reversal has the lines of what it takes back.
    """

    found: FoundDocument
    reference: str
    mark: str
    external_id: str
    is_reversal: bool


@dataclass(frozen=True, slots=True)
class UnreadableDocument:
    """A document of ours that can't be read; nor can its reference, if that is empty."""

    document: SapDocument
    reference: str


@dataclass(frozen=True, slots=True)
class DocumentPage:
    """Some of the target's documents; the next page begins at `next_offset`, None: this is the last."""

    documents: tuple[PostedDocument, ...]
    next_offset: int | None
    unreadable: tuple[UnreadableDocument, ...] = ()


@dataclass(frozen=True, slots=True)
class JournalFacts:
    """What an entry is rendered from. Texts are personal data: they go to the target and nowhere else.

    Dates are xsd:date. `amount` is written with the decimals that the target keeps of the currency. `values`
    is what the mapping comes to; `reverses` is what a reversal takes back.
    """

    kind: OperationKind
    reference: str
    partner_id: str
    external_id: str
    amount: str
    currency: str
    company_code: str
    document_date: str
    posting_date: str
    values: JournalValues
    reverses: SapDocument | None = None


class Connector(Protocol):
    """What the adapter needs of an execution target (docs/connectors.md), used by many threads at once.

    Rendering is pure. The two calls are bounded in time by the connector; errors they raise: TransientError
    if nothing can have been booked (refused connection, 429), UnknownOutcomeError if it may have been.
    """

    def render(self, facts: JournalFacts) -> Entry:
        """Return the document in the target's own form; ValueError if the facts don't make one."""
        ...

    def with_posting_date(self, content: bytes, posting_date: date) -> bytes:
        """Return a rendered document for another posting date, else unchanged: the same bytes for its own."""
        ...

    def post(self, sending: Sending) -> Posted | Refused:
        """Hand the document over once."""
        ...

    def find(self, company_code: str, reference: str) -> list[FoundDocument]:
        """Return the documents that carry the reference; any error means: not answered."""
        ...


class DocumentSource(Protocol):
    """What a recovery needs of an execution target besides; every connector has it.

    Errors raised: TransientError if the target does not answer clearly.
    """

    def documents_since(self, day: date, offset: int) -> DocumentPage:
        """Return documents of ours that were entered on `day` or later, whole, always in one order."""
        ...
