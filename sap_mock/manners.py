"""Answers, or their absence, that one payment asks for by its texts, while all others get theirs as usual."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from sap_mock.journal_entry import JournalEntry
from sap_mock.magic import Vocabulary

ALWAYS = 10**9


class Manner(Enum):
    """How the call of one posting ends, where the posting itself asks for it."""

    TIMEOUT = "TIMEOUT"
    DROPPED = "DROPPED"
    ANSWER_LOST = "ANSWER-LOST"
    LATE_COMMIT = "LATE-COMMIT"
    SLOW = "SLOW"
    UNAVAILABLE = "UNAVAILABLE"
    TOO_MANY_CALLS = "TOO-MANY-CALLS"
    ERROR_PAGE = "ERROR-PAGE"
    LOGON_PAGE = "LOGON-PAGE"


# How often an operation's reference meets it unless the text says otherwise.
TIMES: Mapping[Manner, int] = {
    Manner.TIMEOUT: ALWAYS,
    Manner.DROPPED: 1,
    Manner.ANSWER_LOST: 1,
    Manner.LATE_COMMIT: 1,
    Manner.SLOW: ALWAYS,
    Manner.UNAVAILABLE: 2,
    Manner.TOO_MANY_CALLS: 2,
    Manner.ERROR_PAGE: 1,
    Manner.LOGON_PAGE: 1,
}
_VOCABULARY = Vocabulary(manner.value for manner in Manner)


@dataclass(frozen=True, slots=True)
class AskedManner:
    manner: Manner
    times: int


def asked_manner(entry: JournalEntry) -> AskedManner | None:
    """Return the manner that an item text asks for, if it concerns this kind of document."""
    asked = _VOCABULARY.read(entry)
    if asked is None:
        return None
    manner = Manner(asked.word)
    return AskedManner(manner, TIMES[manner] if asked.times is None else asked.times)
