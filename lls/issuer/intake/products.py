"""What a source's products are called here: ``[skus]`` of the settings, else the catalogue itself.

Rules
1. What ``[skus]`` names is meant; what it does not name must be a SKU of the catalogue. Anything else is refused with
   its name, so that nothing that was paid for is passed over.
2. A product that is mapped to nothing sells no licence: its lines are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lls.issuer.catalog import Action
from lls.issuer.intake.facts import Document, Item
from lls.issuer.intake.settings import Sale
from lls.issuer.office import Issuer
from lls.issuer.refusals import IntakeRefused


class Products:
    """The products of all sources, as the settings and the catalogue in force have them."""

    def __init__(self, issuer: Issuer, skus: Mapping[str, Sale]) -> None:
        self._issuer, self._skus = issuer, skus

    def sale(self, product: str) -> Sale:
        """What a product is called here. Raises IntakeRefused for one that nobody has named."""
        sale = self._skus.get(product)
        if sale is not None:
            return sale
        if product in self._issuer.catalog().offerings:
            return Sale(sku=product)
        raise IntakeRefused(
            f"The product {product!r} is neither in [skus] of the intake's configuration nor a SKU of the catalogue. "
            "Add it there, and try again (lls-issuer serve reads its configuration when it starts)."
        )

    def subscribed(self, items: Iterable[Item]) -> list[tuple[Item, Sale]]:
        """The items of a subscription that sell a licence, each with what it is called here."""
        found = [(item, self.sale(item.product)) for item in items]
        for item, sale in found:
            if sale.action not in (None, Action.NEW):
                raise IntakeRefused(
                    f"The product {item.product!r} is for {sale.action} in [skus], but stands in a subscription, where "
                    "only something new can stand, that is renewed with it."
                )
        return [(item, sale) for item, sale in found if sale.sku]

    def sku_of(self, sku: str, action: Action) -> str:
        """The SKU of a line that does this to what was sold under ``sku``."""
        return next((sale.sku_of(action) for sale in self._skus.values() if sale.sku == sku), sku)

    def order(self, order: Document) -> dict[str, Any]:
        """An order whose SKUs are products, with ours."""
        return {**order, "lines": [line for one in order["lines"] for line in self._line(one)]}

    def _line(self, line: Mapping[str, Any]) -> list[dict[str, Any]]:
        sale = self.sale(line["sku"])
        if not sale.sku:
            return []
        said = line.get("action") or (sale.action and sale.action.value) or self._usual(sale.sku)
        sku = sale.sku_of(Action(said)) if isinstance(said, str) and said in set(Action) else sale.sku
        return [{**line, "sku": sku, **({"action": said} if said else {})}]

    def _usual(self, sku: str) -> str | None:
        """Who buys what can be sold new, means that; other SKUs say themselves what they do."""
        offering = self._issuer.catalog().offerings.get(sku)
        return Action.NEW.value if offering is not None and Action.NEW in offering.actions else None
