"""One mock process that plays several SAP systems: nothing is shared but the process."""

import pytest
import requests
import sap_envelopes as sap
from test_sap_mock_process import Mock
from waiting import DEADLINE_SECONDS

pytestmark = pytest.mark.integration


class TwoSystems(Mock):
    def environment(self):
        return super().environment() | {"SAP_MOCK_SYSTEMS": "s4-main,s4-second"}

    def of(self, name):
        """The same process, seen as one of its systems."""
        seen = Mock(self.data.parent)
        seen.url = f"{self.url}/systems/{name}"
        return seen


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    mock = TwoSystems(tmp_path_factory.mktemp("sap"))
    mock.start()
    yield mock
    mock.kill(15)


@pytest.fixture
def mock(running):
    requests.post(f"{running.url}/_control/reset", timeout=DEADLINE_SECONDS).raise_for_status()
    return running


def test_each_system_has_its_own_ledger_and_numbers(mock):
    first, second = mock.of("s4-main"), mock.of("s4-second")
    for reference in ("A", "B"):
        first.soap(sap.request(sap.entry(reference=reference)))
    (posted,) = sap.confirmations(second.soap(sap.request(sap.entry(reference="C"))).content)
    assert posted.number == "1400000001"
    assert [document["reference"] for document in second.documents()] == ["C"]
    assert second.found("A") == []
    assert len(second.found("C")) == 2
    assert first.stats()["documents"] == 2


def test_faults_of_one_system_leave_the_other_alone(mock):
    mock.of("s4-second").faults(mode="down")
    with pytest.raises(requests.ConnectionError):
        mock.of("s4-second").soap()
    assert mock.of("s4-main").soap().status_code == 200
    mock.of("s4-second").faults()
    assert mock.of("s4-second").soap(sap.request(sap.entry(reference="B"))).status_code == 200


def test_without_a_prefix_stand_the_first_systems_services_and_everybodys_control(mock):
    mock.soap(sap.request(sap.entry(reference="A")))
    mock.of("s4-second").soap(sap.request(sap.entry(reference="B")))
    assert [document["reference"] for document in mock.documents()] == ["A", "B"]
    assert mock.of("s4-main").stats()["documents"] == 1
    assert mock.stats() == {"documents": 2, "calls": 2, "refused": 0, "max_in_flight": 1, "duplicates": 0}
    mock.faults(mode="down")
    for name in ("s4-main", "s4-second"):
        with pytest.raises(requests.ConnectionError):
            mock.of(name).soap()


def test_one_reference_posted_in_two_systems_is_a_duplicate(mock):
    for name in ("s4-main", "s4-second"):
        mock.of(name).soap(sap.request(sap.entry(reference="A")))
    assert mock.stats()["duplicates"] == 1
    assert mock.of("s4-second").stats()["duplicates"] == 0


def test_a_system_names_its_own_address(mock):
    second = mock.of("s4-second")
    wsdl = requests.get(f"{second.url}{sap.SOAP_PATH}?wsdl", timeout=DEADLINE_SECONDS).text
    assert f"{second.url}{sap.SOAP_PATH}" in wsdl
    second.soap()
    assert second.found("REFERENCE0000001")[0]["__metadata"]["uri"].startswith(second.url)


def test_a_system_that_is_not_there_is_not_found(mock):
    assert mock.of("s4-third").soap().status_code == 404
