"""The mock's OData read side, through the application without a network."""

import base64

import pytest
import sap_envelopes as sap
from lxml import etree

from sap_mock.app import create_app
from sap_mock.odata_items import KEY, PROPERTIES
from sap_mock.odata_routes import ROOT
from sap_mock.settings import Settings

pytestmark = pytest.mark.integration

EDM = "{http://schemas.microsoft.com/ado/2008/09/edm}"
BASIC = {"Authorization": "Basic " + base64.b64encode(":".join(sap.LOGIN).encode()).decode()}


@pytest.fixture
def client(tmp_path):
    client = create_app(Settings(data=tmp_path / "sap.sqlite3")).test_client()
    requests = [sap.request(sap.entry(reference=reference, text="O'Hara")) for reference in ("A", "B", "B")]
    answer = client.post(sap.SOAP_PATH, data=sap.envelope(*requests), headers=BASIC, content_type="text/xml")
    assert answer.status_code == 200
    return client


def get(client, path="/A_OperationalAcctgDocItemCube", **options):
    query = {"$format": "json", **{f"${name}": value for name, value in options.items()}}
    return client.get(f"{ROOT}{path}", query_string=query, headers=BASIC)


def results(answer):
    assert answer.status_code == 200, answer.text
    return answer.json["d"]["results"]


def test_a_filter_finds_both_items_of_each_document(client):
    found = results(get(client, filter="DocumentReferenceID eq 'B' and CompanyCode eq '1000'"))
    assert [(item["AccountingDocument"], item["AccountingDocumentItem"]) for item in found] == [
        ("1400000002", "001"),
        ("1400000002", "002"),
        ("1400000003", "001"),
        ("1400000003", "002"),
    ]
    assert results(get(client, filter="DocumentReferenceID eq 'B' and CompanyCode eq '2000'")) == []
    assert results(get(client, filter="DocumentReferenceID eq 'A' and DocumentReferenceID eq 'B'")) == []


def test_any_text_property_can_be_filtered_by(client):
    assert len(results(get(client, filter="DocumentItemText eq 'O''Hara'"))) == 6
    assert len(results(get(client, filter="AccountingDocument eq '1400000001' and Customer eq '10001'"))) == 1
    assert len(results(get(client))) == 6


def test_select_leaves_out_the_rest(client):
    (first, *_) = results(get(client, select="AccountingDocument, CompanyCode,FiscalYear"))
    assert set(first) == {"__metadata", "AccountingDocument", "CompanyCode", "FiscalYear"}


def test_pages_and_counts(client):
    page = get(client, top="2", skip="1", inlinecount="allpages").json["d"]
    assert page["__count"] == "6"
    assert [item["AccountingDocumentItem"] for item in page["results"]] == ["002", "001"]
    count = get(client, path="/A_OperationalAcctgDocItemCube/$count", filter="DocumentReferenceID eq 'A'")
    assert count.text == "2"


def test_one_item_by_its_key(client):
    key = "CompanyCode='1000',FiscalYear='2026',AccountingDocument='1400000001',AccountingDocumentItem='002'"
    item = get(client, path=f"/A_OperationalAcctgDocItemCube({key})").json["d"]
    assert (item["Customer"], item["AmountInTransactionCurrency"]) == ("10001", "-12.50")
    missing = key.replace("002", "003")
    assert get(client, path=f"/A_OperationalAcctgDocItemCube({missing})").status_code == 404


@pytest.mark.parametrize(
    ("path", "options", "status"),
    [
        ("/A_OperationalAcctgDocItemCube", {"filter": "CompanyCode ne '1000'"}, 400),
        ("/A_OperationalAcctgDocItemCube", {"filter": "Bukrs eq '1000'"}, 400),
        ("/A_OperationalAcctgDocItemCube", {"filter": ""}, 400),
        ("/A_OperationalAcctgDocItemCube", {"select": "Bukrs"}, 400),
        ("/A_OperationalAcctgDocItemCube", {"orderby": "Bukrs"}, 400),
        ("/A_OperationalAcctgDocItemCube", {"top": "-1"}, 400),
        ("/A_OperationalAcctgDocItemCube", {"format": "xml"}, 406),
        ("/A_OperationalAcctgDocItemCube(CompanyCode='1000')", {}, 400),
        ("/A_SomethingElse", {}, 404),
    ],
)
def test_what_is_not_understood_gets_saps_error_body(client, path, options, status):
    answer = get(client, path=path, **options)
    assert answer.status_code == status
    error = answer.json["error"]
    assert error["code"] == "/IWBEP/CM_TEA/004"
    assert error["message"]["lang"] == "en"
    assert error["message"]["value"]
    assert error["innererror"]["errordetails"][0]["severity"] == "error"


def test_it_is_read_only(client):
    answer = client.post(f"{ROOT}/A_OperationalAcctgDocItemCube", json={}, headers=BASIC)
    assert answer.status_code == 405
    assert "error" in answer.json


def test_the_metadata_names_what_the_items_have(client):
    document = etree.fromstring(client.get(f"{ROOT}/$metadata", headers=BASIC).data)
    (entity_type,) = document.iter(f"{EDM}EntityType")
    described = {prop.get("Name"): prop.get("Type") for prop in entity_type.iter(f"{EDM}Property")}
    assert described == PROPERTIES
    assert tuple(ref.get("Name") for ref in entity_type.iter(f"{EDM}PropertyRef")) == KEY
    assert set(results(get(client))[0]) == {"__metadata", *PROPERTIES}


@pytest.mark.parametrize("path", ["", "/"])
def test_the_service_document_names_the_entity_set(client, path):
    assert get(client, path=path).json == {"d": {"EntitySets": ["A_OperationalAcctgDocItemCube"]}}


def test_reversed_documents_say_so(client):
    reversal = sap.entry(reference="C", kind="reverse", reverses="140000000110002026")
    client.post(
        sap.SOAP_PATH, data=sap.envelope(sap.request(reversal)), headers=BASIC, content_type="text/xml"
    )
    found = results(
        get(client, select="DocumentReferenceID,IsReversal,IsReversed,AmountInTransactionCurrency")
    )
    flags = {(item["DocumentReferenceID"], item["IsReversal"], item["IsReversed"]) for item in found}
    assert flags == {("A", False, True), ("B", False, False), ("C", True, False)}
    turned = [item["AmountInTransactionCurrency"] for item in found if item["DocumentReferenceID"] == "C"]
    assert turned == ["-12.50", "12.50"]
