"""From the bytes of a SOAP request to posting requests."""

from decimal import Decimal

from lxml import etree

from sap_mock.journal_entry import Item, JournalEntry, PostingRequest
from sap_mock.schema import REQUEST, SFIN, InvalidRequestError, RequestSchema, safe_parser

ENVELOPE_NAMESPACE = "http://schemas.xmlsoap.org/soap/envelope/"
MAX_ENTRIES = 1000
ACCOUNT_ELEMENTS = {"Item": "GLAccount", "DebtorItem": "Debtor", "CreditorItem": "Creditor"}


class SoapFaultError(Exception):
    """Answered as a SOAP fault with HTTP 500; the text says what is wrong with the message."""


def read_request(body: bytes, schema: RequestSchema) -> tuple[PostingRequest, ...]:
    """Return what the envelope asks to post, in order. SoapFaultError when SAP would not even look at it."""
    request = _bulk_request(body)
    try:
        schema.tidy(request)
    except InvalidRequestError as error:
        raise SoapFaultError(f"Conversion error: {error}") from error
    asked = request.findall("JournalEntryCreateRequest")
    if len(asked) > MAX_ENTRIES:
        raise SoapFaultError(f"More than {MAX_ENTRIES} journal entries in one request")
    simulate_all = _is_true(_text(request, "MessageHeader/TestDataIndicator"))
    return tuple(_posting_request(one, simulate_all=simulate_all) for one in asked)


def _bulk_request(body: bytes) -> etree._Element:
    try:
        envelope = etree.fromstring(body, safe_parser())
    except (etree.XMLSyntaxError, ValueError) as error:
        raise SoapFaultError("The message is not well-formed XML") from error
    if _has_doctype(envelope):
        raise SoapFaultError("A document type declaration is not allowed in a SOAP message")
    if envelope.tag != f"{{{ENVELOPE_NAMESPACE}}}Envelope":
        raise SoapFaultError("The message is not a SOAP 1.1 envelope")
    request = envelope.find(f"{{{ENVELOPE_NAMESPACE}}}Body/{{{SFIN}}}{REQUEST}")
    if request is None:
        raise SoapFaultError(f"The body does not hold a {REQUEST} of the namespace {SFIN}")
    return request


def _has_doctype(element: etree._Element) -> bool:
    return bool(element.getroottree().docinfo.doctype)  # type: ignore[attr-defined]  # the stubs lack it


def _posting_request(one: etree._Element, *, simulate_all: bool) -> PostingRequest:
    return PostingRequest(
        message_id=_text(one, "MessageHeader/ID"),
        uuid=_text(one, "MessageHeader/UUID").lower(),
        simulate=simulate_all or _is_true(_text(one, "MessageHeader/TestDataIndicator")),
        entry=_entry(one.find("JournalEntry")),
    )


def _entry(entry: etree._Element | None) -> JournalEntry:
    if entry is None:
        raise SoapFaultError("A JournalEntryCreateRequest without JournalEntry")
    return JournalEntry(
        company_code=_text(entry, "CompanyCode"),
        document_type=_text(entry, "AccountingDocumentType"),
        document_date=_text(entry, "DocumentDate"),
        posting_date=_text(entry, "PostingDate"),
        items=tuple(_item(item) for item in entry if item.tag in ACCOUNT_ELEMENTS),
        reference=_text(entry, "DocumentReferenceID"),
        header_text=_text(entry, "DocumentHeaderText"),
        created_by=_text(entry, "CreatedByUser"),
        business_transaction=_text(entry, "BusinessTransactionType"),
        original_reference_type=_text(entry, "OriginalReferenceDocumentType"),
        original_reference=_text(entry, "OriginalReferenceDocument"),
        logical_system=_text(entry, "OriginalReferenceDocumentLogicalSystem"),
        reversal_reason=_text(entry, "ReversalReason"),
        reversal_reference=_text(entry, "ReversalReferenceDocument"),
    )


def _item(item: etree._Element) -> Item:
    kind = str(item.tag)
    amount = item.find("AmountInTransactionCurrency")
    return Item(
        kind=kind,
        account=_text(item, ACCOUNT_ELEMENTS[kind]),
        amount=Decimal(_text(item, "AmountInTransactionCurrency") or "0"),
        currency="" if amount is None else str(amount.get("currencyCode")),
        debit_credit=_text(item, "DebitCreditCode"),
        text=_text(item, "DocumentItemText"),
        assignment=_text(item, "AssignmentReference"),
        reference1=_text(item, "Reference1IDByBusinessPartner"),
        reference3=_text(item, "Reference3IDByBusinessPartner"),
    )


def _text(element: etree._Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _is_true(text: str) -> bool:
    """Read an xsd:boolean."""
    return text in {"true", "1"}
