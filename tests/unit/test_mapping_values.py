"""What a mapping comes to for a payment, and what is refused before any payment meets it."""

from datetime import UTC, date, datetime

import pytest
from pydantic import ValidationError

from bridge.journal_mapping import JournalEntryMapping
from bridge.mapping_check import first_mistake
from bridge.mapping_values import MappingError, cut, evaluate, view
from bridge.money import Money
from bridge.payment import Operation, OperationKind, OperationStatus, Payment, PaymentStatus

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
FIXED = {"document_type": "DZ", "customer": "10000001", "clearing_account": "113100"}
NOTING = {"statistical_account": "199100", "special_gl_code": "G"}
PARTIES = {
    "debtor": {"name": "Muster GmbH", "account": {"iban": "DE89370400440532013000"}},
    "creditor": None,
    "remittance_information": "Invoice 4711",
}


def seen(kind=OperationKind.PAYMENT, parties=PARTIES, metadata=None, currency="EUR", external_id="INV-1"):
    payment = Payment(
        payment_id="pay_1", partner_id="par_1", external_id=external_id, status=PaymentStatus.ACCEPTED,
        currency=currency, amount_minor=125000, captured_minor=0, refunded_minor=0, capture="automatic",
        requested_execution_date=date(2026, 12, 1), created_at=NOW, updated_at=NOW,
    )  # fmt: skip
    operation = Operation("op_1", kind, OperationStatus.ACCEPTED, Money(125000, currency), NOW)
    return view(
        payment, operation, parties=parties, metadata=metadata or {}, sap_system="s4-main",
        company_code="1000", accepted_on=date(2026, 11, 21),
    )  # fmt: skip


def mapping(**members):
    return JournalEntryMapping.model_validate(FIXED | members)


def by(expression):
    return {"jmespath": expression}


def values(sees=None, **members):
    return evaluate(mapping(**members), sees or seen())


def test_plain_texts_are_constants_and_the_rest_has_a_default():
    found = values()
    assert (found.document_type, found.customer, found.clearing_account) == ("DZ", "10000001", "113100")
    assert found.vendor is None
    assert (found.header_text, found.counterparty_text) == ("payment", "Invoice 4711")
    assert (found.reversal_reason, found.assignment, found.header_reference) == ("01", None, None)


@pytest.mark.parametrize(
    ("expression", "metadata", "customer"),
    [
        ("metadata.customer || '10000001'", {}, "10000001"),
        ("metadata.customer || '10000001'", {"customer": "10000002"}, "10000002"),
        ("metadata.\"customer number\" || 'X'", {"customer number": "10000003"}, "10000003"),
        ("amount.currency == 'USD' && 'US1' || 'EU1'", {}, "EU1"),
        ("kind == 'payment' && external_id == 'INV-1' && 'ONE' || 'OTHER'", {}, "ONE"),
        ("starts_with(debtor.account.iban, 'DE') && 'DE1' || 'XX1'", {}, "DE1"),
        ("[metadata.a, metadata.b, '10000009'][?@] | [0]", {"b": "10000007"}, "10000007"),
        ("{x: metadata.a, y: '10000008'}.y", {}, "10000008"),
    ],
)
def test_an_expression_reads_the_payment(expression, metadata, customer):
    wanted = mapping(customer=by(expression))
    assert evaluate(wanted, seen(metadata=metadata)).customer == customer
    assert first_mistake(wanted, OperationKind.PAYMENT) is None or "debtor" in expression


def test_texts_are_cut_at_saps_length_and_freed_of_what_no_xml_takes():
    found = values(
        seen(external_id="x" * 35, parties=PARTIES | {"remittance_information": "a\x07b\n" + "c" * 140}),
        header_text=by("external_id"),
        assignment=by("external_id"),
        header_reference=by("join('/', ['ref', accepted_on, requested_execution_date])"),
    )
    assert (len(found.header_text), len(found.assignment), len(found.counterparty_text)) == (25, 18, 50)
    assert found.counterparty_text.startswith("a b c")
    assert found.header_reference == "ref/2026-11-21/2026-"


def test_a_text_that_is_not_there_is_left_out():
    nobody = dict.fromkeys(PARTIES)
    assert values(seen(parties=nobody)).counterparty_text is None
    assert values(seen(parties=PARTIES | {"remittance_information": None})).counterparty_text == "Muster GmbH"


@pytest.mark.parametrize(
    ("members", "member", "why"),
    [
        ({"customer": by("metadata.customer")}, "customer", "gives nothing"),
        ({"customer": by("debtor.name")}, "customer", "gives none of"),
        ({"customer": by("metadata")}, "customer", "gives no text"),
        ({"document_type": by("external_id")}, "document_type", "gives none of"),
        ({"clearing_account": by("join('-', external_id)")}, "clearing_account", "can't be evaluated"),
    ],
)
def test_what_sap_would_not_take_is_named_without_its_value(members, member, why):
    with pytest.raises(MappingError, match=why) as error:
        values(**members)
    assert error.value.member == member
    assert "Muster" not in str(error.value)
    assert "INV-1" not in str(error.value)


def test_an_authorisation_needs_what_it_is_noted_by():
    with pytest.raises(MappingError, match="statistical_account gives nothing"):
        values(seen(OperationKind.AUTHORIZE))
    assert values(seen(OperationKind.AUTHORIZE), **NOTING).special_gl_code == "G"


@pytest.mark.parametrize("kind", OperationKind)
def test_a_fixed_mapping_is_sound_for_every_kind(kind):
    assert first_mistake(mapping(**NOTING), kind) is None


@pytest.mark.parametrize(
    ("members", "member", "why"),
    [
        ({"customer": by("metadata.customer ||")}, "customer", "is no JMESPath expression"),
        ({"customer": by("[" * 400)}, "customer", "is no JMESPath expression"),
        ({"customer": by("metadata.customer")}, "customer", "gives nothing"),
        (
            {"customer": by("remittance_information && 'C1'")},
            "customer",
            "without parties, texts and metadata",
        ),
        ({"customer": by("debtor.name || '1'")}, "customer", "for a payment with everything"),
        (
            {"counterparty_text": by("debitor.name")},
            "counterparty_text",
            "names 'debitor', which no payment has",
        ),
        ({"counterparty_text": by("debtor.nmae || 'x'")}, "counterparty_text", "names 'nmae'"),
        ({"header_text": by("not_null(remitance_information, 'x')")}, "header_text", "names"),
        ({"header_text": by("no_such_function(kind)")}, "header_text", "can't be evaluated"),
        ({"header_text": by("ceil(to_number('1e999')) && kind")}, "header_text", "can't be evaluated"),
        ({"header_text": by("remittance_information")}, "header_text", "gives nothing"),
    ],
)
def test_a_mistake_is_found_when_the_mapping_is_configured(members, member, why):
    found = first_mistake(mapping(**members), OperationKind.PAYMENT)
    assert found is not None
    assert found.member == member
    assert why in found.why


def test_an_authorisations_mapping_without_its_accounts_is_found_when_it_is_configured():
    found = first_mistake(mapping(), OperationKind.AUTHORIZE)
    assert (found.member, "gives nothing" in found.why) == ("statistical_account", True)


@pytest.mark.parametrize(
    "members",
    [
        {"customer": None},
        {"vendor": "20000001"},
        {"customer": "1000 0001"},
        {"document_type": "DZZ"},
        {"customer": {"jmespath": ""}},
        {"customer": {"jmespath": "x" * 501}},
        {"customer": {"xpath": "/"}},
        {"posting_date": "tomorrow"},
        {"colour": "red"},
    ],
)
def test_a_mapping_of_another_shape_is_refused(members):
    with pytest.raises(ValidationError):
        mapping(**members)


@pytest.mark.parametrize(
    "doubling", ["[@,@][]", "[@,@][*].[@,@][]", "map(&[@,@], [@,@])", "{a: @, b: @}.values(@)"]
)
def test_an_expression_that_doubles_what_it_sees_again_and_again_is_refused_and_not_tried(doubling):
    """Sixty doublings fit into one: the partners service would have run out of memory over it."""
    expression = "|".join([doubling] * (480 // (len(doubling) + 1)))
    found = first_mistake(mapping(customer=by(expression)), OperationKind.PAYMENT)
    assert "grow without bound" in found.why
    with pytest.raises(MappingError, match="grow without bound"):
        values(customer=by(expression))


@pytest.mark.parametrize(
    ("text", "units", "fits"),
    [("Invoice", 7, "Invoice"), ("Invoice 4711", 7, "Invoice"), ("\U0001f600" * 60, 50, "\U0001f600" * 25),
     ("x" + "\U0001f600" * 60, 50, "x" + "\U0001f600" * 24), ("", 50, "")],
)  # fmt: skip
def test_sixty_emoji_were_sent_to_a_field_of_fifty_utf16_units(text, units, fits):
    assert cut(text, units) == fits
    assert len(cut(text, units).encode("utf-16-le")) <= 2 * units
