"""What SAP can refuse with, what the adapter makes of it, and what the sandbox page tells of it."""

import re
from pathlib import Path

import pytest

from sap_adapter.classifier import Classifier, LogItem
from sap_adapter.soap import ALREADY_PROCESSED
from sap_mock.manners import Manner
from sap_mock.refusals import REASONS

pytestmark = pytest.mark.contract

ROOT = Path(__file__).parents[2]
# posted, checked, and the headline of every refusal
NO_REASONS = {"605(RW)", "614(RW)", "609(RW)"} | ALREADY_PROCESSED
UNLISTED_ON_PURPOSE = {"999(ZZ)"}


def emitted():
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "sap_mock").glob("*.py"))
    return set(re.findall(r'"([0-9]{3}\([A-Z0-9/_]+\))"', sources)) - NO_REASONS


def test_every_reason_that_the_mock_can_emit_is_classified():
    assert len(emitted()) > 20
    assert emitted() - Classifier.from_package().type_ids == UNLISTED_ON_PURPOSE


def test_every_classified_reason_can_be_asked_of_the_mock():
    askable = {reason.type_id for reason in REASONS.values()}
    assert Classifier.from_package().type_ids == askable - UNLISTED_ON_PURPOSE


def test_the_sandbox_page_lists_every_word_and_what_the_partner_sees():
    page = (ROOT / "docs/sandbox.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `([A-Z-]+)` \|(.*)$", page, re.MULTILINE))
    assert set(rows) == set(REASONS) | {manner.value for manner in Manner}
    for word, reason in REASONS.items():
        failure = Classifier.from_package().classify([LogItem(reason.type_id, 3, "")]).failure
        if failure.pointer:
            assert f"`{failure.code}`, pointer `{failure.pointer}`" in rows[word]
