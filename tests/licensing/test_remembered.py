"""Ended ids are kept long enough, forgotten in bounded turns, and a clock that was set back blocks nothing."""

from __future__ import annotations

from datetime import timedelta

import pytest

from lls.faults import LeaseEnd
from lls.licensing.changes import Ended
from lls.licensing.remembered import ENDED_KEPT, FORGETTING_SECONDS, MOST_FORGOTTEN, Remembered
from tests.ledgers import T0, at

DAY = 86_400
KEPT = int(ENDED_KEPT.total_seconds())


def ended(seconds: float) -> Ended:
    return Ended(secret=b"", reason=LeaseEnd.CHECKED_IN, at=at(seconds).wall)


def test_an_end_in_the_future_is_kept_as_one_of_now_and_blocks_nothing() -> None:
    kept = Remembered({"future": ended(1_000 * DAY)})
    kept.end("past", ended(0))
    kept.forget(at(10))
    assert kept.ended("future") is not None
    assert at(KEPT + 10).wall - ENDED_KEPT == kept.forget(at(KEPT + 10))
    assert (None, True) == (kept.ended("past"), kept.ended("future") is not None)
    kept.forget(at(KEPT + 100))
    assert kept.ended("future") is None


def test_a_turn_forgets_no_more_than_so_many_and_the_next_goes_on() -> None:
    kept = Remembered({f"lease-{n}": ended(n / 1_000) for n in range(MOST_FORGOTTEN + 5)})
    assert T0 + timedelta(milliseconds=MOST_FORGOTTEN) == kept.forget(at(KEPT + DAY))
    assert kept.ended(f"lease-{MOST_FORGOTTEN}") is not None
    assert at(DAY + 1).wall == kept.forget(at(KEPT + DAY + 1))
    assert kept.ended(f"lease-{MOST_FORGOTTEN + 4}") is None


@pytest.mark.parametrize(("later", "forgotten"), [(FORGETTING_SECONDS - 1, False), (FORGETTING_SECONDS, True)])
def test_there_is_a_turn_a_minute(later: float, forgotten: bool) -> None:
    kept = Remembered({"a": ended(1)})
    assert kept.forget(at(KEPT)) is None
    kept.forget(at(KEPT + later))
    assert forgotten == (kept.ended("a") is None)
