"""Who pays whom and why: the part of a payment that is only ever stored encrypted.

The gateway writes it to `payments.encrypted_parties` (key ring of party data; bound to table `payments`,
column `encrypted_parties`, row `payment_id`), sap_adapter reads it. The plaintext is this JSON, UTF-8:

    {"debtor": {"name": "…", "account": {"iban": "…"}} | null, "creditor": … the same …,
     "remittance_information": "…" | null}
"""

import json
from dataclasses import dataclass
from typing import Any

TABLE = "payments"
COLUMN = "encrypted_parties"


@dataclass(frozen=True, slots=True, repr=False)
class Party:
    """One side of a payment. `iban` is in the electronic format, without spaces. Has no repr on purpose."""

    name: str
    iban: str


@dataclass(frozen=True, slots=True, repr=False)
class Parties:
    """The parties and the text of a payment, each optional. Has no repr on purpose."""

    debtor: Party | None = None
    creditor: Party | None = None
    remittance_information: str | None = None

    def __bool__(self) -> bool:
        return not (self.debtor is None and self.creditor is None and self.remittance_information is None)

    def to_bytes(self) -> bytes:
        """Return the plaintext that is encrypted."""
        document = {
            "debtor": _party_document(self.debtor),
            "creditor": _party_document(self.creditor),
            "remittance_information": self.remittance_information,
        }
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, plaintext: bytes) -> "Parties":
        """Read what `to_bytes` has written."""
        document = json.loads(plaintext)
        return cls(
            debtor=_party(document["debtor"]),
            creditor=_party(document["creditor"]),
            remittance_information=document["remittance_information"],
        )


def _party_document(party: Party | None) -> dict[str, Any] | None:
    return None if party is None else {"name": party.name, "account": {"iban": party.iban}}


def _party(document: dict[str, Any] | None) -> Party | None:
    return None if document is None else Party(document["name"], document["account"]["iban"])
