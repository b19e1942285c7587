"""What a partner may send about a payment that exists: the models that validate it."""

from typing import Any

from bridge.errors import FieldError
from bridge.money import Money
from gateway.payment_request import AmountModel, RequestModel, invalid_request, validate


class AmountOfStepModel(RequestModel):
    """The body of captures and refunds: without an amount, it is all that there is."""

    amount: AmountModel | None = None


class NothingModel(RequestModel):
    """The body of reversals and cancellations: `{}`."""


def read_amount(document: dict[str, Any]) -> Money | None:
    """Return the amount asked for, None for all that there is; 422 if the body is not as it must be."""
    amount = validate(AmountOfStepModel, document).amount
    return None if amount is None else Money.parse(amount.value, amount.currency)


def read_nothing(document: dict[str, Any]) -> None:
    """Require `{}`; 422 for anything else."""
    validate(NothingModel, document)


def require_currency(wanted: Money | None, currency: str) -> None:
    """422 for an amount in another currency than the payment's."""
    if wanted is not None and wanted.currency != currency:
        raise invalid_request([FieldError("/amount/currency", "must be the payment's currency")])
