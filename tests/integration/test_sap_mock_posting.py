"""The posting desk on a real ledger file: idempotency, simulation, reversal, duplicates, refusals."""

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import sap_envelopes as sap
from lxml import etree

from sap_mock.balances import balances
from sap_mock.ledger import Ledger
from sap_mock.posting_desk import Memory, PostingDesk
from sap_mock.schema import RequestSchema
from sap_mock.soap_request import read_request

pytestmark = pytest.mark.integration

DAY_SECONDS = 86_400


class Desk:
    """Posts XML at a time that the test sets."""

    def __init__(self, path):
        self.ledger = Ledger(path)
        self.now = 1_795_000_000.0
        self._desk = PostingDesk(self.ledger, lambda: self.now)
        self._schema = RequestSchema()

    def raw(self, *requests, window_seconds=DAY_SECONDS, id_window_seconds=0):
        memory = Memory(window_seconds, max(window_seconds, id_window_seconds))
        return self._desk.post(read_request(sap.envelope(*requests), self._schema), memory)

    def post(self, request, **windows):
        (answer,) = self.raw(request, **windows)
        return sap.Confirmation(etree.fromstring(answer))

    def counts(self):
        return self.ledger.counts()


@pytest.fixture
def desk(tmp_path):
    desk = Desk(tmp_path / "ledger.sqlite3")
    yield desk
    desk.ledger.close()


def test_a_posting_gets_the_next_number_of_its_range(desk):
    first = desk.post(sap.request(sap.entry(reference="A")))
    second = desk.post(sap.request(sap.entry(reference="B")))
    assert (first.number, first.company_code, first.fiscal_year) == ("1400000001", "1000", "2026")
    assert second.number == "1400000002"
    assert first.severity == 1
    assert first.types == ["605(RW)"]


def test_numbers_count_per_company_code_and_fiscal_year(desk):
    desk.post(sap.request(sap.entry(reference="A")))
    other_company = desk.post(sap.request(sap.entry(reference="B", company_code="2000")))
    other_year = desk.post(sap.request(sap.entry(reference="C", posting_date="2027-01-02")))
    assert (other_company.number, other_year.number) == ("1400000001", "1400000001")
    assert other_year.fiscal_year == "2027"


def test_the_ledger_tells_amount_and_kind_as_sent(desk):
    desk.post(sap.request(sap.entry(reference="A", amount="1250.00", kind="capture")))
    desk.post(sap.request(sap.entry(reference="B", amount="1250", currency="JPY", kind="refund")))
    a, b = desk.ledger.summaries(None)
    assert (a["amount"], a["currency"], a["kind"]) == ("1250.00", "EUR", "capture")
    assert (b["amount"], b["currency"], b["kind"]) == ("1250", "JPY", "refund")
    assert desk.ledger.summaries("B") == [b]
    assert desk.ledger.summaries("C") == []


def test_the_same_uuid_gets_the_same_answer_and_no_second_document(desk):
    request = sap.request(message_uuid=uuid.uuid4())
    first = desk.raw(request)
    desk.now += DAY_SECONDS - 1
    assert desk.raw(request) == first
    assert desk.counts() == (1, 0)


def test_the_same_uuid_at_once_is_one_document(desk):
    request = sap.request(message_uuid=uuid.uuid4())
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: tuple(desk.raw(request)), range(40)))
    assert len(set(answers)) == 1
    assert desk.counts() == (1, 0)


def test_after_the_window_the_same_uuid_posts_again(desk):
    request = sap.request(message_uuid=uuid.uuid4())
    first = desk.post(request, window_seconds=60)
    desk.now += 61
    second = desk.post(request, window_seconds=60)
    assert first.number != second.number
    assert desk.counts() == (2, 1)


def test_a_message_whose_id_outlives_its_response_is_outdated_and_then_forgotten(desk):
    request = sap.request(message_uuid=uuid.uuid4())
    windows = {"window_seconds": 60, "id_window_seconds": 600}
    desk.post(request, **windows)
    desk.now += 61
    outdated = desk.post(request, **windows)
    assert (outdated.number, outdated.severity, outdated.types) == ("0000000000", 3, ["005(/IWBEP/CM_COS)"])
    assert desk.counts() == (1, 0)
    desk.now += 600
    assert desk.post(request, **windows).severity == 1
    assert desk.counts() == (2, 1)


def test_a_window_of_zero_remembers_nothing(desk):
    request = sap.request(message_uuid=uuid.uuid4())
    desk.post(request, window_seconds=0)
    desk.post(request, window_seconds=0)
    assert desk.counts() == (2, 1)


def test_a_reference_used_twice_is_posted_twice_and_shows_as_a_duplicate(desk):
    for _ in range(3):
        assert desk.post(sap.request()).severity == 1
    assert desk.counts() == (3, 2)


def test_documents_without_a_reference_are_no_duplicates_of_each_other(desk):
    for _ in range(2):
        desk.post(sap.request(sap.entry(reference="")))
    assert desk.counts() == (2, 0)


def test_a_refusal_names_the_general_error_first_and_the_reason_after_it(desk):
    answer = desk.post(sap.request(sap.entry(text="SBX-CUSTOMER-UNKNOWN-1")))
    assert answer.severity == 3
    assert answer.number == "0000000000"
    assert answer.types == ["609(RW)", "102(F5)"]
    assert desk.counts() == (0, 0)


def test_a_stored_refusal_is_replayed_even_when_its_cause_is_gone(desk):
    message_uuid = uuid.uuid4()
    entry = sap.entry(text="SBX-ACCOUNT-MISSING-ONCE-1")
    refused = desk.raw(sap.request(entry, message_uuid=message_uuid))
    assert desk.raw(sap.request(entry, message_uuid=message_uuid)) == refused
    assert desk.post(sap.request(entry, message_uuid=uuid.uuid4())).severity == 1


def test_a_lock_is_gone_after_two_refusals(desk):
    entry = sap.entry(text="SBX-LOCKED-1")
    assert [desk.post(sap.request(entry)).severity for _ in range(4)] == [3, 3, 1, 1]
    other = sap.entry(text="SBX-LOCKED-1", reference="OTHER")
    assert desk.post(sap.request(other)).severity == 3


def test_an_unbalanced_entry_is_refused(desk):
    items = sap.gl_item("12.50") + sap.debtor_item("-12.00")
    answer = desk.post(sap.request(sap.entry(items=items)))
    assert answer.types == ["609(RW)", "702(F5)"]
    assert "0.50" in answer.notes[1]


def test_each_request_of_a_message_stands_alone(desk):
    answers = desk.raw(
        sap.request(sap.entry(reference="A")),
        sap.request(sap.entry(reference="B", text="SBX-CUSTOMER-UNKNOWN")),
        sap.request(sap.entry(reference="C")),
    )
    assert [sap.Confirmation(etree.fromstring(answer)).severity for answer in answers] == [1, 3, 1]
    assert [document["reference"] for document in desk.ledger.summaries(None)] == ["A", "C"]


def test_a_simulation_posts_and_remembers_nothing(desk):
    message_uuid = uuid.uuid4()
    simulated = desk.post(sap.request(message_uuid=message_uuid, test_data=True))
    assert (simulated.number, simulated.severity) == ("0000000000", 1)
    assert desk.counts() == (0, 0)
    refused = desk.post(sap.request(sap.entry(text="SBX-CUSTOMER-UNKNOWN"), test_data=True))
    assert refused.severity == 3
    assert desk.post(sap.request(message_uuid=message_uuid)).number == "1400000001"


def test_a_reversal_turns_the_original_around_once(desk):
    original = desk.post(sap.request(sap.entry(reference="A", kind="authorize", amount="99.90")))
    reversal = sap.entry(reference="B", kind="reverse", reverses=original.object_key)
    assert desk.post(sap.request(reversal)).severity == 1
    assert desk.ledger.summaries("B")[0] | {"number": ""} == {
        "reference": "B",
        "company_code": "1000",
        "fiscal_year": "2026",
        "number": "",
        "currency": "EUR",
        "amount": "99.90",
        "kind": "reverse",
        "items": [
            {"kind": "Item", "account": "113100", "amount": "-99.90"},
            {"kind": "DebtorItem", "account": "10001", "amount": "99.90"},
        ],
    }
    again = desk.post(sap.request(sap.entry(reference="C", kind="reverse", reverses=original.object_key)))
    assert again.types == ["609(RW)", "361(F5A)"]


@pytest.mark.parametrize("key", ["140000000110002026", "no such key"])
def test_a_reversal_of_nothing_is_refused(desk, key):
    assert desk.post(sap.request(sap.entry(reverses=key))).types == ["609(RW)", "397(F5)"]


def test_a_ledger_of_an_earlier_life_is_read_again(desk, tmp_path):
    desk.post(sap.request(sap.entry(reference="A")))
    desk.ledger.close()
    desk.ledger = Ledger(tmp_path / "ledger.sqlite3")
    assert desk.counts() == (1, 0)
    assert desk.ledger.summaries("A")[0]["number"] == "1400000001"


def test_a_failure_in_the_middle_leaves_nothing_behind(desk):
    def count_and_fail():
        with desk.ledger.posting() as posting:
            posting.count_refusal("A", "LOCKED")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        count_and_fail()
    with desk.ledger.posting() as posting:
        assert posting.refused_times("A", "LOCKED") == 0


def test_balances_sum_what_is_booked_per_account_and_currency(desk):
    desk.post(sap.request(sap.entry(reference="A", amount="100.00", text="INV-1")))
    refund = sap.gl_item("-30.00", text="INV-1") + sap.debtor_item("30.00", text="INV-1")
    desk.post(sap.request(sap.entry(reference="B", kind="refund", items=refund)))
    desk.post(sap.request(sap.entry(reference="C", amount="7", currency="JPY", text="INV-2")))

    def clearing(**chosen):
        found = balances(desk.ledger, **chosen)
        return {row["currency"]: row["balance"] for row in found if row["account"] == "113100"}

    assert clearing() == {"EUR": "70.00", "JPY": "7"}
    assert clearing(reference=["A"]) == {"EUR": "100.00"}
    assert clearing(text=["INV-1"]) == {"EUR": "70.00"}
    (debtor,) = [row for row in balances(desk.ledger, reference=["A", "B"]) if row["kind"] == "DebtorItem"]
    assert (debtor["debit"], debtor["credit"], debtor["balance"]) == ("30.00", "-100.00", "-70.00")
