"""All pools of a server: by entitlement, and by the product that is asked for."""

from __future__ import annotations

from collections.abc import Mapping

from lls.licensing.entitlement import Entitlement
from lls.licensing.policy import Policy
from lls.licensing.seating import Pool


class Pools(dict[str, Pool]):
    """The pools by entitlement id. A pool enters and leaves through the methods, so that both views agree."""

    def __init__(self) -> None:
        super().__init__()
        self._products: dict[str, list[Pool]] = {}
        self.policy = Policy()

    @property
    def products(self) -> Mapping[str, list[Pool]]:
        """The pools of each product that has any."""
        return self._products

    def of(self, product: str) -> list[Pool]:
        """The pools of one product."""
        return self._products.get(product, [])

    def open(self, entitlement: Entitlement) -> Pool:
        """A new pool."""
        pool = self[entitlement.entitlement_id] = Pool(entitlement)
        self._list(pool)
        return pool

    def change(self, pool: Pool, entitlement: Entitlement) -> None:
        """Other terms, perhaps of another product; whoever sits there stays."""
        self._unlist(pool)
        pool.change(entitlement)
        self._list(pool)

    def govern(self, policy: Policy) -> None:
        """Put other rules of the site in force."""
        self.policy = policy

    def drop(self, pool: Pool) -> None:
        """An entitlement went back to the vendor."""
        del self[pool.entitlement.entitlement_id]
        self._unlist(pool)

    def take_back(self, pool: Pool) -> None:
        """The commit that dropped it has failed."""
        self[pool.entitlement.entitlement_id] = pool
        self._list(pool)

    def put_back(self, entitlement_id: str, before: Entitlement | None) -> None:
        """The terms of the last commit again, seats as they are; ``None``: there was no such pool."""
        pool = self[entitlement_id]
        self._unlist(pool)
        if before is None:
            del self[entitlement_id]
        else:
            pool.entitlement = before
            self._list(pool)

    def _list(self, pool: Pool) -> None:
        self._products.setdefault(pool.entitlement.product, []).append(pool)

    def _unlist(self, pool: Pool) -> None:
        pools = self._products[pool.entitlement.product]
        pools.remove(pool)
        if not pools:
            del self._products[pool.entitlement.product]
