"""The SOAP messages of "Journal Entry - Post (Synchronous)": built, and read strictly.

A refusal comes with HTTP 200: what counts is the document number together with the severity.
"""

import re

from lxml import etree

from bridge.clock import rfc3339
from bridge.errors import UnknownOutcomeError
from bridge.payment import SapDocument
from sap_adapter.classifier import SEVERITY_ERROR
from sap_adapter.connector import AnswerForgottenError, LogItem, Posted, Refused, Sending

SOAP_NAMESPACE = "http://schemas.xmlsoap.org/soap/envelope/"
SAP_NAMESPACE = "http://sap.com/xi/SAPSCORE/SFIN"
SOAP_ACTION = (
    "http://sap.com/xi/SAPSCORE/SFIN/JournalEntryCreateRequestConfirmation_In/"
    "JournalEntryCreateRequestConfirmation_InRequest"
)
# "RequestID is outdated": no refusal, whatever its severity (docs/sap.md)
ALREADY_PROCESSED = frozenset({"005(/IWBEP/CM_COS)"})
_NO_DOCUMENT = re.compile(r"0*")
_DOCUMENT_NUMBER = re.compile(r"[A-Z0-9]{1,10}")


def envelope(sending: Sending) -> bytes:
    """Return the request: the same bytes for the same sending."""
    root = etree.Element(f"{{{SOAP_NAMESPACE}}}Envelope", nsmap={"soapenv": SOAP_NAMESPACE})
    body = etree.SubElement(root, f"{{{SOAP_NAMESPACE}}}Body")
    bulk = etree.SubElement(
        body, f"{{{SAP_NAMESPACE}}}JournalEntryBulkCreateRequest", nsmap={"sfin": SAP_NAMESPACE}
    )
    _header(bulk, sending)
    request = etree.SubElement(bulk, "JournalEntryCreateRequest")
    _header(request, sending)
    request.append(etree.fromstring(sending.content, _parser()))
    return etree.tostring(root, xml_declaration=True, encoding="utf-8")


def read_confirmation(content: bytes, sending: Sending) -> Posted | Refused:
    """Read SAP's answer; UnknownOutcomeError for anything but a clear yes or a clear no to this sending.

    A confirmation names the message that it answers (ReferenceUUID, ReferenceID) and the company code of the
    document, but neither our reference nor the amount: those are of the message, which SAP booked as a whole.
    """
    try:
        root = etree.fromstring(content, _parser())
    except etree.XMLSyntaxError as error:
        raise UnknownOutcomeError("SAP's answer is not XML") from error
    bulk = root.find(f"{{{SOAP_NAMESPACE}}}Body/{{{SAP_NAMESPACE}}}JournalEntryBulkCreateConfirmation")
    confirmations = [] if bulk is None else bulk.findall("JournalEntryCreateConfirmation")
    if len(confirmations) != 1:
        raise UnknownOutcomeError("SAP's answer does not confirm exactly one journal entry")
    confirmation = confirmations[0]
    _check_is_of(confirmation, sending)
    log = _log(confirmation)
    severity = max((item.severity for item in log), default=0)
    severity = max(severity, _number(confirmation.findtext("Log/MaximumLogItemSeverityCode")))
    key = confirmation.find("JournalEntryCreateConfirmation")
    number = _text(key, "AccountingDocument")
    if _NO_DOCUMENT.fullmatch(number):
        if any(item.type_id in ALREADY_PROCESSED for item in log):
            raise AnswerForgottenError("SAP has processed this message before and forgotten with what result")
        if severity >= SEVERITY_ERROR:
            return Refused(log)
        raise UnknownOutcomeError("SAP names neither a document nor an error")
    company_code, fiscal_year = _text(key, "CompanyCode"), _text(key, "FiscalYear")
    if severity >= SEVERITY_ERROR or not _DOCUMENT_NUMBER.fullmatch(number) or not company_code:
        raise UnknownOutcomeError("SAP names a document and an error at once, or an unreadable key")
    if not re.fullmatch(r"[0-9]{4}", fiscal_year):
        raise UnknownOutcomeError("SAP names no fiscal year")
    if company_code != etree.fromstring(sending.content, _parser()).findtext("CompanyCode"):
        raise UnknownOutcomeError("SAP confirms a document of another company code")
    return Posted(SapDocument(company_code, fiscal_year, number))


def _check_is_of(confirmation: etree._Element, sending: Sending) -> None:
    """UnknownOutcomeError unless the confirmation names this message, and no other."""
    header = confirmation.find("MessageHeader")
    named = {
        "ReferenceUUID": _text(header, "ReferenceUUID").replace("-", "").lower(),
        "ReferenceID": _text(header, "ReferenceID"),
    }
    sent = {"ReferenceUUID": sending.message_uuid.replace("-", ""), "ReferenceID": sending.operation_id}
    if not any(named.values()):
        raise UnknownOutcomeError("SAP's answer does not say which message it confirms")
    if any(value and value != sent[name] for name, value in named.items()):
        raise UnknownOutcomeError("SAP confirms another message")


def _header(parent: etree._Element, sending: Sending) -> None:
    header = etree.SubElement(parent, "MessageHeader")
    etree.SubElement(header, "ID").text = sending.operation_id
    etree.SubElement(header, "UUID").text = sending.message_uuid
    etree.SubElement(header, "CreationDateTime").text = rfc3339(sending.created_at)


def _log(confirmation: etree._Element) -> tuple[LogItem, ...]:
    return tuple(
        LogItem(_text(item, "TypeID"), _number(item.findtext("SeverityCode")), _text(item, "Note"))
        for item in confirmation.findall("Log/Item")
    )


def _text(element: etree._Element | None, name: str) -> str:
    return "" if element is None else (element.findtext(name) or "").strip()


def _number(value: str | None) -> int:
    return int(value) if value and value.strip().isdigit() else 0


def _parser() -> etree.XMLParser:
    # A parser is not shared between threads; entities and the network stay out of it.
    return etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False)
