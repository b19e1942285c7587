from datetime import UTC, datetime

import pytest
from lxml import etree

from bridge.errors import UnknownOutcomeError
from bridge.payment import SapDocument
from sap_adapter.connector import LogItem, Posted, Refused, Sending
from sap_adapter.soap import envelope, read_confirmation

pytestmark = pytest.mark.unit


UUID = "00000000-0000-5000-8000-00000000000a"
SENT = Sending(
    "op_1",
    UUID,
    datetime(2026, 11, 21, tzinfo=UTC),
    b"<JournalEntry><CompanyCode>1000</CompanyCode></JournalEntry>",
)
HEADER = f"<ReferenceID>op_1</ReferenceID><ReferenceUUID>{UUID}</ReferenceUUID>"


def confirmation(document="", log="", count=1, header=HEADER):
    one = f"""
      <JournalEntryCreateConfirmation>
        <MessageHeader>{header}</MessageHeader>
        <JournalEntryCreateConfirmation>{document}</JournalEntryCreateConfirmation>
        <Log>{log}</Log>
      </JournalEntryCreateConfirmation>"""
    return f"""<?xml version="1.0"?>
    <soap:Envelope xmlns:soap="http://schemas.xmlsoap.org/soap/envelope/"><soap:Body>
    <n:JournalEntryBulkCreateConfirmation xmlns:n="http://sap.com/xi/SAPSCORE/SFIN">
    {one * count}</n:JournalEntryBulkCreateConfirmation></soap:Body></soap:Envelope>""".encode()


def key(number, year="2026"):
    return (
        f"<AccountingDocument>{number}</AccountingDocument>"
        f"<CompanyCode>1000</CompanyCode><FiscalYear>{year}</FiscalYear>"
    )


def lines(*items):
    worst = max(severity for _, severity in items)
    return f"<MaximumLogItemSeverityCode>{worst}</MaximumLogItemSeverityCode>" + "".join(
        f"<Item><TypeID>{type_id}</TypeID><SeverityCode>{severity}</SeverityCode><Note>n</Note></Item>"
        for type_id, severity in items
    )


def test_a_document_number_without_an_error_is_posted():
    answer = confirmation(key("1400000001"), lines(("605(RW)", 1)))
    assert read_confirmation(answer, SENT) == Posted(SapDocument("1000", "2026", "1400000001"))


@pytest.mark.parametrize(
    "header",
    [
        f"<ReferenceID>op_1</ReferenceID><ReferenceUUID>{UUID[:-1]}b</ReferenceUUID>",
        f"<ReferenceID>op_2</ReferenceID><ReferenceUUID>{UUID}</ReferenceUUID>",
        "<ReferenceID>op_2</ReferenceID>",
        "",
    ],
)
@pytest.mark.parametrize(
    ("document", "log"),
    [(key("1400000001"), lines(("605(RW)", 1))), (key("0000000000", "0000"), lines(("102(F5)", 3)))],
)
def test_a_confirmation_of_another_message_was_recorded_as_this_ones(header, document, log):
    with pytest.raises(UnknownOutcomeError, match="message"):
        read_confirmation(confirmation(document, log, header=header), SENT)


@pytest.mark.parametrize(
    "header",
    [f"<ReferenceUUID>{UUID.upper()}</ReferenceUUID>", "<ReferenceID>op_1</ReferenceID>"],
)
def test_one_name_of_the_message_is_enough(header):
    answer = confirmation(key("1400000001"), lines(("605(RW)", 1)), header=header)
    assert isinstance(read_confirmation(answer, SENT), Posted)


def test_a_document_of_another_company_code_is_not_this_messages():
    answer = confirmation(key("1400000001").replace("1000", "2000"), lines(("605(RW)", 1)))
    with pytest.raises(UnknownOutcomeError, match="company code"):
        read_confirmation(answer, SENT)


@pytest.mark.parametrize("number", ["0000000000", "", "   "])
def test_a_blank_number_with_severity_three_is_refused_although_the_status_was_200(number):
    answer = confirmation(key(number, "0000"), lines(("609(RW)", 3), ("102(F5)", 3)))
    assert read_confirmation(answer, SENT) == Refused(
        (LogItem("609(RW)", 3, "n"), LogItem("102(F5)", 3, "n"))
    )


def test_an_outdated_message_id_is_no_refusal_but_an_unknown_outcome():
    """SAP had posted it; taken for a refusal, a new generation would have posted it again."""
    answer = confirmation(key("0000000000"), lines(("005(/IWBEP/CM_COS)", 3)))
    with pytest.raises(UnknownOutcomeError):
        read_confirmation(answer, SENT)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html><body>Service Unavailable</body></html>",
        b"<html><body>not closed",
        confirmation(key("0000000000")),
        confirmation(key("0000000000"), lines(("605(RW)", 1))),
        confirmation(key("1400000001"), lines(("609(RW)", 3))),
        confirmation(key("1400000001", year=""), lines(("605(RW)", 1))),
        confirmation(key("1400000001"), count=2),
        confirmation(key("1400000001"), count=0),
        b"""<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault/></s:Body>
        </s:Envelope>""",
    ],
)
def test_whatever_is_neither_a_clear_yes_nor_a_clear_no_is_unknown(answer):
    with pytest.raises(UnknownOutcomeError):
        read_confirmation(answer, SENT)


def test_entities_are_not_expanded(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("1400000001")
    answer = confirmation(key("&x;"), lines(("605(RW)", 1))).replace(
        b'<?xml version="1.0"?>', f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{secret}">]>'.encode()
    )
    with pytest.raises(UnknownOutcomeError):
        read_confirmation(answer.strip(), SENT)


def test_the_same_sending_is_the_same_bytes_with_the_namespace_on_the_root_only():
    sending = Sending(
        "op_1", "u", datetime(2026, 11, 21, tzinfo=UTC), b"<JournalEntry><A>1</A></JournalEntry>"
    )
    assert envelope(sending) == envelope(sending)
    bulk = etree.fromstring(envelope(sending))[0][0]
    assert bulk.tag == "{http://sap.com/xi/SAPSCORE/SFIN}JournalEntryBulkCreateRequest"
    assert [child.tag for child in bulk.iterdescendants()][:2] == ["MessageHeader", "ID"]
    assert bulk.findtext("JournalEntryCreateRequest/JournalEntry/A") == "1"
