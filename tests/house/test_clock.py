"""The guarded clock: what is believed, what is refused, and that time never goes back."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lls.clock import GuardedClock, system_elapsed, system_wall
from lls.licensing.instant import ClockState, Now

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
OK, BEHIND, JUMPED = ClockState.OK, ClockState.BEHIND, ClockState.JUMPED


class Machine:
    """A host whose two clocks a test turns by hand."""

    def __init__(self, wall: datetime = NOON) -> None:
        self.wall = wall
        self.elapsed = 5_000.0

    def start(self, mark: datetime | None = None) -> GuardedClock:
        return GuardedClock(wall=lambda: self.wall, elapsed=lambda: self.elapsed, mark=mark)

    def passes(self, span: timedelta) -> None:
        self.wall += span
        self.elapsed += span.total_seconds()


def test_a_right_clock_is_believed_to_the_microsecond() -> None:
    machine = Machine()
    clock = machine.start(mark=NOON - DAY)
    assert Now(wall=NOON, strict=NOON, elapsed=5_000.0) == clock.now()
    machine.passes(timedelta(microseconds=1))
    assert NOON + timedelta(microseconds=1) == clock.now().wall
    assert NOON + timedelta(microseconds=1) == clock.mark


def test_the_very_first_start_believes_the_machine() -> None:
    assert NOON == Machine().start().now().wall


@pytest.mark.parametrize(
    ("past_the_mark", "state"),
    [(DAY * 399, OK), (DAY * 400, OK), (DAY * 400 + MINUTE, JUMPED), (-MINUTE * 5, OK), (-MINUTE * 6, BEHIND)],
)
def test_a_start_compares_the_machine_with_the_stored_mark(past_the_mark: timedelta, state: ClockState) -> None:
    assert state == Machine().start(mark=NOON - past_the_mark).now().state


@pytest.mark.parametrize(
    ("step", "state"),
    [(HOUR * 23, OK), (DAY + MINUTE, JUMPED), (-MINUTE * 5, OK), (-MINUTE * 5 - MINUTE, BEHIND), (-DAY * 3650, BEHIND)],
)
def test_a_step_while_running_is_judged_against_elapsed_time(step: timedelta, state: ClockState) -> None:
    machine = Machine()
    clock = machine.start(mark=NOON)
    clock.now()
    machine.wall += step
    assert state == clock.now().state


def test_a_sleeping_host_that_wakes_days_later_has_not_jumped() -> None:
    machine = Machine()
    clock = machine.start(mark=NOON)
    clock.now()
    machine.passes(DAY * 30)
    assert OK == clock.now().state
    assert NOON + DAY * 30 == clock.now().wall


def test_a_clock_turned_back_says_by_how_much_and_time_still_goes_on() -> None:
    machine = Machine()
    clock = machine.start(mark=NOON)
    clock.now()
    machine.wall -= HOUR
    now = clock.now()
    assert (NOON, NOON, BEHIND, 3_600) == (now.wall, now.strict, now.state, now.behind_seconds)
    machine.passes(HOUR)
    assert NOON + HOUR / 2 == clock.now().wall


def test_behind_heals_at_once_when_the_clock_is_put_right() -> None:
    machine = Machine()
    clock = machine.start(mark=NOON)
    machine.wall -= HOUR
    assert BEHIND == clock.now().state
    machine.wall += HOUR
    assert OK == clock.now().state


def test_behind_heals_by_itself_in_less_than_twice_the_error() -> None:
    machine = Machine()
    clock = machine.start(mark=NOON + HOUR * 2)  # it had booted on local time and was then put right
    clock.now()
    machine.passes(HOUR * 3)
    assert BEHIND == clock.now().state
    machine.passes(HOUR)
    assert OK == clock.now().state


def test_a_clock_put_right_after_weeks_has_not_jumped() -> None:
    machine = Machine()
    clock = machine.start(mark=NOON)
    clock.now()
    machine.wall -= DAY * 100
    clock.now()
    for _ in range(30):
        machine.passes(DAY)
        assert BEHIND == clock.now().state
    machine.wall += DAY * 100
    assert OK == clock.now().state


def test_restarts_while_behind_lose_no_time() -> None:
    machine = Machine()
    mark = NOON + HOUR
    for _ in range(60):
        clock = machine.start(mark=mark)
        machine.passes(MINUTE)
        clock.now()
        mark = clock.mark
    assert NOON + HOUR * 1.5 == mark


def test_a_mistyped_year_refuses_new_things_but_ends_nothing_and_leaves_no_trace() -> None:
    machine = Machine()
    clock = machine.start(mark=NOON)
    clock.now()
    machine.wall += DAY * 3650
    machine.passes(HOUR)
    now = clock.now()
    assert (NOON + HOUR, NOON + HOUR + DAY * 3650, JUMPED) == (now.wall, now.strict, now.state)
    machine.wall -= DAY * 3650
    assert Now(wall=NOON + HOUR, strict=NOON + HOUR, elapsed=machine.elapsed) == clock.now()


@pytest.mark.parametrize("at_start", [True, False])
def test_a_jump_is_believed_after_24_hours_of_elapsed_time(at_start: bool) -> None:
    machine = Machine()
    clock = machine.start(mark=NOON - DAY * 500 if at_start else NOON)
    clock.now()
    machine.wall += timedelta(0) if at_start else DAY * 500
    assert JUMPED == clock.now().state
    machine.passes(HOUR * 24 - MINUTE)
    assert JUMPED == clock.now().state
    machine.passes(MINUTE)
    assert OK == clock.now().state
    assert machine.wall == clock.mark


def test_a_second_jump_begins_the_24_hours_anew() -> None:
    machine = Machine()
    clock = machine.start(mark=NOON)
    clock.now()
    machine.wall += DAY * 30
    clock.now()
    machine.passes(HOUR * 23)
    machine.wall += DAY * 30
    clock.now()
    machine.passes(HOUR * 2)
    assert JUMPED == clock.now().state


def test_accept_believes_a_jump_now() -> None:
    machine = Machine()
    clock = machine.start(mark=NOON)
    clock.now()
    machine.wall += DAY * 30
    clock.now()
    assert OK == clock.accept().state
    assert NOON + DAY * 30 == clock.mark


def test_accept_never_turns_time_back() -> None:
    machine = Machine()
    clock = machine.start(mark=NOON + DAY)
    assert BEHIND == clock.accept().state
    assert NOON + DAY == clock.mark


def test_a_bundles_issue_time_shows_that_a_dead_battery_is_wrong() -> None:
    machine = Machine(datetime(1970, 1, 1, tzinfo=UTC))
    clock = machine.start()
    assert OK == clock.now().state
    clock.raise_to(NOON)
    assert (NOON, BEHIND) == (clock.now().wall, clock.now().state)
    machine.wall = NOON + HOUR
    assert OK == clock.now().state


def test_a_bundles_issue_time_explains_a_jump() -> None:
    machine = Machine()
    clock = machine.start(mark=NOON - DAY * 1000)
    assert JUMPED == clock.now().state
    clock.raise_to(NOON - HOUR)
    assert OK == clock.now().state


def test_an_old_bundles_issue_time_changes_nothing() -> None:
    clock = Machine().start(mark=NOON)
    clock.raise_to(NOON - DAY)
    assert NOON == clock.mark


def test_only_the_vendor_lowers_a_wrong_mark_and_the_bundle_may_have_travelled_for_days() -> None:
    machine = Machine()
    clock = machine.start(mark=NOON + DAY * 3650)
    assert BEHIND == clock.now().state
    clock.reset(NOON - DAY * 12)
    assert Now(wall=NOON, strict=NOON, elapsed=machine.elapsed) == clock.now()


def test_the_machines_own_sources_are_aware_and_go_forward() -> None:
    assert timedelta(0) == system_wall().utcoffset()
    assert 0 < system_elapsed() <= system_elapsed()


spans = st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=3))
turns = st.one_of(st.just(timedelta(0)), st.timedeltas(min_value=-DAY * 800, max_value=DAY * 800))
deeds = st.sampled_from(["nothing", "accept", "restart", "raise"])


@given(st.lists(st.tuples(spans, turns, deeds), max_size=30))
def test_whatever_happens_guarded_time_never_goes_back_and_strict_is_never_earlier(
    story: list[tuple[timedelta, timedelta, str]],
) -> None:
    machine = Machine()
    clock = machine.start(mark=NOON)
    last = clock.now().wall
    for passed, turned, deed in story:
        machine.passes(passed)
        machine.wall += turned
        if deed == "accept":
            clock.accept()
        elif deed == "restart":
            clock = machine.start(mark=clock.mark)
        elif deed == "raise":
            clock.raise_to(machine.wall)
        now = clock.now()
        assert last <= now.wall == clock.mark
        assert max(now.wall, machine.wall) == now.strict
        assert (now.state is BEHIND) == (now.behind_seconds > 0)
        last = now.wall


@given(st.lists(st.tuples(spans, turns), max_size=20))
def test_whatever_happens_a_right_clock_heals_within_a_day(story: list[tuple[timedelta, timedelta]]) -> None:
    """Turned, left alone, turned again: unless the mark itself was led astray, the right time ends every refusal."""
    machine = Machine()
    clock = machine.start(mark=NOON)
    truth = NOON
    for passed, turned in story:
        machine.passes(passed)
        truth += passed
        machine.wall = truth + turned
        clock.now()
    machine.wall = truth
    clock.now()
    machine.passes(DAY)
    now = clock.now()
    assert now.state is OK or now.wall > machine.wall


def test_a_reset_that_was_not_written_leaves_no_trace() -> None:
    machine = Machine()
    clock, witness = (machine.start(mark=NOON + DAY * 100) for _ in range(2))
    for one in (clock, witness):
        one.now()
    before = clock.snapshot()
    clock.reset(NOON - DAY)
    machine.passes(MINUTE)
    assert OK == clock.now().state
    clock.restore(before)
    machine.passes(HOUR)
    assert witness.now() == clock.now()
