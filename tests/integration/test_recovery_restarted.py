"""A backup made during a recovery counts it as running: it is not carried on, another one is begun."""

import pytest
from sqlalchemy import text

from bridge.clock import rfc3339
from bridge.storage.recoveries import RestoredRecoveryError

pytestmark = pytest.mark.integration


class BackingUp:
    """SAP's list of documents; before its first page a backup is made, and the partner sends a payment."""

    def __init__(self, restorable):
        self.restorable, self.accepted = restorable, []

    def documents_since(self, day, offset):
        if not self.accepted:
            self.accepted.append(self.restorable.bridge.accept())
            self.restorable.bridge.clock.advance(1)
            self.restorable.back_up()
        return self.restorable.bridge.sap.documents_since(day, offset)


def test_what_was_accepted_during_a_recovery_was_posted_twice_when_its_backup_was_restored(
    restorable, bridge
):
    """The recovery of the backup had marked already what SAP is asked about, and would have gone on."""
    lost = bridge.accept()
    restorable.back_up()
    first_since = restorable.since
    bridge.step(lost)
    bridge.step(bridge.accept())
    restorable.restore()
    restorable.begin()
    source = BackingUp(restorable)
    assert restorable.job(source).run()
    (during,) = source.accepted
    restorable.queue(during)
    restorable.let_all_go_on()
    assert bridge.row(during).status == "succeeded"
    assert len(bridge.sap.booked) == 3

    restorable.restore()
    refused = restorable.begin()
    assert (refused.status_code, "--restart" in refused.json["detail"]) == (409, True)
    begun = restorable.begin(restart=True)
    assert begun.status_code == 201
    assert begun.json["since"] == rfc3339(restorable.since)
    # what the first one had not placed yet is left to the second
    assert begun.json["reads_since"] == rfc3339(first_since)
    assert restorable.begin().status_code == 200
    assert restorable.job().run()
    restorable.let_all_go_on()
    assert bridge.row(during).status == "succeeded"
    assert len(restorable.rows("SELECT 1 FROM payments WHERE status = 'paid'")) == 3
    assert len(bridge.sap.booked) == len(bridge.sap.sendings) == 3
    actions = [action for _, action, *_ in restorable.stage.audit()]
    assert actions[1:] == [
        "recovery.abandon",
        f"recovery.begin since {begun.json['since']}",
        "recovery.finish",
    ]


def test_a_recovery_that_was_restored_elsewhere_was_carried_on(restorable, bridge):
    restorable.back_up()
    bridge.step(bridge.accept())
    restorable.restore()
    restorable.begin()
    with bridge.engine.begin() as connection:
        connection.execute(text("UPDATE recoveries SET system_identifier = 1"))
    with pytest.raises(RestoredRecoveryError, match="--restart"):
        restorable.job().run()
    refused = restorable.begin()
    assert (refused.status_code, "--restart" in refused.json["detail"]) == (409, True)
    assert restorable.begin(restart=True).status_code == 201
    assert restorable.job().run()
    restorable.let_all_go_on()
    assert [row.status for row in restorable.operations()] == ["succeeded"]


class Restarting:
    """SAP's list of documents; while a job reads it, another recovery is begun, since an earlier moment."""

    def __init__(self, restorable, since):
        self.restorable, self.since, self.begun = restorable, since, None

    def documents_since(self, day, offset):
        page = self.restorable.bridge.sap.documents_since(day, offset)
        self.begun = self.begun or self.restorable.begin(self.since, restart=True)
        return page


def test_the_job_of_an_abandoned_recovery_went_on_placing_documents_by_its_own_moment(restorable, bridge):
    """A lost refund was then taken for another one than the partner had sent again: refunded twice."""
    first = bridge.accept()
    bridge.step(first)
    restorable.back_up()
    since = restorable.since
    bridge.step(bridge.queue(first, "refund", 50000))
    restorable.restore()
    bridge.clock.advance(1)
    bridge.queue(first, "refund", 50000)
    bridge.clock.advance(1)
    # a wrong moment: the partner had sent the refund again before it
    assert restorable.begin(bridge.clock.now()).status_code == 201
    source = Restarting(restorable, since)
    assert restorable.job(source).run()
    assert source.begun.status_code == 201
    assert restorable.latest()["recovery"]["status"] == "running"
    assert len(restorable.operations()) == 2
    assert restorable.job().run()
    restorable.let_all_go_on()
    assert [row.status for row in restorable.operations()] == ["succeeded", "succeeded"]
    assert len(bridge.sap.booked) == 2


@pytest.mark.parametrize("restart", ["yes", 1, None])
def test_restart_is_true_or_false(restorable, restart):
    body = {"since": "2026-11-20T04:00:00Z", "restart": restart}
    assert restorable.stage.post("/admin/recoveries", body).status_code == 422
