from datetime import UTC, datetime, timedelta

import pytest
from partner_documents import new_partner
from pydantic import ValidationError

from bridge.partner import PartnerConfiguration

pytestmark = pytest.mark.unit


def test_a_reader_keeps_members_of_a_newer_release_that_a_writer_refuses():
    """Two releases read the same document while one is rolled out."""
    partner = new_partner()
    document = partner.model_dump(mode="json")
    document["added_later"] = {"x": 1}
    document["clients"][0]["added_later"] = True
    assert PartnerConfiguration.read(document).model_dump(mode="json") == document
    assert PartnerConfiguration.without_unknown(document) == partner
    with pytest.raises(ValidationError):
        PartnerConfiguration.model_validate(document)


def test_a_reader_refuses_what_is_wrong_in_members_that_it_knows():
    document = new_partner().model_dump(mode="json")
    document["status"] = "asleep"
    with pytest.raises(ValidationError):
        PartnerConfiguration.read(document)


NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)


def with_dated(partner, *changes):
    return PartnerConfiguration.model_validate(partner.model_dump() | {"dated_changes": changes})


def test_a_dated_change_holds_from_its_moment_on_and_the_others_stay_to_come():
    later = NEW_YEAR + timedelta(days=1)
    partner = with_dated(
        new_partner(),
        {"effective_from": NEW_YEAR, "status": "suspended", "limits": {"payments_per_day": 7}},
        {"effective_from": later, "status": "active"},
    )
    assert partner.at(NEW_YEAR - timedelta(microseconds=1)) is partner
    from_new_year = partner.at(NEW_YEAR)
    assert (from_new_year.status, from_new_year.limits.payments_per_day) == ("suspended", 7)
    assert [change.effective_from for change in from_new_year.dated_changes] == [later]
    at_last = partner.at(later)
    assert (at_last.status, at_last.limits.payments_per_day, at_last.dated_changes) == ("active", 7, ())
    assert PartnerConfiguration.model_validate(at_last.model_dump()) == at_last


@pytest.mark.parametrize(
    "changes",
    [
        [{"effective_from": NEW_YEAR}],
        [{"effective_from": NEW_YEAR.replace(tzinfo=None), "status": "active"}],
        [{"effective_from": NEW_YEAR, "status": status} for status in ("active", "suspended")],
        [{"effective_from": NEW_YEAR, "routing": {"default": "nowhere"}}],
        [{"effective_from": NEW_YEAR, "clients": []}],
        [{"effective_from": NEW_YEAR + timedelta(days=day), "status": "active"} for day in range(11)],
    ],
)
def test_a_dated_change_is_judged_as_if_it_held_already(changes):
    with pytest.raises(ValidationError):
        with_dated(new_partner(), *changes)
