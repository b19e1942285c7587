"""A change by an older release keeps what a newer one has put into a partner's document."""

import copy
import json

import pytest
from fakes.partner_store import InMemoryPartnerStore
from gateway_stage import NOW
from partner_documents import new_partner

from bridge.clock import ManualClock
from bridge.errors import RejectedError
from bridge.partner import PartnerConfiguration
from gateway.partner_record import PartnerRecord
from partners import documents

pytestmark = pytest.mark.unit


class NoMirror:
    def get(self, _partner_id):
        return None


# mappings by names that partners choose, or by currencies
BY_NAME = frozenset({"targets", "mappings", "currency_decimals"})


def with_new_members(value, depth=0, name=None):
    """Add a member to every object that has members of its own."""
    if isinstance(value, list):
        return [with_new_members(each, depth + 1) for each in value]
    if not isinstance(value, dict):
        return value
    changed = {key: with_new_members(each, depth + 1, key) for key, each in value.items()}
    return changed if name in BY_NAME else changed | {"from_a_newer_release": {"depth": [depth]}}


@pytest.fixture
def stored():
    document = json.loads(new_partner().model_dump_json())
    return with_new_members(document)


def count(document):
    return json.dumps(document).count("from_a_newer_release")


def test_what_is_read_is_written_with_all_its_members(stored):
    assert count(stored) >= 5
    assert PartnerConfiguration.read(stored).model_dump(mode="json") == stored


def test_a_partners_own_change_keeps_them(stored):
    store = InMemoryPartnerStore()
    store.put(PartnerConfiguration.read(stored), None)
    record = PartnerRecord(store, NoMirror(), ManualClock(NOW))
    record.change(stored["partner_id"], lambda standing: standing.model_copy(update={"name": "New name"}))
    kept = store.get(stored["partner_id"]).model_dump(mode="json")
    assert kept == stored | {"name": "New name", "version": stored["version"] + 1}


def test_an_operators_change_keeps_them_and_adds_none(stored):
    base = PartnerConfiguration.read(stored)
    body = documents.shown(base) | {"name": "New name"}
    read = documents.read(body, partner_id=base.partner_id, version=base.version + 1, base=base)
    assert count(read.model_dump(mode="json")) == count(stored)
    mistaken = copy.deepcopy(body)
    mistaken["limits"]["requests_per_minute"] = 7
    with pytest.raises(RejectedError) as refused:
        documents.read(mistaken, partner_id=base.partner_id, version=base.version + 1, base=base)
    assert "/limits/requests_per_minute" in [error.pointer for error in refused.value.errors]


def test_a_new_document_may_have_none(stored):
    with pytest.raises(RejectedError):
        documents.read(stored, partner_id=stored["partner_id"], version=1, base=None)
