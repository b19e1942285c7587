"""Item texts that ask the mock for something: `SBX-[KIND-]WORD[-ONCE|-TWICE]…` (docs/sandbox.md)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from sap_mock.journal_entry import JournalEntry
from sap_mock.kinds import KINDS, kind_of

_COUNTS = {"ONCE": 1, "TWICE": 2}


@dataclass(frozen=True, slots=True)
class Asked:
    """`times`: how often per reference, where the text says it."""

    word: str
    times: int | None


class Vocabulary:
    """The words of one table; a text that begins with none of them asks for nothing."""

    def __init__(self, words: Iterable[str]) -> None:
        longest_first = sorted(words, key=len, reverse=True)
        self._pattern = re.compile(
            rf"SBX-(?:({'|'.join(kind.upper() for kind in KINDS)})-)?"
            rf"({'|'.join(map(re.escape, longest_first))})(?:-(ONCE|TWICE))?(?![A-Z])",
            re.ASCII | re.IGNORECASE,
        )

    def read(self, entry: JournalEntry) -> Asked | None:
        """Return what the first item text with a word asks for, if it concerns this kind of document."""
        for item in entry.items:
            match = self._pattern.match(item.text)
            if match is not None and (not match[1] or match[1].lower() == kind_of(entry)):
                return Asked(match[2].upper(), _COUNTS[match[3].upper()] if match[3] else None)
        return None
