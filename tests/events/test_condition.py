"""What is news: a table of looks, and what each of them tells."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from lls.events.condition import Condition, Standing, compare

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
BREATH = timedelta(minutes=10)


def holds(kind: str, key: str = "", level: int = 1, lasts: timedelta = timedelta(0)) -> Condition:
    return Condition(type=kind, key=key, level=level, lasts=lasts, text=f"{kind} {key} {level}")


class Listener:
    """Who hears of every change, and nothing else."""

    def __init__(self) -> None:
        self.standing: tuple[Standing, ...] = ()

    def hears(self, *conditions: Condition, after: timedelta = timedelta(0)) -> list[str]:
        change = compare(self.standing, conditions, now=NOW + after)
        self.standing = change.standing
        raised = [f"+{one.type}{one.key}{one.level}" for one in change.raised]
        return raised + [f"-{one.type}{one.key}" for one in change.cleared]


@pytest.mark.parametrize(
    ("looks", "heard"),
    [
        ([[holds("a")], [holds("a")]], [["+a1"], []]),
        ([[holds("a")], []], [["+a1"], ["-a"]]),
        ([[holds("a")], [], [holds("a")]], [["+a1"], ["-a"], ["+a1"]]),
        ([[holds("a")], [holds("a", level=2)]], [["+a1"], ["+a2"]]),
        ([[holds("a", level=2)], [holds("a")], [holds("a", level=2)]], [["+a2"], [], ["+a2"]]),
        ([[holds("a", "x"), holds("a", "y")], [holds("a", "y")]], [["+ax1", "+ay1"], ["-ax"]]),
        ([[holds("a"), holds("a", level=3), holds("a", level=2)]], [["+a3"]]),
    ],
    ids=["once", "over", "again", "worse", "better and worse", "two of a kind", "the worst counts"],
)
def test_nobody_is_told_what_has_not_changed(looks: list[list[Condition]], heard: list[list[str]]) -> None:
    listener = Listener()
    assert heard == [listener.hears(*look) for look in looks]


def test_what_comes_and_goes_within_its_breath_is_told_once() -> None:
    listener, full = Listener(), holds("full", lasts=BREATH)
    assert ["+full1"] == listener.hears(full)
    for minute in range(1, 9, 2):
        assert [] == listener.hears(after=timedelta(minutes=minute))
        assert [] == listener.hears(full, after=timedelta(minutes=minute + 1))
    assert [] == listener.hears(after=timedelta(minutes=10))
    assert [] == listener.hears(after=timedelta(minutes=19, seconds=59))
    assert ["-full"] == listener.hears(after=timedelta(minutes=20))


def test_what_was_gone_for_a_moment_and_comes_back_worse_is_told() -> None:
    listener = Listener()
    listener.hears(holds("full", lasts=BREATH))
    listener.hears(after=timedelta(minutes=1))
    assert ["+full2"] == listener.hears(holds("full", level=2, lasts=BREATH), after=timedelta(minutes=2))


def test_who_takes_and_returns_the_last_seat_again_and_again_is_told_of_once() -> None:
    listener, most, all_ = Listener(), holds("full", lasts=BREATH), holds("full", level=2, lasts=BREATH)
    assert ["+full2"] == listener.hears(all_)
    for minute in range(1, 9, 2):
        assert [] == listener.hears(most, after=timedelta(minutes=minute))
        assert [] == listener.hears(all_, after=timedelta(minutes=minute + 1))
    assert [] == listener.hears(most, after=timedelta(minutes=10))
    assert [] == listener.hears(most, after=timedelta(minutes=20))
    assert ["+full2"] == listener.hears(all_, after=timedelta(minutes=21))
