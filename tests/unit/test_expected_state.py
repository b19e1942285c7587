"""The state that a later step will find, and what it allows."""

from datetime import UTC, datetime

import pytest

from bridge.money import Money
from bridge.payment import (
    Operation,
    OperationKind,
    OperationStatus,
    Payment,
    PaymentStatus,
    allows,
    available_minor,
    expected_payment,
    has_its_turn,
    waiting_follow_ups,
)

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
UNFINISHED = ("scheduled", "accepted", "processing", "unknown", "parked")


def payment(status="accepted", captured=0, refunded=0, capture="manual"):
    state = PaymentStatus(status)
    return Payment("pay_1", "par_1", "A", state, "EUR", 1000, captured, refunded, capture, None, NOW, NOW)


def step(kind, status="accepted", amount=1000):
    return Operation(f"op_{kind}", OperationKind(kind), OperationStatus(status), Money(amount, "EUR"), NOW)


def seen(expected):
    return (str(expected.status), expected.captured_minor, expected.refunded_minor)


@pytest.mark.parametrize("status", UNFINISHED)
def test_whatever_is_not_at_its_end_is_expected_to_succeed(status):
    assert seen(expected_payment(payment(), [step("authorize", status)])) == ("authorized", 0, 0)
    assert seen(expected_payment(payment(), [step("payment", status)])) == ("paid", 1000, 0)


def test_a_queue_is_expected_to_go_through_in_its_order():
    queue = [step("authorize", "processing"), step("capture", amount=600), step("refund", amount=100)]
    assert seen(expected_payment(payment(), queue)) == ("partially_refunded", 600, 100)
    assert seen(expected_payment(payment(), [*queue, step("refund", amount=500)])) == ("refunded", 600, 600)


def test_what_has_succeeded_is_in_the_payment_already():
    done = [step("payment", "succeeded"), step("refund", "succeeded", 300)]
    now = payment("partially_refunded", 1000, 300)
    assert seen(expected_payment(now, done)) == ("partially_refunded", 1000, 300)
    assert seen(expected_payment(now, [*done, step("refund", amount=700)])) == ("refunded", 1000, 1000)


@pytest.mark.parametrize("status", ["rejected", "cancelled"])
def test_what_was_refused_changes_nothing(status):
    steps = [step("payment", "succeeded"), step("refund", status)]
    assert seen(expected_payment(payment("paid", 1000), steps)) == ("paid", 1000, 0)


def test_what_waits_behind_a_refusal_is_expected_to_change_nothing():
    steps = [step("payment", "rejected"), step("refund")]
    assert seen(expected_payment(payment("rejected"), steps)) == ("rejected", 0, 0)
    steps = [step("authorize", "succeeded"), step("capture", "rejected"), step("refund")]
    assert seen(expected_payment(payment("authorized"), steps)) == ("authorized", 0, 0)


@pytest.mark.parametrize("status", PaymentStatus)
def test_a_capture_or_a_reversal_needs_an_authorized_payment(status):
    allowed = 1000 if status == "authorized" else 0
    now = payment(status, captured=1000 if "paid" in status or "refund" in status else 0)
    for kind in (OperationKind.CAPTURE, OperationKind.REVERSE):
        assert available_minor(now, kind) == allowed


@pytest.mark.parametrize(
    ("now", "available"),
    [
        (payment("paid", 1000), 1000),
        (payment("paid", 600), 600),
        (payment("partially_refunded", 600, 599), 1),
        (payment("refunded", 600, 600), 0),
        (payment("authorized"), 0),
        (payment("reversed"), 0),
        (payment("cancelled"), 0),
    ],
)
def test_a_refund_never_exceeds_what_was_captured(now, available):
    assert available_minor(now, OperationKind.REFUND) == available


def test_only_later_steps_that_are_not_with_sap_wait():
    steps = [
        step("payment", "accepted"),
        *(step("refund", status) for status in UNFINISHED),
        *(step("refund", status) for status in ("succeeded", "rejected", "cancelled")),
    ]
    assert waiting_follow_ups(steps) == len(UNFINISHED) - 2


def test_a_steps_turn_comes_when_all_before_it_have_ended():
    assert has_its_turn([])
    assert has_its_turn([step("refund", "rejected"), step("payment", "succeeded")])
    for status in UNFINISHED:
        assert not has_its_turn([step("authorize", status)])


@pytest.mark.parametrize(
    ("now", "asked", "allowed"),
    [
        (payment("scheduled"), step("payment"), True),
        (payment("rejected"), step("payment"), False),
        (payment("authorized"), step("capture", amount=1), True),
        (payment("authorized"), step("capture", amount=1001), False),
        (payment("authorized"), step("reverse"), True),
        (payment("paid", 600), step("reverse"), False),
        (payment("paid", 600), step("refund", amount=600), True),
        (payment("partially_refunded", 600, 1), step("refund", amount=600), False),
        (payment("rejected"), step("refund"), False),
    ],
)
def test_what_the_payment_does_not_allow_as_it_stands_is_seen_before_sap_books_it(now, asked, allowed):
    assert allows(now, asked) is allowed
