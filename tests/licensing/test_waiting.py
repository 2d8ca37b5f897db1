"""Places in the queue: by priority, then first come, first served, and kept for ten seconds."""

from __future__ import annotations

from lls.licensing.lease import Checkout
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


def order(waiting: Waiting) -> list[str]:
    return [waiter.checkout.lease_id for waiter in waiting.queue("cad")]


def test_a_higher_priority_stands_before_all_lower_ones_and_behind_its_equals() -> None:
    waiting = Waiting()
    for name, priority in (("a", 0), ("b", 10), ("c", 0), ("d", 10), ("e", -5), ("f", 0), ("g", 100)):
        waiting.enter(checkout(name), now=at(), priority=priority)
    assert ["g", "b", "d", "a", "c", "f", "e"] == order(waiting)
    assert 4 == waiting.position("a")


def test_other_priorities_order_by_first_asking_again() -> None:
    waiting = Waiting()
    for name, priority in (("a", 0), ("b", 10), ("c", 5), ("d", 10)):
        waiting.enter(checkout(name), now=at(), priority=priority)

    def prefers_c(wish: Checkout) -> int:
        return 1 if wish.lease_id == "c" else 0

    waiting.reorder(prefers_c)
    assert ["c", "a", "b", "d"] == order(waiting)
    waiting.reorder(lambda _wish: 0)
    assert ["a", "b", "c", "d"] == order(waiting)


def test_asking_again_with_another_priority_moves_to_its_place_by_first_asking() -> None:
    waiting = queue("a", "b", "c")
    waiting.enter(checkout("b"), now=at(1), priority=3)
    assert ["b", "a", "c"] == order(waiting)
    waiting.enter(checkout("b"), now=at(2))
    assert ["a", "b", "c"] == order(waiting)


def test_reordering_leaves_other_products_and_closed_places_alone() -> None:
    waiting = queue("a", "b")
    waiting.enter(checkout("z", product="cam"), now=at(), priority=7)
    waiting.close("a", elapsed=5.0)
    waiting.reorder(lambda wish: 7 if wish.product == "cam" else 0)
    assert [["a", "b"], ["z"]] == [
        [waiter.checkout.lease_id for waiter in waiting.queue(product)] for product in ("cad", "cam")
    ]
    assert [False, True] == [waiter.open for waiter in waiting.queue("cad")]
