"""Times that are promised as figures; that each is kept, other tests see by the order of events."""

import re
from pathlib import Path

import pytest

from bridge.gcp import metrics, tracing
from bridge.partner_directory import PartnerDirectorySettings
from bridge.web import serve
from devstack import supervisor
from dispatcher import app as dispatcher
from dispatcher.settings import MAX_PUBLISH_TIMEOUT_SECONDS

pytestmark = pytest.mark.contract

REPOSITORY = Path(__file__).parents[2]
# from SIGTERM to SIGKILL: https://cloud.google.com/run/docs/container-contract#instance-shutdown
CLOUD_RUN_SECONDS = 10.0
RESTART_SECONDS = 3.0


@pytest.mark.parametrize("work_ends_in", [serve.GRACEFUL_TIMEOUT_SECONDS, dispatcher.STOP_SECONDS])
def test_a_process_ends_within_what_cloud_run_gives(work_ends_in):
    telemetry_ms = tracing.CLOSE_TIMEOUT_MILLISECONDS + metrics.CLOSE_TIMEOUT_MILLISECONDS
    assert work_ends_in + telemetry_ms / 1000 <= CLOUD_RUN_SECONDS


def test_a_publish_under_way_ends_before_the_dispatcher_gives_it_up():
    assert MAX_PUBLISH_TIMEOUT_SECONDS < dispatcher.STOP_SECONDS


def test_a_process_of_the_local_stack_is_started_again_within_3_seconds():
    longest = max(supervisor.BACKOFF_SECONDS) + supervisor.TICK_RUNNING_SECONDS
    assert longest < RESTART_SECONDS
    assert supervisor.BACKOFF_SECONDS[0] == 0.0, "one that was ready is started at once"


@pytest.mark.parametrize("document", ["README.md", "docs/architecture.md", "docs/partners/recovery.md"])
def test_a_change_of_a_partner_takes_effect_when_its_copies_are_no_longer_fresh(document):
    """As `test_a_suspension_is_seen_when_the_ttl_is_over` has it, by a clock that is turned by hand."""
    promised = re.search(r"within (\d+) seconds", (REPOSITORY / document).read_text(encoding="utf-8"))
    assert promised is not None
    assert float(promised[1]) == PartnerDirectorySettings().fresh_seconds
