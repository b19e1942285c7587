"""Clients that know nothing of the bridge use the mock by what it says of itself: $metadata and WSDL."""

import os
import subprocess
import sys
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal

import pyodata
import pytest
import requests
import sap_envelopes as sap
import zeep
from stand_ins import REPOSITORY, free_port
from waiting import DEADLINE_SECONDS, wait_until
from zeep.transports import Transport

pytestmark = pytest.mark.conformance

ODATA_URL = "/sap/opu/odata/sap/API_OPLACCTGDOCITEMCUBE_SRV/"


def answers(url):
    try:
        return requests.get(f"{url}/livez", timeout=1).ok
    except requests.RequestException:  # not there yet, or slow on a busy machine
        return False


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("sap"), free_port()
    environment = {
        **os.environ,
        "PORT": str(port),
        "SAP_MOCK_DATA": str(folder / "ledger.sqlite"),
        "SAP_MOCK_SYSTEMS": "s4-main,s4-second",
    }
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


@pytest.fixture(params=["", "/systems/s4-second"], ids=["first system", "second system"])
def system(request, url):
    requests.post(f"{url}/_control/reset", timeout=DEADLINE_SECONDS).raise_for_status()
    return url + request.param


@pytest.fixture
def session():
    with requests.Session() as session:
        session.auth = sap.LOGIN
        yield session


def soap_client(system, session):
    return zeep.Client(f"{system}{sap.SOAP_PATH}?wsdl", transport=Transport(session=session, timeout=10))


def header():
    return {"ID": "op_1", "UUID": str(uuid.uuid4()), "CreationDateTime": datetime.now(UTC)}


def amount(value):
    return {"_value_1": Decimal(value), "currencyCode": "EUR"}


def journal_entry(reference, text="INV-1"):
    return {
        "OriginalReferenceDocumentType": "BKPFF",
        "BusinessTransactionType": "RFBU",
        "AccountingDocumentType": "DZ",
        "DocumentReferenceID": reference,
        "CreatedByUser": "ZEEP",
        "CompanyCode": "1000",
        "DocumentDate": date(2026, 11, 21),
        "PostingDate": date(2026, 11, 21),
        "Item": [
            {
                "ReferenceDocumentItem": "1",
                "GLAccount": "113100",
                "AmountInTransactionCurrency": amount("12.50"),
                "DebitCreditCode": "S",
                "DocumentItemText": text,
            }
        ],
        "DebtorItem": [
            {
                "ReferenceDocumentItem": "2",
                "Debtor": "10001",
                "AmountInTransactionCurrency": amount("-12.50"),
                "DebitCreditCode": "H",
            }
        ],
    }


def post(system, session, entry):
    return soap_client(system, session).service.JournalEntryCreateRequestConfirmation_In(
        MessageHeader=header(),
        JournalEntryCreateRequest=[{"MessageHeader": header(), "JournalEntry": entry}],
    )


def items(system, session):
    service = pyodata.Client(f"{system}{ODATA_URL}", session)
    return service.entity_sets.A_OperationalAcctgDocItemCube


def test_what_zeep_posts_by_the_wsdl_pyodata_reads_by_the_metadata(system, session):
    (confirmation,) = post(system, session, journal_entry("REFERENCE0000001")).JournalEntryCreateConfirmation
    assert confirmation.Log.MaximumLogItemSeverityCode == "1"
    key = confirmation.JournalEntryCreateConfirmation
    found = (
        items(system, session)
        .get_entities()
        .filter("CompanyCode eq '1000' and DocumentReferenceID eq 'REFERENCE0000001'")
        .execute()
    )
    assert [item.AccountingDocument for item in found] == [key.AccountingDocument] * 2
    first = found[0]
    assert (first.GLAccount, first.DocumentItemText, first.TransactionCurrency) == ("113100", "INV-1", "EUR")
    assert Decimal(first.AmountInTransactionCurrency) == Decimal("12.50")
    assert first.PostingDate.date() == date(2026, 11, 21)


def test_pyodata_reads_one_item_by_its_key_selects_and_counts(system, session):
    (confirmation,) = post(system, session, journal_entry("REFERENCE0000001")).JournalEntryCreateConfirmation
    key = confirmation.JournalEntryCreateConfirmation
    item = (
        items(system, session)
        .get_entity(
            CompanyCode=key.CompanyCode,
            FiscalYear=key.FiscalYear,
            AccountingDocument=key.AccountingDocument,
            AccountingDocumentItem="002",
        )
        .execute()
    )
    assert (item.Customer, item.DebitCreditCode) == ("10001", "H")
    assert items(system, session).get_entities().count().execute() == 2
    (selected,) = items(system, session).get_entities().select("FiscalYear").top(1).execute()
    assert selected.FiscalYear == "2026"


def test_zeep_reads_a_refusal_out_of_an_answer_with_status_200(system, session):
    entry = journal_entry("REFERENCE0000001", text="SBX-CUSTOMER-UNKNOWN-1")
    (confirmation,) = post(system, session, entry).JournalEntryCreateConfirmation
    assert confirmation.JournalEntryCreateConfirmation.AccountingDocument == "0000000000"
    assert [item.TypeID for item in confirmation.Log.Item] == ["609(RW)", "102(F5)"]
    assert items(system, session).get_entities().count().execute() == 0


def test_zeep_reads_a_soap_fault(system, session):
    client = soap_client(system, session)
    too_long = journal_entry("REFERENCE0000001", text="x" * 51)
    with pytest.raises(zeep.exceptions.Fault, match="Conversion error"):
        client.service.JournalEntryCreateRequestConfirmation_In(
            MessageHeader=header(),
            JournalEntryCreateRequest=[{"MessageHeader": header(), "JournalEntry": too_long}],
        )


def test_pyodata_reads_saps_error_body(system, session):
    with pytest.raises(pyodata.exceptions.HttpError, match="400"):
        items(system, session).get_entities().filter("NoSuchProperty eq 'x'").execute()
