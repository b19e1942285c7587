"""How a document in SAP says whose step it was, for the day when our own record of it is lost.

The mark stands in Reference3IDByBusinessPartner (20 characters) of each line: a letter for the kind, a dash,
and 16 characters of a hash of the partner's id, so that the ledger names no partner by our ids.
"""

import base64
import hashlib
import re
from collections.abc import Iterable

from bridge.payment import OperationKind

HASH_CHARACTERS = 16
_LETTERS = {
    OperationKind.PAYMENT: "P",
    OperationKind.AUTHORIZE: "A",
    OperationKind.CAPTURE: "C",
    OperationKind.REVERSE: "V",
    OperationKind.REFUND: "R",
}
_KINDS = {letter: kind for kind, letter in _LETTERS.items()}
_MARK = re.compile(rf"([{''.join(_KINDS)}])-([A-Z2-7]{{{HASH_CHARACTERS}}})")


def document_mark(kind: OperationKind, partner_id: str) -> str:
    return f"{_LETTERS[kind]}-{partner_hash(partner_id)}"


def partner_hash(partner_id: str) -> str:
    digest = hashlib.sha256(f"partner/{partner_id}".encode()).digest()
    return base64.b32encode(digest).decode()[:HASH_CHARACTERS]


def read_mark(mark: str) -> tuple[OperationKind, str] | None:
    """Return the kind and the partner's hash; None for what is no mark of ours."""
    match = _MARK.fullmatch(mark)
    return None if match is None else (_KINDS[match[1]], match[2])


def partners_by_hash(partner_ids: Iterable[str]) -> dict[str, str]:
    return {partner_hash(partner_id): partner_id for partner_id in partner_ids}
