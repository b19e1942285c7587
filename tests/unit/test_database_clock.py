"""What a process makes of the samples of the database's clock, whatever its own wall clock does."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from bridge.clock import MAX_UNCERTAINTY_SECONDS, certain_moment, moment
from bridge.errors import TransientError
from bridge.storage.database_clock import MAX_DRIFT, RETRY_SECONDS, SAMPLE_SECONDS, DatabaseClock

pytestmark = pytest.mark.unit

TRUE = datetime(2026, 12, 31, 23, 0, tzinfo=UTC)
TEN_MINUTES = timedelta(minutes=10)


class World:
    """True time, the database's clock, and a machine whose wall clock can be set wrong."""

    def __init__(self, wall=timedelta(0)):
        self.elapsed = 1000.0
        self.wall, self.database = wall, timedelta(0)
        self.round_trip_seconds = 0.01
        self.clock = DatabaseClock(local=self, elapsed=lambda: self.elapsed)

    @property
    def true(self):
        return TRUE + timedelta(seconds=self.elapsed - 1000.0)

    def now(self):
        return self.true + self.wall

    def monotonic(self):
        return self.elapsed

    def uncertainty_seconds(self):
        return 0.0

    def pass_by(self, seconds):
        self.elapsed += seconds

    def sample(self, answered_after=0.5):
        """One round trip; the database reads its clock somewhere on the way."""

        def show():
            self.pass_by(self.round_trip_seconds * answered_after)
            shown = self.true + self.database
            self.pass_by(self.round_trip_seconds * (1 - answered_after))
            return shown

        self.clock.sample(show)


def error_of(world):
    return abs((world.clock.now() - world.true - world.database).total_seconds())


@pytest.mark.parametrize("wall", [TEN_MINUTES, -TEN_MINUTES, timedelta(seconds=-90)])
def test_a_wrong_wall_clock_does_not_matter(wall):
    world = World(wall)
    world.sample()
    world.pass_by(7)
    assert error_of(world) < 0.001
    assert world.clock.local_offset_seconds() == pytest.approx(wall.total_seconds(), abs=0.001)


@pytest.mark.parametrize("answered_after", [0.0, 0.3, 1.0])
def test_the_error_is_never_more_than_the_stated_uncertainty(answered_after):
    world = World()
    world.round_trip_seconds = 0.6
    world.sample(answered_after)
    assert error_of(world) <= world.clock.uncertainty_seconds() == pytest.approx(0.3, abs=0.001)
    at = moment(world.clock)
    assert at.earliest <= world.true <= at.latest


def test_a_jump_of_the_wall_clock_changes_nothing_but_asks_for_a_sample():
    world = World()
    world.sample()
    assert not world.clock.is_sample_due()
    world.wall = TEN_MINUTES
    assert error_of(world) < 0.001
    assert world.clock.is_sample_due()
    with pytest.raises(TransientError):
        certain_moment(world.clock)
    world.sample()
    assert certain_moment(world.clock).uncertainty_seconds < 0.01
    assert not world.clock.is_sample_due()


def test_a_machine_that_stood_still_with_its_clocks_is_uncertain_until_it_has_asked():
    world = World()
    world.sample()
    world.database, world.wall = TEN_MINUTES, TEN_MINUTES  # ten minutes that it did not count
    assert world.clock.uncertainty_seconds() == float("inf")
    assert moment(world.clock).uncertainty_seconds == MAX_UNCERTAINTY_SECONDS
    world.sample()
    assert error_of(world) < 0.001


def test_the_better_of_two_samples_is_kept_until_it_has_aged():
    world = World()
    world.sample()
    world.round_trip_seconds = 0.4
    world.sample(answered_after=1.0)
    assert world.clock.uncertainty_seconds() < 0.01
    world.pass_by(0.3 / MAX_DRIFT)
    world.sample()
    assert world.clock.uncertainty_seconds() == pytest.approx(0.2, abs=0.001)


def test_another_primary_with_another_clock_is_believed_at_its_first_sample():
    world = World()
    world.sample()
    world.database = timedelta(seconds=-3)
    world.round_trip_seconds = 0.2  # worse than the one before
    world.sample()
    assert error_of(world) < 0.001


def test_before_the_first_sample_there_is_no_time():
    world = World()
    with pytest.raises(TransientError):
        world.clock.now()
    assert world.clock.uncertainty_seconds() == float("inf")
    assert world.clock.local_offset_seconds() is None
    assert world.clock.is_sample_due()


def test_the_first_sample_is_asked_for_and_again_after_a_pause_when_the_database_was_away():
    world, asked = World(), []

    def ask():
        asked.append(1)
        if len(asked) == 1:
            raise PoolTimeoutError
        world.sample()

    world.clock.ask_by(ask)
    for _ in range(3):
        with pytest.raises(TransientError):
            world.clock.now()
    assert len(asked) == 1
    world.pass_by(RETRY_SECONDS)
    assert error_of(world) < 0.001
    assert len(asked) == 2


def test_a_process_that_was_idle_for_long_asks_before_it_tells_the_time():
    world, asked = World(), []
    world.clock.ask_by(lambda: (asked.append(1), world.sample()))
    world.sample()
    world.pass_by(SAMPLE_SECONDS * 2)
    world.clock.now()
    assert asked == []  # a sample is due, but the time is certain: the next connection takes it
    world.pass_by(MAX_UNCERTAINTY_SECONDS / MAX_DRIFT)
    assert error_of(world) < 0.001
    assert asked == [1]
    assert world.clock.uncertainty_seconds() < 0.01


def test_reading_the_figures_keeps_an_idle_process_certain():
    world, asked = World(), []
    world.clock.ask_by(lambda: (asked.append(1), world.sample()))
    for _ in range(100):
        world.pass_by(30)
        world.clock.refresh()
        assert world.clock.uncertainty_seconds() < 0.01
    assert len(asked) == 100
