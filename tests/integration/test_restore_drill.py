"""The restore with actors in the window, seed by seed; `make drill-restore` plays twenty that are new.

A failing run names its seed: `pytest tests/integration/test_restore_drill.py --drill-seed 4711` repeats it
first.
"""

import pytest
from restore_drill import AFTERWARDS, RestoreDrill

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def done():
    return set()


def test_no_document_without_its_operation_and_no_money_beyond_what_was_captured(
    restorable, drill_seed, done
):
    drill = RestoreDrill(restorable, drill_seed)
    drill.play()
    done |= drill.judge_acts()
    drill.judge()
    print(f"\nseed {drill_seed}: {drill.told()}")  # noqa: T201 - the drill tells what it found


def test_over_the_seeds_documents_were_accepted_and_dismissed(done):
    assert done == set(AFTERWARDS)
