"""A client that asks a hundred times a second does not fill the journal, and is counted all the same."""

from __future__ import annotations

from lls.licensing.denials import MOST_HOLDERS, Folding
from lls.licensing.seating import Denial

FULL = Denial(code="no_seat", rule="seats", detail="full", product="cad")
ENDED = Denial(code="entitlement_expired", rule="dates", detail="ended", product="cad")


def test_the_first_is_posted_and_its_repeats_are_counted() -> None:
    folding = Folding()
    assert [True, False, False] == [folding.note(FULL, "ann", elapsed=float(n)) for n in range(3)]
    assert folding.note(ENDED, "ann", elapsed=3.0)
    assert folding.note(FULL, "bob", elapsed=3.0)
    assert not folding.over(59.9)
    assert folding.over(60.0)
    assert [("ann", 2)] == [(left.holder, left.count) for left in folding.take()]
    assert folding.note(FULL, "ann", elapsed=61.0)


def test_beyond_a_thousand_holders_one_line_counts_the_rest() -> None:
    folding = Folding()
    firsts = [folding.note(FULL, f"holder {n}", elapsed=0.0) for n in range(MOST_HOLDERS + 250)]
    assert MOST_HOLDERS == sum(firsts)
    assert not folding.note(FULL, "holder 0", elapsed=1.0)
    assert {(None, 250), ("holder 0", 1)} == {(left.holder, left.count) for left in folding.take()}


def test_a_first_denial_whose_commit_failed_is_a_first_again() -> None:
    folding = Folding()
    folding.note(FULL, "ann", elapsed=0.0)
    folding.forget(FULL, "ann")
    assert folding.note(FULL, "ann", elapsed=1.0)


def test_repeats_of_a_minute_whose_commit_failed_are_kept() -> None:
    folding = Folding()
    for _ in range(3):
        folding.note(FULL, "ann", elapsed=0.0)
    taken = list(folding.take())
    folding.restore(taken)
    assert [("ann", 2)] == [(left.holder, left.count) for left in folding.take()]
