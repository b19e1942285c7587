"""What SAP asks for by Retry-After, over real HTTP: a wish that can't be read is none."""

from datetime import UTC, datetime

import pytest
from stand_ins import Worker

from bridge.clock import ManualClock
from bridge.errors import SettingsError, TransientError, UnknownOutcomeError
from sap_adapter.connector import Sending
from sap_adapter.s4hana import MAX_RETRY_AFTER_SECONDS, S4HanaConnector, SapConnection, Timeouts

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SENDING = Sending("op_1", "00000000-0000-5000-8000-000000000000", NOW, b"<JournalEntry/>")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("Sat, 21 Nov 2026 12:01:30 GMT", 90.0),
        ("999999999", MAX_RETRY_AFTER_SECONDS),
        ("soon", None),
        # raised what nobody caught: an answer that said "not posted" became an outcome that nobody knew
        ("Sat, 21 Nov 2026 12:00:00 +99999999999999999", None),
    ],
)
def test_a_wish_of_sap_is_read_or_there_is_none(header, seconds):
    sap = Worker(statuses=[429], answer_headers={"Retry-After": header})
    try:
        connector = S4HanaConnector(
            SapConnection(sap.url, "sap", "secret"), Timeouts(5.0, 5.0), max_calls=1, clock=ManualClock(NOW)
        )
        with pytest.raises(TransientError) as refused:
            connector.post(SENDING)
    finally:
        sap.close()
    assert refused.value.retry_after_seconds == seconds
    assert refused.value.is_overload


@pytest.mark.parametrize(
    ("statuses", "raised"), [((429,), UnknownOutcomeError), ((429, 503), TransientError)]
)
def test_a_proxys_503_was_taken_for_proof_that_nothing_was_posted(statuses, raised):
    sap = Worker(statuses=[503], answer_headers={"Retry-After": "7"})
    try:
        connection = SapConnection(sap.url, "sap", "secret", unposted_statuses=statuses)
        connector = S4HanaConnector(connection, Timeouts(5.0, 5.0), max_calls=1, clock=ManualClock(NOW))
        with pytest.raises(raised) as refused:
            connector.post(SENDING)
    finally:
        sap.close()
    assert refused.value.retry_after_seconds == 7.0
    assert refused.value.is_overload


@pytest.mark.parametrize("wrong", [{"unposted_statuses": [500]}, {"client": "1"}])
def test_a_connection_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(SettingsError):
        SapConnection("http://127.0.0.1:1", "sap", "secret", **wrong)


def test_the_client_is_in_every_call():
    sap = Worker(statuses=[429, 429])
    try:
        connection = SapConnection(sap.url, "sap", "secret", client="200")
        connector = S4HanaConnector(connection, Timeouts(5.0, 5.0), max_calls=1, clock=ManualClock(NOW))
        for call in (lambda: connector.post(SENDING), lambda: connector.find("1000", "REFERENCE")):
            with pytest.raises(TransientError):
                call()
        assert all("sap-client=200" in request.path for request in sap.requests)
    finally:
        sap.close()
