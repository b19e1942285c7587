"""The keeper of the high-water mark: what is on it before the gate opens, and what happens without it."""

import threading
from dataclasses import replace

import pytest
from accepted import LANE, NOW, add_payments
from fakes.mark_store import InMemoryMarkStore
from sqlalchemy import text
from structlog.testing import capture_logs
from waiting import DEADLINE_SECONDS

from bridge.clock import ManualClock
from bridge.errors import RecoveryDueError, TransientError, UnknownOutcomeError
from bridge.storage import restores
from bridge.storage.feed import sequence_events
from bridge.storage.high_water_marks import MAX_TOKENS
from bridge.storage.lanes import lock_lane, next_due
from bridge.storage.restores import may_decide, require_recovered
from dispatcher.mark_keeper import MarkKeeper, MarkSettings

pytestmark = pytest.mark.integration

ROLE = "dispatcher"
SETTINGS = MarkSettings(interval_seconds=2.0, patience_seconds=60.0)
IDENTITY = text("SELECT * FROM database_identity")


class Stage:
    """A database, a mark outside, and dispatchers that keep it."""

    def __init__(self, owner, engine):
        self.owner, self.engine = owner, engine
        self.store, self.clock = InMemoryMarkStore(), ManualClock(NOW)
        self.opened = []
        self.keeper = self.another_keeper()

    def another_keeper(self, settings=SETTINGS):
        return MarkKeeper(
            self.engine, self.store, self.clock, settings, lambda: self.opened.append(self.clock.now())
        )

    def identity(self):
        with self.owner.begin() as connection:
            return connection.execute(IDENTITY).one()

    def restart(self):
        """PostgreSQL has started since."""
        self.change("trusted_start = trusted_start - interval '1 second'")

    def change(self, assignment, **values):
        with self.owner.begin() as connection:
            connection.execute(text(f"UPDATE database_identity SET {assignment}"), values)

    def copy(self):
        return self.identity()._asdict()

    def put_back(self, copied):
        """What a database that is put back says of itself, on a PostgreSQL that had to be started."""
        self.change(", ".join(f"{name} = :{name}" for name in copied), **copied)
        self.restart()

    def is_open(self):
        with self.engine.begin() as connection:
            return may_decide(connection)

    def mark(self):
        standing = self.store.read()
        return None if standing is None else standing.mark

    def move(self):
        self.clock.advance(SETTINGS.interval_seconds)
        return self.keeper.go_round()


@pytest.fixture
def stage(owner, engine):
    return Stage(owner, engine)


@pytest.fixture
def kept(stage):
    """The mark stands outside, and belongs to the database."""
    stage.keeper.go_round()
    return stage


def away(_stage=None):
    return TransientError("Firestore can't be read")


def test_a_fresh_project_has_no_mark_and_that_is_no_fault(stage):
    with capture_logs() as logs:
        stage.keeper.go_round()
    assert logs == []
    assert stage.is_open()
    mark, identity = stage.mark(), stage.identity()
    assert (mark.serial, mark.epoch, mark.database_id) == (1, 1, identity.database_id)
    assert (identity.noted_serial, identity.mark_tokens) == (1, [mark.token])


def test_the_mark_moves_at_its_interval_and_not_more_often(kept):
    first = kept.mark()
    assert kept.keeper.go_round().next_seconds == SETTINGS.interval_seconds
    assert kept.mark() == first
    kept.move()
    assert kept.mark().serial == first.serial + 1
    assert kept.mark().proposed_at == kept.clock.now()


def test_two_dispatchers_share_one_interval(kept):
    second = kept.another_keeper()
    assert second.go_round().next_seconds == SETTINGS.interval_seconds
    kept.move()
    second.go_round()
    assert kept.mark().serial == 2
    assert second.age_seconds() == 0


def test_after_a_start_of_postgresql_nothing_is_decided_before_the_mark_has_moved(kept, owner, engine):
    add_payments(owner, 1, now=kept.clock.now())
    kept.restart()
    before = kept.mark()
    with engine.begin() as connection:
        assert not may_decide(connection)
        assert lock_lane(connection, LANE).held
        assert LANE not in next_due(connection, kept.clock.now())
        assert sequence_events(connection, "par_a", limit=10) == 0
        with pytest.raises(TransientError) as refused:
            require_recovered(connection)
    assert not isinstance(refused.value, RecoveryDueError)
    kept.keeper.go_round()
    assert kept.is_open()
    assert kept.opened == [kept.clock.now()]
    # whoever copied the files while PostgreSQL was stopped does not have this one
    assert kept.mark().serial == before.serial + 1
    with engine.begin() as connection:
        assert not lock_lane(connection, LANE).held
        assert sequence_events(connection, "par_a", limit=10) == 1
        assert LANE in next_due(connection, kept.clock.now())


def test_tables_that_were_made_again_on_a_running_postgresql_are_compared_too(kept):
    """pg_restore into the same cluster: PostgreSQL has not started, and the tables are others."""
    kept.change("trusted_table = CAST('payments' AS regclass)")
    assert not kept.is_open()
    kept.keeper.go_round()
    assert kept.is_open()


def test_a_database_that_was_put_back_is_held(kept):
    copied = kept.copy()
    kept.move()
    kept.put_back(copied)
    with capture_logs() as logs:
        kept.keeper.go_round()
    assert not kept.is_open()
    assert kept.identity().suspected_because == "behind"
    with kept.engine.begin() as connection:
        assert lock_lane(connection, LANE).held
        with pytest.raises(RecoveryDueError):
            require_recovered(connection)
    (line,) = logs
    assert (line["event"], line["log_level"], line["serial"], line["outside_serial"]) == (
        "the database was put back", "error", 1, 2,
    )  # fmt: skip
    mark = kept.mark()
    assert kept.keeper.go_round().next_seconds > 0
    assert kept.mark() == mark
    assert kept.keeper.age_seconds() is None


def test_a_copy_made_while_a_proposal_was_on_its_way_is_held(kept):
    """PostgreSQL was stopped between the proposal and its note: the copy knows that token."""
    kept.store.lose_answer = UnknownOutcomeError("lost")
    kept.move()
    copied = kept.copy()
    assert kept.mark().token in copied["mark_tokens"]
    kept.restart()
    kept.keeper.go_round()
    assert kept.is_open()
    kept.put_back(copied)
    kept.keeper.go_round()
    assert kept.identity().suspected_because == "behind"


def test_a_copy_made_before_a_proposal_was_written_is_held(kept):
    kept.store.before_write = lambda: setattr(kept.store, "failure", away())
    kept.move()
    kept.store.failure = None
    copied = kept.copy()
    assert len(copied["mark_tokens"]) == 2
    kept.restart()
    kept.keeper.go_round()
    assert kept.is_open()
    kept.put_back(copied)
    kept.keeper.go_round()
    assert kept.identity().suspected_because == "behind"


def test_a_proposal_whose_answer_was_lost_tells_nothing_against_the_database(kept):
    for _ in range(3):
        kept.store.lose_answer = UnknownOutcomeError("lost")
        kept.move()
    kept.move()
    identity = kept.identity()
    assert identity.suspected_at is None
    assert identity.mark_tokens == [kept.mark().token]
    assert identity.noted_serial == kept.mark().serial == identity.mark_serial


def test_a_mark_that_another_dispatcher_has_just_moved_was_taken_for_a_newer_database_s(kept):
    kept.clock.advance(SETTINGS.interval_seconds)
    second = kept.another_keeper()
    kept.store.after_read = second.go_round
    kept.keeper.go_round()
    assert kept.identity().suspected_at is None
    kept.move()
    assert kept.mark().token == kept.identity().mark_tokens[-1]


def test_a_dispatcher_that_slept_before_its_write_moved_the_mark_backwards(kept):
    def others_go_on():
        second = kept.another_keeper()
        for _ in range(3):
            kept.clock.advance(SETTINGS.interval_seconds)
            second.go_round()
        serials.append(kept.mark().serial)

    serials = []
    kept.clock.advance(SETTINGS.interval_seconds)
    kept.store.before_write = others_go_on
    kept.keeper.go_round()
    assert kept.mark().serial == serials[0] > 2
    kept.move()
    assert kept.is_open()


def test_of_two_databases_that_share_a_mark_one_goes_on(kept):
    """A copy was started beside the original: whoever moves the mark first has it."""
    copied = kept.copy()
    kept.move()
    moved = kept.mark()
    kept.put_back(copied)
    kept.move()
    assert kept.identity().suspected_because == "behind"
    assert kept.mark() == moved


def test_firestore_away_stops_nothing_while_postgresql_runs_on(kept):
    kept.store.failure = away()
    with capture_logs() as logs:
        for _ in range(40):
            kept.clock.advance(1)
            kept.keeper.go_round()
    assert kept.is_open()
    assert kept.keeper.age_seconds() > 40 - SETTINGS.interval_seconds
    assert [line["event"] for line in logs] == ["the high-water mark can't be kept"]
    kept.store.failure = None
    kept.keeper.go_round()
    assert kept.keeper.age_seconds() == 0


def test_firestore_away_when_postgresql_starts_stops_postings_for_the_patience_and_no_longer(kept):
    kept.store.failure = away()
    kept.restart()
    for _ in range(int(SETTINGS.patience_seconds)):
        kept.keeper.go_round()
        assert not kept.is_open()
        kept.clock.advance(1)
    with capture_logs() as logs:
        kept.keeper.go_round()
    assert kept.is_open()
    assert "goes on without the high-water mark" in [line["event"] for line in logs]
    assert kept.opened == [kept.clock.now()]


def test_a_database_put_back_while_firestore_is_away_is_held_when_it_answers(kept):
    copied = kept.copy()
    kept.move()
    kept.put_back(copied)
    kept.store.failure = away()
    kept.keeper.go_round()
    kept.clock.advance(SETTINGS.patience_seconds)
    kept.keeper.go_round()
    assert kept.is_open()
    kept.store.failure = None
    kept.keeper.go_round()
    assert not kept.is_open()
    assert kept.identity().suspected_because == "behind"


def test_a_mark_that_can_be_read_and_not_written_keeps_few_proposals(kept):
    """A right that was taken away: each start of PostgreSQL proposes again, within a bound."""
    for _ in range(MAX_TOKENS + 10):
        kept.restart()
        kept.store.before_write = lambda: setattr(kept.store, "failure", away())
        kept.move()
        kept.store.failure = None
    assert len(kept.identity().mark_tokens) <= MAX_TOKENS
    kept.move()
    assert kept.is_open()
    assert len(kept.identity().mark_tokens) == 1


def test_a_mark_that_is_gone_is_written_again_while_postgresql_runs_on(kept):
    kept.store.lose()
    with capture_logs() as logs:
        kept.move()
    assert kept.is_open()
    assert kept.mark().serial == 2
    assert [line["event"] for line in logs] == ["the high-water mark was gone and is written again"]


def test_a_database_that_was_put_into_a_project_without_a_mark_is_held(kept):
    kept.store.lose()
    kept.restart()
    with capture_logs() as logs:
        kept.keeper.go_round()
    assert kept.identity().suspected_because == "mark-missing"
    assert "another project" in logs[0]["explanation"]
    assert kept.mark() is None


def test_an_emulator_that_has_started_anew_with_postgresql_holds_nothing(kept):
    kept.store.lose()
    kept.restart()
    kept.another_keeper(replace(SETTINGS, may_forget=True)).go_round()
    assert kept.is_open()
    assert kept.mark().serial == 2


def test_a_database_of_another_environment_is_held_and_the_log_says_so(kept):
    ours = kept.mark()
    kept.change("database_id = 'staging'")
    kept.restart()
    with capture_logs() as logs:
        kept.keeper.go_round()
    assert kept.identity().suspected_because == "another-database"
    assert (logs[0]["database_id"], logs[0]["outside_database_id"]) == ("staging", ours.database_id)
    assert "another environment" in logs[0]["explanation"]
    assert kept.mark() == ours


def test_a_database_that_was_made_anew_in_the_place_of_another_is_held(kept):
    """PostgreSQL runs, the migrations have just made the tables: nothing was to be compared by the gate."""
    kept.change(
        "database_id = 'new', mark_serial = 0, noted_serial = 0, mark_tokens = '{}', is_compared = false"
    )
    assert kept.is_open()
    kept.keeper.go_round()
    assert kept.identity().suspected_because == "another-database"


def test_a_mark_that_was_put_back_itself_holds_nothing(kept):
    old = kept.store._standing
    kept.move()
    kept.move()
    kept.store._standing = old
    kept.restart()
    with capture_logs() as logs:
        kept.keeper.go_round()
    assert kept.is_open()
    assert kept.mark().serial == 4
    assert "the high-water mark was older than the database" in [line["event"] for line in logs]


def recovered(stage):
    with stage.owner.begin() as connection:
        restores.end_recovery(connection)


@pytest.mark.parametrize("why", ["behind", "another-database", "mark-missing"])
def test_the_mark_follows_a_recovery(kept, why):
    copied = kept.copy()
    kept.move()
    kept.put_back(copied)
    if why == "another-database":
        kept.change("database_id = 'staging'")
    elif why == "mark-missing":
        kept.store.lose()
    kept.keeper.go_round()
    assert kept.identity().suspected_because == why
    recovered(kept)
    assert kept.is_open()
    kept.keeper.go_round()
    mark, identity = kept.mark(), kept.identity()
    assert (mark.database_id, mark.serial) == (identity.database_id, identity.noted_serial)
    assert mark.epoch == (1 if why == "mark-missing" else 2)
    assert not identity.takes_over
    kept.restart()
    kept.keeper.go_round()
    assert kept.is_open()


def test_a_backup_made_right_after_a_recovery_took_the_mark_over_again(kept):
    """It was made before the mark had followed: put back a week later it must not be believed."""
    recovered(kept)
    copied = kept.copy()
    assert copied["takes_over"]
    for _ in range(3):
        kept.move()
    kept.put_back(copied)
    kept.keeper.go_round()
    assert kept.identity().suspected_because == "behind"


def test_an_older_backup_after_a_recovery_is_held_again(kept):
    copied = kept.copy()
    kept.move()
    for _ in range(2):
        kept.put_back(copied)
        kept.keeper.go_round()
        assert kept.identity().suspected_because == "behind"
        recovered(kept)
        kept.move()
        assert kept.is_open()


def test_postgresql_started_again_between_the_proposal_and_its_note(kept):
    """Perhaps on other files: what was written outside is of the database that was there before."""
    kept.clock.advance(SETTINGS.interval_seconds)
    kept.store.before_write = lambda: kept.change("mark_tokens = '{}', trusted_start = '2020-01-01'")
    kept.keeper.go_round()
    assert not kept.is_open()


def test_many_dispatchers_at_once_move_one_mark(kept):
    keepers = [kept.another_keeper() for _ in range(4)]
    barrier = threading.Barrier(len(keepers))

    def keep(keeper):
        for _ in range(10):
            barrier.wait(DEADLINE_SECONDS)
            keeper.go_round()
            if barrier.wait(DEADLINE_SECONDS) == 0:
                kept.clock.advance(SETTINGS.interval_seconds)

    threads = [threading.Thread(target=keep, args=(keeper,)) for keeper in keepers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    kept.move()
    assert kept.is_open()
    assert kept.mark().serial > 5
    assert kept.mark().token == kept.identity().mark_tokens[-1]
