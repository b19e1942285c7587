"""What SAP asks for by Retry-After, over real HTTP: a wish that can't be read is none."""

from datetime import UTC, datetime

import pytest
from stand_ins import Worker

from bridge.clock import ManualClock
from bridge.errors import TransientError
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
