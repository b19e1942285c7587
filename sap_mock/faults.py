"""The faults that can be asked of the mock: PUT /_control/faults replaces all of them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

MODES = ("up", "down", "overloaded")
MAX_MILLISECONDS = 3_600_000
MAX_CAPACITY = 10_000
MAX_WINDOW_SECONDS = 31_536_000
_WHOLE_NUMBER_LIMITS = {
    "latency_ms": MAX_MILLISECONDS,
    "capacity": MAX_CAPACITY,
    "calls_per_second": MAX_CAPACITY,
    "late_commit_ms": MAX_MILLISECONDS,
    "read_lag_ms": MAX_MILLISECONDS,
    "idempotency_window_s": MAX_WINDOW_SECONDS,
    "idempotency_id_window_s": MAX_WINDOW_SECONDS,
}
_RATES = (
    "latency_jitter",
    "error_rate",
    "commit_then_drop_rate",
    "drop_before_commit_rate",
    "informational_rate",
    "dripping_rate",
    "second_answer_rate",
    "foreign_confirmation_rate",
)


class FaultsError(ValueError):
    """All that is wrong with the faults asked for, in one sentence."""


@dataclass(frozen=True, slots=True)
class Faults:
    """Milliseconds, seconds, calls at once and per second (0 = no limit), shares from 0 to 1.

    `idempotency_window_s`: how long a response is kept; `idempotency_id_window_s`: how long the message's id
    is, counted from the same moment: a longer one means that SAP knows the id and has lost the response.
    """

    mode: str = "up"
    latency_ms: int = 0
    latency_jitter: float = 0.1
    capacity: int = 0
    calls_per_second: int = 0
    error_rate: float = 0.0
    commit_then_drop_rate: float = 0.0
    drop_before_commit_rate: float = 0.0
    informational_rate: float = 0.0
    dripping_rate: float = 0.0
    second_answer_rate: float = 0.0
    foreign_confirmation_rate: float = 0.0
    late_commit_ms: int = 0
    read_lag_ms: int = 0
    idempotency_window_s: int = 86_400
    idempotency_id_window_s: int = 0

    @classmethod
    def parse(cls, body: Any) -> "Faults":
        """Read a decoded JSON body; what it leaves out is at its default. FaultsError lists every mistake."""
        if not isinstance(body, dict):
            raise FaultsError("the body must be a JSON object")
        mistakes = [*_unknown(body), *_wrong_mode(body), *_wrong_numbers(body), *_wrong_rates(body)]
        if mistakes:
            raise FaultsError("; ".join(mistakes))
        return cls(**body)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def _unknown(body: Mapping[str, Any]) -> list[str]:
    known = [field.name for field in fields(Faults)]
    return [f"unknown fault {name!r} (known: {', '.join(known)})" for name in body if name not in known]


def _wrong_mode(body: Mapping[str, Any]) -> list[str]:
    if body.get("mode", "up") in MODES:
        return []
    return [f"mode must be one of {', '.join(MODES)}"]


def _wrong_numbers(body: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} must be a whole number from 0 to {limit}"
        for name, limit in _WHOLE_NUMBER_LIMITS.items()
        if not _is_number(body.get(name, 0), int) or not 0 <= body.get(name, 0) <= limit
    ]


def _wrong_rates(body: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} must be a number from 0 to 1"
        for name in _RATES
        if not _is_number(body.get(name, 0), int | float) or not 0 <= body.get(name, 0) <= 1
    ]


def _is_number(value: Any, kind: Any) -> bool:
    """JSON's true and false are not numbers, though Python's bool is an int."""
    return isinstance(value, kind) and not isinstance(value, bool)
