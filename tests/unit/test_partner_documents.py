import pytest
from partner_documents import new_partner
from pydantic import ValidationError

from bridge.partner import PartnerConfiguration

pytestmark = pytest.mark.unit


def test_a_reader_passes_over_members_of_a_newer_release_that_a_writer_refuses():
    """Two releases read the same document while one is rolled out."""
    partner = new_partner()
    document = partner.model_dump(mode="json")
    document["added_later"] = {"x": 1}
    document["clients"][0]["added_later"] = True
    assert PartnerConfiguration.read(document) == partner
    with pytest.raises(ValidationError):
        PartnerConfiguration.model_validate(document)


def test_a_reader_refuses_what_is_wrong_in_members_that_it_knows():
    document = new_partner().model_dump(mode="json")
    document["status"] = "asleep"
    with pytest.raises(ValidationError):
        PartnerConfiguration.read(document)
