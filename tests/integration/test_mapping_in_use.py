"""A partner's mapping at work: expressions over the stored payment, frozen at the first claim."""

from datetime import timedelta

import pytest
from fakes.accepted import MAPPING, TARGET
from lxml import etree
from posting_stage import READ_LAG_SECONDS, SETTLING_SECONDS, make_bridge
from sqlalchemy import text

from bridge.journal_mapping import Expression
from bridge.payment import OperationKind

pytestmark = pytest.mark.integration


@pytest.fixture
def bridge(database):
    engine = database.engine_for("sap_adapter")
    yield make_bridge(database.engine, engine)
    engine.dispose()


def remap(bridge, *, target=TARGET, **members):
    mapping = MAPPING.model_copy(update=members)
    changed = target.model_copy(update={"mappings": dict.fromkeys(OperationKind, mapping)})
    bridge.directory.configuration = bridge.directory.configuration.model_copy(
        update={"targets": {"main": changed}}
    )


def set_metadata(bridge, document):
    with bridge.engine.begin() as connection:
        connection.execute(text("UPDATE payments SET metadata = CAST(:m AS jsonb)"), {"m": document})


def test_expressions_see_the_payment_and_its_metadata(bridge):
    remap(
        bridge,
        customer=Expression(jmespath="metadata.customer || '10000001'"),
        counterparty_text=Expression(jmespath="join(' ', [debtor.name, metadata.order])"),
        assignment=Expression(jmespath="metadata.order"),
        header_reference="FIXED",
    )
    operation_id = bridge.accept()
    set_metadata(bridge, '{"customer": "10000042", "order": "A-17"}')
    bridge.step(operation_id)
    entry = etree.fromstring(bridge.sap.sendings[0].content)
    assert entry.findtext("DebtorItem/Debtor") == "10000042"
    assert entry.findtext("DebtorItem/DocumentItemText") == "Muster GmbH A-17"
    assert entry.findtext("DebtorItem/AssignmentReference") == "A-17"
    assert entry.findtext("Reference1InDocumentHeader") == "FIXED"
    assert bridge.row(operation_id).status == "succeeded"


def test_what_the_mapping_does_not_give_parks_before_anything_is_sent_and_remapping_mends_it(bridge):
    remap(bridge, customer=Expression(jmespath="metadata.customer"))
    operation_id = bridge.accept()
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert (row.status, row.parked_reason, row.sent_unresolved) == ("parked", "mapping", False)
    assert bridge.sap.sendings == []
    assert bridge.busy_slots() == 0


ELSEWHERE = TARGET.model_copy(update={"sap_system": "s4-second", "company_code": "2000"})


@pytest.mark.parametrize("booked", [True, False])
@pytest.mark.parametrize("target", [TARGET, ELSEWHERE], ids=["mapping changed", "route changed"])
def test_a_change_while_the_outcome_is_unknown_still_makes_one_document_by_the_old_mapping(
    bridge, booked, target
):
    operation_id = bridge.accept()
    bridge.sap.script.append("commit-then-drop" if booked else "drop")
    bridge.step(operation_id)
    assert bridge.row(operation_id).status == "unknown"
    remap(bridge, target=target, document_type="AB", customer="10000099", posting_date="acceptance")
    bridge.clock.advance(timedelta(days=1).total_seconds())
    for _ in range(4):
        bridge.clock.advance(SETTLING_SECONDS + READ_LAG_SECONDS + 1)
        if bridge.row(operation_id).status not in ("succeeded", "parked"):
            bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert (row.status, row.sap_company_code) == ("succeeded", "1000")
    assert len(bridge.sap.booked) == 1
    assert len({sent.content for sent in bridge.sap.sendings}) == 1
    assert len({sent.message_uuid for sent in bridge.sap.sendings}) == 1


def test_a_stored_document_that_is_damaged_is_never_rendered_anew(bridge):
    operation_id = bridge.accept()
    bridge.sap.script.append("not-posted")
    bridge.step(operation_id)
    with bridge.engine.begin() as connection:
        connection.execute(text("UPDATE operations SET posting_date = NULL"))
    bridge.clock.advance(2)
    bridge.step(operation_id)
    row = bridge.row(operation_id)
    assert (row.status, row.parked_reason) == ("parked", "mapping")
    assert len(bridge.sap.sendings) == 1
