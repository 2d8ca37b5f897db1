"""Places in the queue: first come, first served, and kept for ten seconds."""

from __future__ import annotations

from lls.licensing.waiting import Waiting
from tests.ledgers import at, checkout


def queue(*names: str) -> Waiting:
    waiting = Waiting()
    for name in names:
        waiting.enter(checkout(name), now=at())
    return waiting


def test_asking_again_keeps_the_place() -> None:
    waiting = queue("a", "b", "c")
    waiting.close("a", elapsed=1.0)
    waiting.enter(checkout("a"), now=at(5))
    assert [1, 2, 3] == [waiting.position(name) for name in ("a", "b", "c")]
    assert all(waiter.open for waiter in waiting)


def test_a_closed_place_is_kept_for_ten_seconds() -> None:
    waiting = queue("a", "b")
    waiting.close("a", elapsed=100.0)
    waiting.close("a", elapsed=105.0)
    waiting.drop_stale(109.9)
    assert 2 == waiting.length("cad")
    waiting.drop_stale(110.0)
    assert ["b"] == [waiter.checkout.lease_id for waiter in waiting.queue("cad")]
    assert 1 == waiting.position("b")


def test_who_leaves_is_gone_everywhere() -> None:
    waiting = queue("a")
    waiting.leave("a")
    assert waiting.leave("a") is None
    assert waiting.get("a") is None
    assert waiting.position("a") is None
    assert [] == waiting.products()
