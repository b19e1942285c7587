"""Payments to send, with personal data that can be recognised wherever it should not be."""

import secrets
from dataclasses import dataclass, field
from typing import Any

IBAN_DIGITS = 18


def german_iban() -> str:
    """A made-up account number with the check digits of ISO 13616 (modulo 97)."""
    account = "".join(secrets.choice("0123456789") for _ in range(IBAN_DIGITS))
    remainder = int(f"{account}131400") % 97  # D = 13, E = 14, 00 for the check digits
    return f"DE{98 - remainder:02}{account}"


@dataclass(frozen=True)
class Instructions:
    """One run's payments: `run` sets them apart from every other run's, `planted` are its personal data."""

    run: str = field(default_factory=lambda: secrets.token_hex(4))
    debtor_iban: str = field(default_factory=german_iban)
    creditor_iban: str = field(default_factory=german_iban)

    @property
    def debtor_name(self) -> str:
        return f"Quillon Zwetschke {self.run}"

    @property
    def creditor_name(self) -> str:
        return f"Yxmar Ploetzenrieder {self.run}"

    @property
    def remittance_information(self) -> str:
        return f"Pruefvermerk Xanthippe {self.run}"

    @property
    def planted(self) -> tuple[str, ...]:
        return (
            self.debtor_name,
            self.creditor_name,
            self.remittance_information,
            self.debtor_iban,
            self.creditor_iban,
        )

    def body(self, name: str, number: int) -> dict[str, Any]:
        """The `number`th payment of the group `name`; each has another amount, so that a mix-up shows."""
        return {
            "external_id": f"{name}-{self.run}-{number:05}",
            "amount": {"value": f"{100 + number}.{number % 100:02}", "currency": "EUR"},
            "capture": "automatic",
            "debtor": {"name": self.debtor_name, "account": {"iban": self.debtor_iban}},
            "creditor": {"name": self.creditor_name, "account": {"iban": self.creditor_iban}},
            "remittance_information": self.remittance_information,
            "metadata": {"run": self.run},
        }
