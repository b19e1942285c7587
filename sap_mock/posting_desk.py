"""Posting: idempotency, simulation, reversal, refusals; each request of a message stands alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sap_mock.faults import Faults
from sap_mock.journal_entry import (
    CREDIT,
    DEBIT,
    Document,
    DocumentKey,
    Item,
    JournalEntry,
    LogItem,
    PostingRequest,
    Refusal,
)
from sap_mock.ledger import Ledger, Posting
from sap_mock.manners import Manner, asked_manner
from sap_mock.posting_rules import error, judge_header, judge_items
from sap_mock.refusals import asked_refusal
from sap_mock.soap_answer import confirmation

CLIENT = "100"


@dataclass(frozen=True, slots=True)
class Memory:
    """How long a message's response is kept, and how long its id (at least as long)."""

    response_seconds: int
    id_seconds: int

    @classmethod
    def of(cls, faults: Faults) -> "Memory":
        window_seconds = faults.idempotency_window_s
        return cls(window_seconds, max(window_seconds, faults.idempotency_id_window_s))


class PostingDesk:
    def __init__(self, ledger: Ledger, clock: Callable[[], float]) -> None:
        """Take the clock in seconds since 1970."""
        self._ledger = ledger
        self._clock = clock

    def now(self) -> float:
        """Return the seconds since 1970."""
        return self._clock()

    def post(self, requests: Sequence[PostingRequest], memory: Memory) -> list[str]:
        """Post what can be posted, in one commit, and return a JournalEntryCreateConfirmation for each.

        A message UUID whose response is still kept gets the confirmation of then, a refusal too.
        """
        with self._ledger.posting() as posting:
            # taken inside: a time of commit must not be older than the wait for the lock
            now = self._clock()
            return [self._one(posting, one, now, memory) for one in requests]

    def take_manner(self, requests: Sequence[PostingRequest]) -> Manner | None:
        """Return what the first request with a magic text asks for this time, and count it."""
        for entry in (request.entry for request in requests if not request.simulate):
            # a reversal has no texts of its own: its original's speak for it
            asked = asked_manner(self._with_the_originals_items(entry) if entry.reversal_reason else entry)
            if asked is None:
                continue
            with self._ledger.posting() as posting:
                if posting.refused_times(entry.reference, asked.manner.value) < asked.times:
                    posting.count_refusal(entry.reference, asked.manner.value)
                    return asked.manner
        return None

    def _with_the_originals_items(self, entry: JournalEntry) -> JournalEntry:
        key = DocumentKey.from_object_key(entry.reversal_reference or entry.original_reference)
        if key is None:
            return entry
        with self._ledger.posting() as posting:
            return replace(entry, items=posting.items(key))

    def _one(self, posting: Posting, request: PostingRequest, now: float, memory: Memory) -> str:
        now_ms = int(now * 1000)
        remembers = bool(request.uuid) and memory.id_seconds > 0 and not request.simulate
        if remembers:
            stored = posting.stored_response(request.uuid, now_ms - memory.id_seconds * 1000)
            if stored is not None:
                is_kept = stored.stored_at_ms >= now_ms - memory.response_seconds * 1000
                return stored.confirmation if is_kept else _outdated(request, now)
        answer = _Case(posting, request, now_ms).decide(now)
        if remembers:
            posting.store_response(request.uuid, answer, now_ms)
        return answer


def _outdated(request: PostingRequest, now: float) -> str:
    """SAP knows that it has processed the message, and no longer with what result."""
    note = f"RequestID {request.uuid} is outdated"
    return confirmation(request, None, (LogItem("005(/IWBEP/CM_COS)", 3, note),), now)


class _Case:
    """One request being decided."""

    def __init__(self, posting: Posting, request: PostingRequest, now_ms: int) -> None:
        self._posting = posting
        self._request = request
        self._now_ms = now_ms

    def decide(self, now: float) -> str:
        prepared = self._prepare(self._request.entry)
        if isinstance(prepared, Refusal):
            general = LogItem("609(RW)", 3, f"Error in document: BKPFF $ MOCKS4{CLIENT}")
            return confirmation(self._request, None, (general, *prepared.items), now)
        entry, reversed_key = prepared
        if self._request.simulate:
            checked = LogItem("614(RW)", 1, f"Document check - no errors: BKPFF $ MOCKS4{CLIENT}")
            return confirmation(self._request, None, (checked,), now)
        key = self._posting.next_key(entry)
        self._posting.add(Document(key, entry, self._now_ms, reversed_key))
        posted = LogItem(
            "605(RW)", 1, f"Document posted successfully: BKPFF {key.object_key()} MOCKS4{CLIENT}"
        )
        return confirmation(self._request, key, (posted,), now)

    def _prepare(self, entry: JournalEntry) -> Refusal | tuple[JournalEntry, DocumentKey | None]:
        """Return the entry as it is to be posted, and what it reverses; or why it is not posted."""
        refusal = judge_header(entry)
        if refusal is not None:
            return refusal
        reversed_key = None
        if entry.reversal_reason:
            reversal = self._mirror(entry)
            if isinstance(reversal, Refusal):
                return reversal
            entry, reversed_key = reversal
        return judge_items(entry) or self._asked_refusal(entry) or (entry, reversed_key)

    def _mirror(self, entry: JournalEntry) -> Refusal | tuple[JournalEntry, DocumentKey]:
        """A reversal has the original's items with their signs turned; items of its own are passed over."""
        text = entry.reversal_reference or entry.original_reference
        key = DocumentKey.from_object_key(text)
        items = () if key is None else self._posting.items(key)
        if key is None or not items:
            return Refusal((error("397(F5)", f"Document {text or '(none named)'} does not exist"),))
        if key.company_code != entry.company_code:
            return Refusal((error("398(F5)", f"Document {text} belongs to another company code"),))
        if self._posting.is_reversed(key):
            return Refusal((error("361(F5A)", f"Document {text} has already been reversed"),))
        return replace(entry, items=tuple(_turned(item) for item in items)), key

    def _asked_refusal(self, entry: JournalEntry) -> Refusal | None:
        asked = asked_refusal(entry)
        if asked is None or self._posting.refused_times(entry.reference, asked.reason) >= asked.times:
            return None
        if not self._request.simulate:
            self._posting.count_refusal(entry.reference, asked.reason)
        return asked.refusal


def _turned(item: Item) -> Item:
    return replace(item, amount=-item.amount, debit_credit=CREDIT if item.amount > 0 else DEBIT)
