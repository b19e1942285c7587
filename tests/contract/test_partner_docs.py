"""What docs/partners tells is what partners get: examples, the schedule, links."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from webhooks.message import Signers, headers_of
from webhooks.retries import DEFAULT_DELAYS_SECONDS

pytestmark = pytest.mark.contract

FOLDER = Path(__file__).parents[2] / "docs" / "partners"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SECONDS = {"s": 1, "min": 60, "h": 3600}


def test_the_python_example_takes_our_deliveries_and_no_others():
    text = (FOLDER / "webhooks.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    names = {}
    exec(compile(example, "webhooks.md", "exec"), names)  # noqa: S102 - our own document
    body = b'{"id":"evt_1"}'
    headers = {
        name.lower(): value
        for name, value in headers_of("evt_1", body, Signers((SECRET,), ()), datetime.now(UTC)).items()
    }
    assert names["is_genuine"](SECRET, body, headers)
    assert not names["is_genuine"](SECRET, b'{"id":"evt_2"}', headers)
    assert not names["is_genuine"]("whsec_" + "A" * 32, body, headers)


def test_the_table_of_retries_is_the_default_schedule():
    text = (FOLDER / "webhooks.md").read_text(encoding="utf-8")
    row = re.search(r"^\| the next follows after \|(.*)\|$", text, re.MULTILINE)[1]
    pauses = [cell.split() for cell in row.split("|")]
    assert tuple(int(number) * SECONDS[unit] for number, unit in pauses) == DEFAULT_DELAYS_SECONDS


@pytest.mark.parametrize("document", sorted(path.name for path in FOLDER.glob("*.md")))
def test_every_link_leads_to_a_file(document):
    text = (FOLDER / document).read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", text)
    assert [target for target in targets if not (FOLDER / target).exists()] == []
