"""The mock as a process under gunicorn, seen through real connections."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
import sap_envelopes as sap
from lxml import etree
from waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Mock:
    """One mock process; `start` again after `kill` serves the same file on the same port."""

    def __init__(self, folder):
        self.data = folder / "sap.sqlite3"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None

    def environment(self):
        return {**os.environ, "PORT": str(self.port), "SAP_MOCK_DATA": str(self.data), "SAP_MOCK_SEED": "1"}

    def start(self):
        self.process = subprocess.Popen([sys.executable, "-m", "sap_mock"], cwd=ROOT, env=self.environment())
        wait_until(self._alive, what="sap_mock's livez")

    def kill(self, number=signal.SIGKILL):
        self.process.send_signal(number)
        self.process.wait(DEADLINE_SECONDS)

    def _alive(self):
        assert self.process.poll() is None, "sap_mock ended"
        try:
            return requests.get(f"{self.url}/livez", timeout=2).ok
        except requests.RequestException:
            return False

    def faults(self, **faults):
        requests.put(f"{self.url}/_control/faults", json=faults, timeout=DEADLINE_SECONDS).raise_for_status()

    def stats(self):
        return requests.get(f"{self.url}/_control/stats", timeout=DEADLINE_SECONDS).json()

    def documents(self, reference=None):
        parameters = {} if reference is None else {"reference": reference}
        return requests.get(f"{self.url}/_control/documents", parameters, timeout=DEADLINE_SECONDS).json()

    def soap(self, *bodies, login=sap.LOGIN, content_type="text/xml; charset=utf-8"):
        headers = {"Content-Type": content_type}
        body = sap.envelope(*(bodies or [sap.request()]))
        return requests.post(
            f"{self.url}{sap.SOAP_PATH}", body, headers=headers, auth=login, timeout=DEADLINE_SECONDS
        )

    def items(self, condition, **options):
        parameters = {"$filter": condition, "$format": "json", **{f"${k}": v for k, v in options.items()}}
        return requests.get(
            f"{self.url}{sap.ITEMS_PATH}", parameters, auth=sap.LOGIN, timeout=DEADLINE_SECONDS
        )

    def found(self, reference):
        answer = self.items(f"CompanyCode eq '1000' and DocumentReferenceID eq '{reference}'")
        assert answer.status_code == 200, answer.text
        return answer.json()["d"]["results"]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    mock = Mock(tmp_path_factory.mktemp("sap"))
    mock.start()
    yield mock
    mock.kill(signal.SIGTERM)


@pytest.fixture
def mock(running):
    requests.post(f"{running.url}/_control/reset", timeout=DEADLINE_SECONDS).raise_for_status()
    return running


@pytest.fixture
def own_mock(tmp_path):
    """One that the test may kill."""
    mock = Mock(tmp_path)
    mock.start()
    yield mock
    if mock.process.poll() is None:
        mock.kill(signal.SIGTERM)


def test_a_posting_is_answered_told_by_odata_and_counted(mock):
    (posted,) = sap.confirmations(mock.soap().content)
    items = mock.found("REFERENCE0000001")
    assert [item["AccountingDocumentItem"] for item in items] == ["001", "002"]
    assert {item["AccountingDocument"] for item in items} == {posted.number}
    first = items[0]
    assert first["AmountInTransactionCurrency"] == "12.50"
    assert first["TransactionCurrency"] == "EUR"
    assert first["AccountingDocumentType"] == "DZ"
    assert first["DocumentItemText"] == "INV-1"
    assert re.fullmatch(r"/Date\(\d+\)/", first["PostingDate"])
    assert mock.stats() == {"documents": 1, "calls": 2, "refused": 0, "max_in_flight": 1, "duplicates": 0}


def test_a_refusal_comes_with_http_200(mock):
    answer = mock.soap(sap.request(sap.entry(text="SBX-CUSTOMER-UNKNOWN-1")))
    assert answer.status_code == 200
    (refused,) = sap.confirmations(answer.content)
    assert (refused.severity, refused.number) == (3, "0000000000")


@pytest.mark.parametrize("login", [None, ("sap", "wrong"), ("other", "sap-secret"), ("säp", "sap-secret")])
def test_who_is_not_logged_on_gets_nowhere(mock, login):
    login = login and (login[0].encode(), login[1].encode())
    answer = mock.soap(login=login)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert (
        requests.get(
            f"{mock.url}{sap.ITEMS_PATH}?$format=json", auth=login, timeout=DEADLINE_SECONDS
        ).status_code
        == 401
    )
    assert mock.documents() == []


def test_a_broken_message_is_a_soap_fault(mock):
    headers = {"Content-Type": "text/xml"}
    answer = requests.post(
        f"{mock.url}{sap.SOAP_PATH}", b"<oops", headers=headers, auth=sap.LOGIN, timeout=DEADLINE_SECONDS
    )
    assert answer.status_code == 500
    assert etree.fromstring(answer.content).find(".//faultstring") is not None


def test_only_text_xml_is_read(mock):
    assert mock.soap(content_type="application/json").status_code == 415
    assert mock.documents() == []


def test_the_wsdl_names_its_own_address(mock):
    answer = requests.get(f"{mock.url}{sap.SOAP_PATH}?wsdl", timeout=DEADLINE_SECONDS)
    address = etree.fromstring(answer.content).find(".//{http://schemas.xmlsoap.org/wsdl/soap/}address")
    assert address.get("location") == f"{mock.url}{sap.SOAP_PATH}"


def test_down_closes_connections_without_an_answer_and_commits_nothing(mock):
    mock.faults(mode="down")
    for call in (mock.soap, lambda: mock.items("CompanyCode eq '1000'")):
        with pytest.raises(requests.ConnectionError):
            call()
    assert mock.documents() == []
    mock.faults()
    assert mock.soap().status_code == 200


def test_not_a_byte_of_http_comes_back_from_a_dying_connection(mock):
    mock.faults(mode="down")
    with socket.create_connection(("127.0.0.1", mock.port), timeout=DEADLINE_SECONDS) as connection:
        connection.sendall(f"GET {sap.ITEMS_PATH} HTTP/1.1\r\nHost: sap\r\n\r\n".encode())
        try:
            received = connection.recv(100)
        except ConnectionResetError:
            received = b""
    assert received == b""


def test_commit_then_drop_posts_and_says_nothing(mock):
    mock.faults(commit_then_drop_rate=1.0)
    with pytest.raises(requests.ConnectionError):
        mock.soap()
    assert len(mock.found("REFERENCE0000001")) == 2
    assert mock.stats()["documents"] == 1


def test_drop_before_commit_posts_nothing(mock):
    mock.faults(drop_before_commit_rate=1.0)
    with pytest.raises(requests.ConnectionError):
        mock.soap()
    assert mock.found("REFERENCE0000001") == []


def test_a_late_commit_comes_after_the_connection_has_died(mock):
    mock.faults(late_commit_ms=8000)
    started = time.monotonic()
    with pytest.raises(requests.ConnectionError):
        mock.soap()
    assert mock.documents() == []
    wait_until(mock.documents)
    assert time.monotonic() - started >= 8.0


def test_a_repeat_before_the_late_commit_is_still_one_document_within_the_window(mock):
    request = sap.request(message_uuid=uuid.uuid4())
    mock.faults(late_commit_ms=300)
    with pytest.raises(requests.ConnectionError):
        mock.soap(request)
    mock.faults()
    (posted,) = sap.confirmations(mock.soap(request).content)
    mock.faults(late_commit_ms=300)
    with pytest.raises(requests.ConnectionError):
        mock.soap(sap.request(sap.entry(reference="LATER")))
    # commits are made in the order they are due: this one came after the first
    wait_until(lambda: mock.documents("LATER"))
    assert [document["number"] for document in mock.documents("REFERENCE0000001")] == [posted.number]


def test_reset_takes_waiting_late_commits_with_it(mock):
    mock.faults(late_commit_ms=300)
    with pytest.raises(requests.ConnectionError):
        mock.soap()
    requests.post(f"{mock.url}/_control/reset", timeout=DEADLINE_SECONDS).raise_for_status()
    mock.faults(late_commit_ms=400)
    with pytest.raises(requests.ConnectionError):
        mock.soap(sap.request(sap.entry(reference="LATER")))
    wait_until(lambda: mock.documents("LATER"))
    assert mock.documents("REFERENCE0000001") == []


def asking_for(word, reference="REFERENCE0000001"):
    return sap.request(sap.entry(text=f"SBX-{word}-1", reference=reference))


def test_the_poisonous_posting_is_held_until_its_client_gives_up_and_never_commits(mock):
    body, headers = sap.envelope(asking_for("TIMEOUT")), {"Content-Type": "text/xml"}
    for _ in range(2):
        with pytest.raises(requests.ReadTimeout):
            requests.post(
                f"{mock.url}{sap.SOAP_PATH}", body, headers=headers, auth=sap.LOGIN, timeout=(5, 0.5)
            )
    # the others are not held up, and the held calls end with their clients
    mock.faults(capacity=1)
    wait_until(lambda: mock.soap(sap.request(sap.entry(reference="OTHER"))).status_code == 200)
    assert mock.found("REFERENCE0000001") == []


@pytest.mark.parametrize(("word", "documents_after_the_first"), [("DROPPED", 0), ("ANSWER-LOST", 1)])
def test_a_posting_may_ask_that_its_connection_dies_once(mock, word, documents_after_the_first):
    with pytest.raises(requests.ConnectionError):
        mock.soap(asking_for(word))
    assert len(mock.documents()) == documents_after_the_first
    assert mock.soap(asking_for(word)).status_code == 200


def test_a_posting_may_ask_for_a_late_commit(mock):
    with pytest.raises(requests.ConnectionError):
        mock.soap(asking_for("LATE-COMMIT"))
    assert mock.documents() == []
    wait_until(mock.documents)


@pytest.mark.parametrize(("word", "status"), [("UNAVAILABLE", 503), ("TOO-MANY-CALLS", 429)])
def test_a_posting_may_ask_to_be_turned_away_twice(mock, word, status):
    for _ in range(2):
        answer = mock.soap(asking_for(word))
        assert answer.status_code == status
        assert int(answer.headers["Retry-After"]) >= 1
    assert mock.documents() == []
    assert mock.soap(asking_for(word)).status_code == 200


@pytest.mark.parametrize(("word", "status"), [("ERROR-PAGE", 500), ("LOGON-PAGE", 200)])
def test_a_posting_may_ask_for_a_page_instead_of_an_answer(mock, word, status):
    answer = mock.soap(asking_for(word))
    assert answer.status_code == status
    assert answer.headers["Content-Type"].startswith("text/html")
    assert mock.documents() == []
    assert sap.confirmations(mock.soap(asking_for(word)).content)[0].severity == 1


def test_a_slow_posting_takes_its_time_and_posts(mock):
    started = time.monotonic()
    assert mock.soap(asking_for("SLOW")).status_code == 200
    assert time.monotonic() - started >= 2.9
    assert len(mock.documents()) == 1


def test_a_reversal_asks_by_the_texts_of_what_it_takes_back(mock):
    original = sap.entry(text="SBX-REVERSE-ERROR-PAGE-1", kind="authorize", reference="A")
    (posted,) = sap.confirmations(mock.soap(sap.request(original)).content)
    reversal = sap.entry(reference="B", kind="reverse", reverses=posted.object_key)
    assert mock.soap(sap.request(reversal)).status_code == 500
    assert mock.documents("B") == []
    assert mock.soap(sap.request(reversal)).status_code == 200


def test_a_simulation_uses_up_no_asked_manner(mock):
    simulated = sap.request(sap.entry(text="SBX-ERROR-PAGE-1"), test_data=True)
    assert sap.confirmations(mock.soap(simulated).content)[0].types == ["614(RW)"]
    assert mock.soap(asking_for("ERROR-PAGE")).status_code == 500


def test_errors_are_html_pages_and_commit_nothing(mock):
    mock.faults(error_rate=1.0)
    answer = mock.soap()
    assert answer.status_code == 500
    assert answer.headers["Content-Type"].startswith("text/html")
    assert mock.items("CompanyCode eq '1000'").status_code == 500
    assert mock.documents() == []


def test_the_read_side_lags_and_the_ledger_does_not(mock):
    mock.faults(read_lag_ms=1500)
    mock.soap()
    assert len(mock.documents("REFERENCE0000001")) == 1
    assert mock.found("REFERENCE0000001") == []
    wait_until(lambda: mock.found("REFERENCE0000001"))


def test_capacity_refuses_what_comes_on_top(mock):
    mock.faults(capacity=2, latency_ms=1500)
    start = threading.Barrier(6)

    def call(number):
        start.wait(DEADLINE_SECONDS)
        return mock.soap(sap.request(sap.entry(reference=f"R{number}")))

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(call, range(6)))
    refused = [answer for answer in answers if answer.status_code == 503]
    assert len(refused) == 4
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
    stats = mock.stats()
    assert (stats["documents"], stats["refused"], stats["calls"]) == (2, 4, 6)
    assert 3 <= stats["max_in_flight"] <= 6


def test_an_empty_reference_asks_for_all_documents(mock):
    mock.soap()
    url = f"{mock.url}/_control/documents"
    assert len(requests.get(f"{url}?reference=", timeout=DEADLINE_SECONDS).json()) == 1
    assert requests.get(f"{url}?reference=ANOTHER", timeout=DEADLINE_SECONDS).json() == []


def test_latency_holds_for_both_sides(mock):
    mock.faults(latency_ms=300)
    for call in (mock.soap, lambda: mock.items("CompanyCode eq '1000'")):
        started = time.monotonic()
        assert call().status_code == 200
        assert time.monotonic() - started >= 0.3


def test_wrong_faults_change_nothing(mock):
    mock.faults(latency_ms=5)
    answer = requests.put(f"{mock.url}/_control/faults", json={"capasity": 3}, timeout=DEADLINE_SECONDS)
    assert answer.status_code == 400
    assert "capasity" in answer.json()["error"]
    assert requests.put(f"{mock.url}/_control/faults", data=b"{", timeout=DEADLINE_SECONDS).status_code == 400
    assert requests.get(f"{mock.url}/_control/faults", timeout=DEADLINE_SECONDS).json()["latency_ms"] == 5


def test_documents_survive_kill_9_and_faults_do_not(own_mock):
    (first,) = sap.confirmations(own_mock.soap(sap.request(sap.entry(reference="BEFORE"))).content)
    own_mock.faults(latency_ms=50)
    own_mock.kill()
    own_mock.start()
    assert [document["number"] for document in own_mock.documents("BEFORE")] == [first.number]
    assert requests.get(f"{own_mock.url}/_control/faults", timeout=DEADLINE_SECONDS).json()["latency_ms"] == 0
    (second,) = sap.confirmations(own_mock.soap(sap.request(sap.entry(reference="AFTER"))).content)
    assert int(second.number) == int(first.number) + 1


def test_every_answered_posting_survives_kill_9_in_full_flight(own_mock):
    answered = []

    def post_until_it_dies():
        while True:
            reference = uuid.uuid4().hex[:16]
            try:
                answer = own_mock.soap(sap.request(sap.entry(reference=reference)))
            except requests.RequestException:  # also in the middle of an answer
                return
            (posted,) = sap.confirmations(answer.content)
            answered.append((reference, posted.number))

    threads = [threading.Thread(target=post_until_it_dies) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(answered) >= 40)
    own_mock.kill()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    own_mock.start()
    kept = {(document["reference"], document["number"]) for document in own_mock.documents()}
    assert set(answered) <= kept


def run_to_the_end(environment):
    return subprocess.run(
        [sys.executable, "-m", "sap_mock"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def test_a_taken_port_is_one_line_and_an_exit_code(mock):
    ended = run_to_the_end(mock.environment())
    assert ended.returncode == 1
    assert re.fullmatch(
        rf"sap_mock: can't listen on 127\.0\.0\.1:{mock.port}: Address already in use\n", ended.stderr
    )


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"SAP_MOCK_DATA": ""}, "SAP_MOCK_DATA"),
        ({"PORT": "eighty"}, "PORT"),
        ({"SAP_MOCK_USER": "a:b"}, "SAP_MOCK_USER"),
        ({"SAP_MOCK_SYSTEMS": "s4-main,s4-main"}, "SAP_MOCK_SYSTEMS"),
        ({"SAP_MOCK_DATA": "/proc/sap/ledger"}, "/proc/sap/ledger"),
    ],
)
def test_a_bad_setting_is_one_line_and_an_exit_code(mock, changes, named):
    ended = run_to_the_end({**mock.environment(), **changes})
    assert ended.returncode == 1
    assert named in ended.stderr
    assert ended.stderr.count("\n") == 1
