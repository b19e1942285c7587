"""What a partner may send as a batch. Each item is judged for itself, later."""

from typing import Annotated, Any

from pydantic import Field

from gateway.payment_request import RequestModel, validate

MAX_PAYMENTS = 500


class BatchModel(RequestModel):
    """The body of `POST /v1/payments/batch`: payments, each with its `idempotency_key` beside its members."""

    payments: Annotated[list[Any], Field(min_length=1, max_length=MAX_PAYMENTS)]


def read_batch(document: dict[str, Any]) -> list[Any]:
    """Return the items as they were parsed; 422 unless there are 1 to 500."""
    return validate(BatchModel, document).payments
