"""What a document is to the bridge: read off its header text."""

import re

from sap_mock.journal_entry import JournalEntry

KINDS = ("payment", "authorize", "capture", "reverse", "refund")
OTHER = "other"
_WORD = re.compile(r"[a-z]+")


def kind_of(entry: JournalEntry) -> str:
    """Return the operation kind that DocumentHeaderText begins with.

    Without one: reverse for a reversal, payment for the payment document types, else "other".
    """
    word = _WORD.match(entry.header_text.lower())
    if word is not None and word[0] in KINDS:
        return word[0]
    if entry.reversal_reason:
        return "reverse"
    return "payment" if entry.document_type in {"DZ", "KZ"} else OTHER
