"""What a payment's own texts can ask of the mock, beside refusals."""

from dataclasses import replace

import pytest
from test_sap_mock_refusals import ENTRY, with_text

from sap_mock.manners import ALWAYS, TIMES, AskedManner, Manner, asked_manner
from sap_mock.refusals import asked_refusal

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("manner", Manner)
def test_each_manner_is_asked_for_by_its_word(manner):
    assert asked_manner(with_text(f"SBX-{manner.value}-4711")) == AskedManner(manner, TIMES[manner])
    assert asked_refusal(with_text(f"SBX-{manner.value}-4711")) is None


def test_the_poisonous_operation_never_gets_an_answer():
    assert TIMES[Manner.TIMEOUT] == ALWAYS


def test_a_text_may_say_how_often_and_for_which_kind():
    assert asked_manner(with_text("SBX-TIMEOUT-ONCE-1")) == AskedManner(Manner.TIMEOUT, 1)
    refund = with_text("SBX-REFUND-DROPPED-TWICE", header_text="refund")
    assert asked_manner(refund) == AskedManner(Manner.DROPPED, 2)
    assert asked_manner(replace(refund, header_text="payment")) is None


@pytest.mark.parametrize("text", ["INV-1", "SBX-TIMEOUTS", "SBX-CUSTOMER-UNKNOWN", "INV-SBX-TIMEOUT"])
def test_other_texts_ask_for_no_manner(text):
    assert asked_manner(with_text(text)) is None
    assert asked_manner(ENTRY) is None
