"""The demo's own arithmetic: account numbers, bars, latencies, what the leak finder looks for."""

import base64
import re

import pytest
from stdnum import iban

from devstack.demo.instructions import Instructions, german_iban
from devstack.demo.partner_client import Sent
from devstack.demo.scenario import Run, Scenario
from devstack.demo.view import sparkline, summary_lines
from devstack.leaks import _needles

pytestmark = pytest.mark.unit


def test_made_up_account_numbers_are_valid():
    assert all(iban.is_valid(german_iban()) for _ in range(200))


def test_payments_of_a_run_differ_and_show_the_planted_data():
    instructions = Instructions()
    first, second = instructions.body("happy", 1), instructions.body("happy", 2)
    assert first["external_id"] != second["external_id"]
    assert first["amount"] != second["amount"]
    assert len(first["external_id"]) <= 35
    assert all(planted in str(first) for planted in instructions.planted)
    assert re.fullmatch(r"[0-9]+\.[0-9]{2}", instructions.body("happy", 1234)["amount"]["value"])


def test_two_runs_plant_different_data():
    assert not set(Instructions().planted) & set(Instructions().planted)


@pytest.mark.parametrize(
    ("values", "bars"),
    [([], ""), ([0, 0], "▁▁"), ([0, 8, 14], "▁▅█"), ([1] * 96, "█" * 48), ([0] * 95 + [9], "▁" * 47 + "█")],
)
def test_sparkline(values, bars):
    assert sparkline(values) == bars


def test_summary_shows_latencies_and_other_answers():
    run = Run(Scenario("happy", "SAP is well", payments=100, per_second=1.0))
    run.sent = [
        Sent({"id": "pay_1"}, float(n), ("503",) if n == 5 else (), replayed=False) for n in range(1, 101)
    ]
    (line,) = summary_lines(run)
    assert "100 of 100 answered 202" in line
    assert "p50 50 ms" in line or "p50 51 ms" in line
    assert "p99 99 ms" in line
    assert "1 503" in line


@pytest.mark.parametrize("before", range(6))
def test_planted_data_is_recognised_in_base64_wherever_it_begins(before):
    encoded = base64.b64encode(b"x" * before + b"Quillon Zwetschke 1a2b3c4d" + b"y" * 7)
    assert any(needle in encoded for needle in list(_needles("Quillon Zwetschke 1a2b3c4d"))[1:])
