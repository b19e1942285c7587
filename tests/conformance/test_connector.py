"""What the adapter relies on, asked of the in-memory connector and of S/4HANA's over a real sap_mock."""

import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

import pytest
import requests
from fakes.accepted import PARTNER_ID
from fakes.in_memory_connector import InMemoryConnector
from lxml import etree
from stand_ins import REPOSITORY, free_port
from waiting import DEADLINE_SECONDS, wait_until

from bridge.clock import SystemClock
from bridge.errors import SettingsError, TransientError, UnknownOutcomeError
from bridge.ids import new_id, sap_message_uuid, sap_reference
from bridge.mapping_values import JournalValues
from bridge.money import Money
from bridge.payment import OperationKind
from sap_adapter.connector import Connector, DocumentPage, JournalFacts, Posted, Refused, Sending
from sap_adapter.document_mark import document_mark
from sap_adapter.s4hana import REFERENCE_FIELDS, S4HanaConnector, SapConnection, Timeouts

pytestmark = pytest.mark.conformance

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
TODAY = NOW.date()
TIMEOUTS = Timeouts(10.0, 30.0)
VALUES = JournalValues(
    document_type="DZ",
    customer="10000001",
    vendor=None,
    clearing_account="113100",
    statistical_account="199100",
    special_gl_code="G",
    reversal_reason="01",
    header_text="payment",
    counterparty_text="Invoice 4711",
    assignment="A-17",
    header_reference="ORDER 17",
)


class InMemoryTarget:
    def __init__(self):
        self.connector: Connector = InMemoryConnector()

    def take_no_more_calls(self):
        self.connector.script.append("not-posted")

    def lose_the_next_answer(self):
        self.connector.script.append("commit-then-drop")

    def refuse_the_next(self):
        self.connector.script.append("refuse:102(F5)")

    def go_away(self):
        self.connector.answers_questions = False
        self.connector.script.append("drop")


@dataclass
class MockTarget:
    connector: Connector
    url: str
    external_id: str = "INV-1"

    def faults(self, **faults):
        requests.put(f"{self.url}/_control/faults", json=faults, timeout=DEADLINE_SECONDS).raise_for_status()

    def take_no_more_calls(self):
        # The second call of an overloaded system is a 503; half of those carry Retry-After.
        self.faults(mode="overloaded")

    def lose_the_next_answer(self):
        self.faults(commit_then_drop_rate=1.0)

    def refuse_the_next(self):
        self.external_id = "SBX-CUSTOMER-UNKNOWN"

    def go_away(self):
        self.faults(mode="down")


@pytest.fixture(scope="module")
def sap_mock_url(tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("sap"), free_port()
    environment = {**os.environ, "PORT": str(port), "SAP_MOCK_DATA": str(folder / "ledger.sqlite")}
    url = f"http://127.0.0.1:{port}"
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sap_mock"], env=environment, cwd=REPOSITORY, stdout=output, stderr=output
        )
    try:
        wait_until(lambda: answers(url), what="sap_mock")
        yield url
    finally:
        process.terminate()
        process.wait(DEADLINE_SECONDS)


def answers(url):
    try:
        return requests.get(f"{url}/livez", timeout=1).ok
    except requests.RequestException:  # not there yet, or slow on a busy machine
        return False


@pytest.fixture(params=["memory", "s4hana"])
def target(request):
    if request.param == "memory":
        return InMemoryTarget()
    url = request.getfixturevalue("sap_mock_url")
    requests.post(f"{url}/_control/reset", timeout=DEADLINE_SECONDS).raise_for_status()
    connection = SapConnection(url, "sap", "sap-secret", unposted_statuses=(429, 503))
    return MockTarget(S4HanaConnector(connection, TIMEOUTS, max_calls=4, clock=SystemClock()), url)


def sending(target, operation_id=None, kind=OperationKind.PAYMENT, reverses=None):
    operation_id = operation_id or new_id("op", NOW)
    entry = rendered(target, operation_id, kind=kind, reverses=reverses)
    return Sending(operation_id, str(sap_message_uuid(operation_id, 0)), NOW, entry.content)


def rendered(
    target, operation_id, *, kind=OperationKind.PAYMENT, reverses=None, posting_date=TODAY, values=VALUES
):
    return target.connector.render(
        JournalFacts(
            kind=kind,
            reference=sap_reference(operation_id),
            partner_id=PARTNER_ID,
            external_id=getattr(target, "external_id", "INV-1"),
            amount="1250.00",
            currency="EUR",
            company_code="1000",
            document_date=TODAY.isoformat(),
            posting_date=posting_date.isoformat(),
            values=values,
            reverses=reverses,
        )
    )


def found(target, sent):
    return target.connector.find("1000", sap_reference(sent.operation_id))


@pytest.mark.parametrize("kind", OperationKind)
def test_what_was_posted_is_found_by_its_reference_with_type_and_amount(target, kind):
    reverses = None
    if kind == OperationKind.REVERSE:
        reverses = target.connector.post(sending(target, kind=OperationKind.AUTHORIZE)).document
    sent = sending(target, kind=kind, reverses=reverses)
    outcome = target.connector.post(sent)
    assert isinstance(outcome, Posted)
    (document,) = found(target, sent)
    assert document.document == outcome.document
    assert document.document_type == VALUES.document_type
    assert document.amount == Money(125000, "EUR")


def test_a_vendors_document_is_posted_as_a_customers_is(target):
    operation_id = new_id("op", NOW)
    values = replace(VALUES, customer=None, vendor="20000001")
    entry = rendered(target, operation_id, kind=OperationKind.REFUND, values=values)
    sent = Sending(operation_id, str(sap_message_uuid(operation_id, 0)), NOW, entry.content)
    assert isinstance(target.connector.post(sent), Posted)
    assert [document.amount for document in found(target, sent)] == [Money(125000, "EUR")]


def test_rendering_is_pure_and_another_posting_date_is_all_that_changes(target):
    operation_id = new_id("op", NOW)
    first = rendered(target, operation_id)
    later = date(2026, 12, 1)
    assert rendered(target, operation_id) == first
    assert target.connector.with_posting_date(first.content, TODAY) == first.content
    moved = target.connector.with_posting_date(first.content, later)
    assert moved == rendered(target, operation_id, posting_date=later).content
    sent = Sending(operation_id, str(sap_message_uuid(operation_id, 1)), NOW, moved)
    assert isinstance(target.connector.post(sent), Posted)


def test_what_the_facts_do_not_make_is_no_document(target):
    with pytest.raises(ValueError, match="reversal"):
        rendered(target, new_id("op", NOW), kind=OperationKind.REVERSE)
    with pytest.raises(ValueError, match="authorisation"):
        rendered(
            target,
            new_id("op", NOW),
            kind=OperationKind.AUTHORIZE,
            values=replace(VALUES, special_gl_code=None),
        )


def test_what_was_never_posted_is_not_found(target):
    assert target.connector.find("1000", "AAAABBBBCCCC2345") == []


def test_another_company_codes_document_is_not_found(target):
    sent = sending(target)
    target.connector.post(sent)
    assert target.connector.find("2000", sap_reference(sent.operation_id)) == []


def test_a_refusal_names_its_reason_and_books_nothing(target):
    target.refuse_the_next()
    sent = sending(target)
    outcome = target.connector.post(sent)
    assert isinstance(outcome, Refused)
    assert [item.type_id for item in outcome.log][:2] == ["609(RW)", "102(F5)"]
    assert found(target, sent) == []


def all_documents(target, day):
    documents, offset = [], 0
    while offset is not None:
        page = target.connector.documents_since(day, offset)
        documents += page.documents
        offset = page.next_offset
    return documents


def test_everything_posted_is_listed_page_by_page_with_what_it_was(target, monkeypatch):
    monkeypatch.setattr("sap_adapter.s4hana.PAGE_ITEMS", 5)
    today = datetime.now(UTC).date()
    kinds = [OperationKind.AUTHORIZE, *[OperationKind.PAYMENT] * 3, OperationKind.REFUND]
    sent = [sending(target, kind=kind) for kind in kinds]
    booked = [target.connector.post(each).document for each in sent]
    reversal = sending(target, kind=OperationKind.REVERSE, reverses=booked[0])
    target.connector.post(reversal)
    documents = all_documents(target, today - timedelta(days=1))
    by_reference = {document.reference: document for document in documents}
    assert len(by_reference) == len(documents) == 6
    for one, kind in zip(sent, kinds, strict=True):
        document = by_reference[sap_reference(one.operation_id)]
        assert document.mark == document_mark(kind, PARTNER_ID)
        assert document.external_id == "INV-1"
        assert document.found.amount == Money(125000, "EUR")
        assert not document.is_reversal
    taken_back = by_reference[sap_reference(reversal.operation_id)]
    assert taken_back.is_reversal
    assert taken_back.external_id == "INV-1"


def test_an_empty_list_is_one_page(target):
    assert target.connector.documents_since(datetime.now(UTC).date(), 0) == DocumentPage((), None)


def test_documents_of_a_target_that_is_away_are_not_told(target):
    target.go_away()
    with pytest.raises(TransientError):
        target.connector.documents_since(NOW.date(), 0)


def test_documents_of_others_and_of_earlier_days_are_not_listed(sap_mock_url):
    requests.post(f"{sap_mock_url}/_control/reset", timeout=DEADLINE_SECONDS).raise_for_status()
    ours = SapConnection(sap_mock_url, "sap", "sap-secret")
    connector = S4HanaConnector(ours, TIMEOUTS, max_calls=1, clock=SystemClock())
    target = MockTarget(connector, sap_mock_url)
    sent = sending(target)
    connector.post(sent)
    theirs = replace(sending(target), content=sent.content.replace(b"PPBRIDGE", b"OTHERS"))
    connector.post(theirs)
    today = datetime.now(UTC).date()
    assert len(connector.documents_since(today, 0).documents) == 1
    assert connector.documents_since(today + timedelta(days=2), 0).documents == ()


def test_a_lost_answer_is_an_unknown_outcome_and_the_document_is_found(target):
    target.lose_the_next_answer()
    sent = sending(target)
    with pytest.raises(UnknownOutcomeError):
        target.connector.post(sent)
    assert len(found(target, sent)) == 1


def test_a_target_that_is_away_leaves_a_posting_unknown_and_a_question_unanswered(target):
    target.go_away()
    sent = sending(target)
    with pytest.raises(UnknownOutcomeError):
        target.connector.post(sent)
    with pytest.raises(TransientError):
        found(target, sent)


def test_a_target_that_takes_no_more_calls_has_posted_nothing(target):
    target.take_no_more_calls()
    refused = None
    for _ in range(12):
        sent = sending(target)
        try:
            target.connector.post(sent)
        except TransientError as error:
            refused = error
            break
        except UnknownOutcomeError:
            continue  # 503 without Retry-After
    assert refused is not None
    assert refused.retry_after_seconds > 0


@pytest.mark.parametrize("field", ["AssignmentReference", "Reference1IDByBusinessPartner"])
def test_asked_by_a_field_that_carries_no_reference_sap_denied_what_it_had_booked(field):
    """And after the second "none" it was posted again."""
    with pytest.raises(SettingsError, match="reference_field"):
        SapConnection("http://127.0.0.1:1", "sap", "sap-secret", reference_field=field)


def test_every_field_that_may_be_asked_by_carries_the_reference():
    entry = etree.fromstring(rendered(InMemoryTarget(), "op_1").content)
    assert {entry.findtext(field) for field in REFERENCE_FIELDS} == {sap_reference("op_1")}


def test_a_port_on_which_nobody_listens_is_surely_not_posted():
    connection = SapConnection(f"http://127.0.0.1:{free_port()}", "sap", "sap-secret")
    connector = S4HanaConnector(connection, TIMEOUTS, max_calls=1, clock=SystemClock())
    with pytest.raises(TransientError):
        connector.post(sending(MockTarget(connector, "")))


@pytest.fixture
def dripping():
    """A server whose answer comes a byte at a time, for as long as somebody reads it."""
    listener, over = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def drip():
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.recv(65_536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: 60000\r\n\r\n")
            while not over.wait(0.02):
                connection.sendall(b" ")

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    over.set()
    thread.join(DEADLINE_SECONDS)
    listener.close()


def test_an_answer_in_drops_kept_a_call_past_its_lease(dripping):
    connection = SapConnection(dripping, "sap", "sap-secret")
    connector = S4HanaConnector(connection, Timeouts(1.0, 2.0), max_calls=1, clock=SystemClock())
    with pytest.raises(UnknownOutcomeError, match="takes too long"):
        connector.post(sending(MockTarget(connector, dripping)))


@pytest.fixture
def s4hana(sap_mock_url):
    """S/4HANA's connector on a mock that was reset."""
    requests.post(f"{sap_mock_url}/_control/reset", timeout=DEADLINE_SECONDS).raise_for_status()
    connector = S4HanaConnector(
        SapConnection(sap_mock_url, "sap", "sap-secret", unposted_statuses=(429, 503)),
        TIMEOUTS,
        max_calls=4,
        clock=SystemClock(),
    )
    return MockTarget(connector, sap_mock_url)


@pytest.mark.parametrize(
    ("word", "raised"),
    [
        ("UNAVAILABLE", TransientError),
        ("TOO-MANY-CALLS", TransientError),
        ("TIMEOUT", UnknownOutcomeError),
        ("DROPPED", UnknownOutcomeError),
        ("ERROR-PAGE", UnknownOutcomeError),
        ("LOGON-PAGE", UnknownOutcomeError),
    ],
)
def test_an_answer_that_is_none_is_told_apart_by_whether_sap_can_have_booked_it(s4hana, word, raised):
    s4hana.external_id = f"SBX-{word}-1"
    with pytest.raises(raised):
        s4hana.connector.post(sending(s4hana))


def test_what_a_closed_period_refuses_is_posted_in_the_next_month(s4hana):
    s4hana.external_id = "SBX-PERIOD-CLOSED-1"
    operation_id = new_id("op", NOW)
    first = sending(s4hana, operation_id)
    refused = s4hana.connector.post(first)
    assert [item.type_id for item in refused.log] == ["609(RW)", "201(F5)"]
    moved = s4hana.connector.with_posting_date(first.content, date(2026, 12, 1))
    again = Sending(operation_id, str(sap_message_uuid(operation_id, 1)), NOW, moved)
    assert isinstance(s4hana.connector.post(again), Posted)


def test_calls_that_api_management_throttles_have_posted_nothing(s4hana):
    s4hana.faults(calls_per_second=1)

    def post_until_throttled():
        for _ in range(10):
            s4hana.connector.post(sending(s4hana))

    with pytest.raises(TransientError) as throttled:
        post_until_throttled()
    assert throttled.value.retry_after_seconds >= 1


def test_a_message_that_sap_has_processed_and_forgotten_is_an_unknown_outcome_and_is_found(s4hana):
    """Taken for a refusal, it would have been posted again under a new generation."""
    s4hana.faults(idempotency_window_s=0, idempotency_id_window_s=3600)
    sent = sending(s4hana)
    posted = s4hana.connector.post(sent)
    assert isinstance(posted, Posted)

    def repeat_until_forgotten():
        """Within the same millisecond SAP still has its answer."""
        for _ in range(100):
            assert s4hana.connector.post(sent) == posted

    with pytest.raises(UnknownOutcomeError, match="forgotten"):
        repeat_until_forgotten()
    assert len(found(s4hana, sent)) == 1


def test_an_answer_that_never_comes_is_an_unknown_outcome(sap_mock_url):
    connector = S4HanaConnector(
        SapConnection(sap_mock_url, "sap", "sap-secret"), Timeouts(1.0, 0.2), max_calls=1, clock=SystemClock()
    )
    faults = {"latency_ms": 1500}
    requests.put(f"{sap_mock_url}/_control/faults", json=faults, timeout=DEADLINE_SECONDS).raise_for_status()
    with pytest.raises(UnknownOutcomeError):
        connector.post(sending(MockTarget(connector, "")))


def test_wrong_credentials_post_nothing_that_could_be_missed(sap_mock_url):
    requests.post(f"{sap_mock_url}/_control/reset", timeout=DEADLINE_SECONDS).raise_for_status()
    connection = SapConnection(sap_mock_url, "sap", "wrong")
    connector = S4HanaConnector(connection, TIMEOUTS, max_calls=1, clock=SystemClock())
    with pytest.raises(UnknownOutcomeError, match="401"):
        connector.post(sending(MockTarget(connector, "")))


@pytest.mark.parametrize("fault", ["informational_rate", "second_answer_rate", "foreign_confirmation_rate"])
def test_no_answer_is_recorded_for_another_operation(s4hana, fault):
    s4hana.faults(**{fault: 1.0})
    for _ in range(6):
        sent = sending(s4hana)
        try:
            posted = s4hana.connector.post(sent)
        except UnknownOutcomeError:
            posted = None
        documents = [document.document for document in found(s4hana, sent)]
        # a request on a connection that had something left over may not have reached SAP at all
        assert posted is None or documents == [posted.document]
        assert len(documents) <= 1
    if fault == "informational_rate":
        assert posted is not None


@pytest.mark.timeout(60)
def test_headers_in_drops_end_with_the_call_and_post_nothing(sap_mock_url, s4hana):
    s4hana.faults(dripping_rate=1.0)
    connection = SapConnection(sap_mock_url, "sap", "sap-secret")
    hurried = MockTarget(
        S4HanaConnector(connection, Timeouts(0.5, 0.5), max_calls=1, clock=SystemClock()), sap_mock_url
    )
    sent = sending(hurried)
    with pytest.raises(UnknownOutcomeError, match="takes too long"):
        hurried.connector.post(sent)
    s4hana.faults()
    assert found(s4hana, sent) == []


def test_sap_refuses_a_forint_with_decimals(s4hana):
    sent = sending(s4hana)
    forints = sent.content.replace(b'"EUR"', b'"HUF"').replace(b"1250.00", b"1250.50")
    refused = s4hana.connector.post(replace(sent, content=forints))
    assert [item.type_id for item in refused.log][:2] == ["609(RW)", "704(F5)"]


def test_sap_counts_a_text_of_emoji_in_utf16_units(s4hana):
    def with_emoji(count):
        sent = sending(s4hana)
        return replace(sent, content=sent.content.replace(b"Invoice 4711", "\U0001f600".encode() * count))

    with pytest.raises(UnknownOutcomeError, match="HTTP 500"):
        s4hana.connector.post(with_emoji(26))
    assert isinstance(s4hana.connector.post(with_emoji(25)), Posted)
