"""The SOAP answers: confirmations and faults."""

import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from lxml import etree

from sap_mock.journal_entry import NO_DOCUMENT, DocumentKey, LogItem, PostingRequest
from sap_mock.schema import SFIN, safe_parser
from sap_mock.soap_request import ENVELOPE_NAMESPACE

XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
CONTENT_TYPE = "text/xml; charset=utf-8"
SYSTEM_ID = "MOCKS4"


def confirmation(
    request: PostingRequest, key: DocumentKey | None, log: Sequence[LogItem], now_seconds: float
) -> str:
    """Return one JournalEntryCreateConfirmation; without a key the document number is ten zeros."""
    answer = etree.Element("JournalEntryCreateConfirmation")
    _message_header(answer, request.message_id, request.uuid, now_seconds)
    document = etree.SubElement(answer, "JournalEntryCreateConfirmation")
    _leaf(document, "AccountingDocument", NO_DOCUMENT if key is None else key.number)
    _leaf(document, "CompanyCode", "" if key is None else key.company_code)
    _leaf(document, "FiscalYear", "0000" if key is None else key.fiscal_year)
    _log(answer, log)
    return etree.tostring(answer, encoding="unicode")


def bulk_confirmation(confirmations: Iterable[str], now_seconds: float) -> bytes:
    """Return the envelope around confirmations made now or stored earlier."""
    envelope, body = _envelope()
    bulk = etree.SubElement(
        body, f"{{{SFIN}}}JournalEntryBulkCreateConfirmation", attrib=None, nsmap={"n0": SFIN}
    )
    _message_header(bulk, "", "", now_seconds)
    for text in confirmations:
        bulk.append(etree.fromstring(text, safe_parser()))
    return etree.tostring(envelope, xml_declaration=True, encoding="utf-8")


def fault(text: str) -> bytes:
    """Return a SOAP 1.1 fault (sent with HTTP 500)."""
    envelope, body = _envelope()
    element = etree.SubElement(body, f"{{{ENVELOPE_NAMESPACE}}}Fault")
    _leaf(element, "faultcode", "soap-env:Client")
    _leaf(element, "faultstring", f"Web service processing error: {text}").set(XML_LANG, "en")
    return etree.tostring(envelope, xml_declaration=True, encoding="utf-8")


def _envelope() -> tuple[etree._Element, etree._Element]:
    envelope = etree.Element(
        f"{{{ENVELOPE_NAMESPACE}}}Envelope", attrib=None, nsmap={"soap-env": ENVELOPE_NAMESPACE}
    )
    etree.SubElement(envelope, f"{{{ENVELOPE_NAMESPACE}}}Header")
    return envelope, etree.SubElement(envelope, f"{{{ENVELOPE_NAMESPACE}}}Body")


def _message_header(
    parent: etree._Element, reference_id: str, reference_uuid: str, now_seconds: float
) -> None:
    header = etree.SubElement(parent, "MessageHeader")
    _leaf(header, "UUID", str(uuid.uuid4()))
    if reference_id:
        _leaf(header, "ReferenceID", reference_id)
    if reference_uuid:
        _leaf(header, "ReferenceUUID", reference_uuid)
    created = datetime.fromtimestamp(now_seconds, UTC).isoformat(timespec="milliseconds")
    _leaf(header, "CreationDateTime", created.replace("+00:00", "Z"))
    _leaf(header, "SenderBusinessSystemID", SYSTEM_ID)


def _log(parent: etree._Element, items: Sequence[LogItem]) -> None:
    log = etree.SubElement(parent, "Log")
    _leaf(log, "MaximumLogItemSeverityCode", str(max(item.severity for item in items)))
    for item in items:
        element = etree.SubElement(log, "Item")
        _leaf(element, "TypeID", item.type_id)
        _leaf(element, "SeverityCode", str(item.severity))
        _leaf(element, "Note", item.note)
        number, message_class = item.type_id.rstrip(")").split("(")
        _leaf(
            element,
            "WebURI",
            f"http://mock.invalid/sap/xi/docu_apperror?ID=NA&OBJECT={message_class}{number}",
        )


def _leaf(parent: etree._Element, name: str, text: str) -> etree._Element:
    element = etree.SubElement(parent, name)
    element.text = text
    return element
