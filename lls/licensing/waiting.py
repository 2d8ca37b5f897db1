"""Who waits for a seat, and in which order.

Rules (design §2, *Waiting*; decision 0005)
1. One queue per product, the highest priority of the site's policy first, within a priority the order of first asking.
   A waiter keeps its place from its first request on; asking again under the id reopens it.
2. Only an *open* waiter (its request is still connected) is seated, and only an open waiter holds others up.
3. A waiter whose request ended keeps its place, skipped, for ten seconds.
4. Waiters take no place in the writer's queue, are never stored and do not survive a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Final

from lls.licensing.instant import Now
from lls.licensing.lease import Checkout

PLACE_KEPT_SECONDS: Final = 10.0


@dataclass(slots=True, kw_only=True)
class Waiter:
    """A request for a seat that stands in the queue; ``closed_at`` (boot-time) is None while its request is open."""

    checkout: Checkout
    since: Now
    number: int
    """In the order of first asking."""
    priority: int = 0
    closed_at: float | None = None
    wants: frozenset[str] = frozenset()
    judged: tuple[float, int, int] | None = None
    """When, and under which terms, ``wants`` was found: the entitlements in which it could ever be seated."""

    @property
    def open(self) -> bool:
        """Whether somebody listens for the answer."""
        return self.closed_at is None


class Waiting:
    """The queues of all products."""

    def __init__(self) -> None:
        self._queues: dict[str, dict[str, Waiter]] = {}
        self._product_of: dict[str, str] = {}
        self._numbers = count()

    def enter(self, checkout: Checkout, *, now: Now, priority: int = 0) -> Waiter:
        """Take a place behind all of at least that priority, or open the kept one again."""
        waiter = self.get(checkout.lease_id)
        if waiter is None:
            waiter = Waiter(checkout=checkout, since=now, number=next(self._numbers), priority=priority)
            queue = self._queues.setdefault(checkout.product, {})
            last = next(reversed(queue.values()), waiter)
            queue[checkout.lease_id] = waiter
            self._product_of[checkout.lease_id] = checkout.product
            if last.priority < priority:
                self._sort(checkout.product)
        elif waiter.priority != priority:
            waiter.priority = priority
            self._sort(checkout.product)
        waiter.checkout, waiter.closed_at = checkout, None  # the same wish under a newer nonce
        return waiter

    def reorder(self, priority_of: Callable[[Checkout], int]) -> None:
        """Other priorities are in force: each takes the place that it would have had under them."""
        for product, queue in self._queues.items():
            moved = False
            for waiter in queue.values():
                priority = priority_of(waiter.checkout)
                moved = moved or priority != waiter.priority
                waiter.priority = priority
            if moved:
                self._sort(product)

    def get(self, lease_id: str) -> Waiter | None:
        """The waiter of that lease id."""
        product = self._product_of.get(lease_id)
        return self._queues[product].get(lease_id) if product is not None else None

    def leave(self, lease_id: str) -> Waiter | None:
        """Give the place up."""
        product = self._product_of.pop(lease_id, None)
        if product is None:
            return None
        waiter = self._queues[product].pop(lease_id)
        if not self._queues[product]:
            del self._queues[product]
        return waiter

    def take_back(self, waiter: Waiter, *, elapsed: float) -> None:
        """Whoever left was not served after all: its old place, kept as if its request had just ended."""
        waiter.closed_at = elapsed
        self._queues.setdefault(waiter.checkout.product, {})[waiter.checkout.lease_id] = waiter
        self._product_of[waiter.checkout.lease_id] = waiter.checkout.product
        self._sort(waiter.checkout.product)

    def close(self, lease_id: str, *, elapsed: float) -> None:
        """Nobody listens any more; the place is kept for a while."""
        waiter = self.get(lease_id)
        if waiter is not None and waiter.closed_at is None:
            waiter.closed_at = elapsed

    def drop_stale(self, elapsed: float) -> None:
        """Forget the places whose keeping time is over."""
        stale = [
            lease_id
            for queue in self._queues.values()
            for lease_id, waiter in queue.items()
            if waiter.closed_at is not None and elapsed >= waiter.closed_at + PLACE_KEPT_SECONDS
        ]
        for lease_id in stale:
            self.leave(lease_id)

    def queue(self, product: str) -> Iterator[Waiter]:
        """The product's waiters in order; safe against leaving while it is walked."""
        return iter(list(self._queues.get(product, {}).values()))

    def position(self, lease_id: str) -> int | None:
        """1 for the first in its queue."""
        product = self._product_of.get(lease_id)
        return None if product is None else list(self._queues[product]).index(lease_id) + 1

    def length(self, product: str) -> int:
        """How many wait for this product, kept places included."""
        return len(self._queues.get(product, ()))

    def products(self) -> list[str]:
        """The products that somebody waits for."""
        return list(self._queues)

    def __iter__(self) -> Iterator[Waiter]:
        """All waiters, product by product, each in order."""
        return iter([waiter for queue in self._queues.values() for waiter in queue.values()])

    def _sort(self, product: str) -> None:
        waiters = sorted(self._queues[product].values(), key=lambda one: (-one.priority, one.number))
        self._queues[product] = {waiter.checkout.lease_id: waiter for waiter in waiters}
