"""One SAP system: its ledger, its traffic and faults, its commits under way."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sap_mock.late_commits import LateCommits
from sap_mock.ledger import Ledger
from sap_mock.posting_desk import PostingDesk
from sap_mock.traffic import Traffic


@dataclass(frozen=True, slots=True)
class System:
    """Nothing of it is shared with another system of the same process."""

    ledger: Ledger
    traffic: Traffic
    late_commits: LateCommits
    desk: PostingDesk

    @classmethod
    def open(cls, data: Path, seed: int | None) -> "System":
        """Open the ledger's file; LedgerError when it can't be used."""
        ledger = Ledger(data)
        return cls(ledger, Traffic(seed), LateCommits(), PostingDesk(ledger, time.time))

    def reset(self) -> None:
        """Forget documents, stored responses, late commits, counts and faults."""
        self.late_commits.forget()
        self.ledger.clear()
        self.traffic.reset()


def stats_of(systems: Sequence[System]) -> dict[str, int]:
    """Return the counts of all the systems together; `max_in_flight` is that of the busiest one."""
    traffic = [system.traffic.stats() for system in systems]
    counts = [system.ledger.counts() for system in systems]
    return {
        "documents": sum(documents for documents, _ in counts),
        "calls": sum(one["calls"] for one in traffic),
        "refused": sum(one["refused"] for one in traffic),
        "max_in_flight": max(one["max_in_flight"] for one in traffic),
        "duplicates": sum(duplicates for _, duplicates in counts) + _in_several(systems, counts),
    }


def _in_several(systems: Sequence[System], counts: Sequence[tuple[int, int]]) -> int:
    """Count the references that one system has although another had them first."""
    used = [system for system, (documents, _) in zip(systems, counts, strict=True) if documents]
    if len(used) < 2:
        return 0
    references = [system.ledger.references() for system in used]
    return sum(map(len, references)) - len(set().union(*references))
