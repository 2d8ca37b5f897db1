"""Another edition of an entitlement that was sold. Pure.

Rules
1. Values are resolved anew by the catalogue in force (``catalog.Level``): what built in, global, product and edition
   say is what they say now. What the entitlement itself overrode stays, and so does its plan.
2. What its offering said stays, too; unless the upgrade names the SKU that it becomes: then it is that offering's.
3. Grants stay with their features. A feature that the catalogue has no more stays as it was sold; one that is counted
   in another way now is refused, because nobody could say what its counter means.
4. Seats, people, machines, dates and codes stay.

It refuses to own the entitlement (``amending``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lls.issuer.catalog import Catalog, Chain, Level, Offering
from lls.issuer.refusals import Conflict
from lls.issuer.register import Json, Sold
from lls.issuer.resolving import chains_in, origins_of, ranked, values


def upgraded(sold: Sold, offering: Offering, catalog: Catalog, *, version: int) -> Sold:
    """The entitlement in the offering's edition. Raises Conflict."""
    document: Any = sold.document
    _check(document, offering)
    product = catalog.products[offering.product]
    becomes = catalog.offerings[offering.becomes] if offering.becomes else None
    fresh = catalog.chains(product, offering.edition, offering=becomes)
    kept = {Level.PLAN, Level.ENTITLEMENT} | (set() if becomes else {Level.OFFERING})
    chains = _joined(fresh, chains_in(sold.origins), kept)
    resolved: Any = values(chains, product)
    changed = {
        **document,
        **resolved,
        "sequence": document["sequence"] + 1,
        "edition": offering.edition,
        "features": _features(document, resolved["features"]),
        "attributes": [*resolved["attributes"], *_others(document["attributes"], resolved["attributes"])],
    }
    if becomes is not None:
        changed["offering"] = {"sku": becomes.sku, "name": becomes.name}
    mark = bool(sold.origins.get("not_for_resale"))
    return replace(sold, document=changed, origins=origins_of(chains, not_for_resale=mark, version=version))


def _check(document: Json, offering: Offering) -> None:
    key: Any = document["product"]
    edition = document["edition"]
    if key["key"] != offering.product:
        raise Conflict(
            f"The entitlement {document['entitlement_id']} is of {key['key']}, and {offering.sku} upgrades "
            f"{offering.product}."
        )
    if edition == offering.edition:
        raise Conflict(f"The entitlement {document['entitlement_id']} is {edition} already: nothing to upgrade.")
    if offering.upgrade_from and edition not in offering.upgrade_from:
        raise Conflict(
            f"The entitlement {document['entitlement_id']} is {edition or 'of no edition'}, and {offering.sku} "
            f"upgrades from {', '.join(offering.upgrade_from)}."
        )


def _joined(fresh: Mapping[str, Chain], sold: Mapping[str, Chain], kept: set[Level]) -> dict[str, Chain]:
    """What the levels above say now, and what the ``kept`` ones said when it was sold."""
    own = {path: [said for said in chain if said[0] in kept] for path, chain in sold.items()}
    above = {
        path: [said for said in chain if said[0] not in (Level.PLAN, Level.ENTITLEMENT)]
        for path, chain in fresh.items()
    }
    joined = {path: ranked([*above.get(path, []), *own.get(path, [])]) for path in {**above, **own}}
    return {path: chain for path, chain in joined.items() if chain}


def _features(document: Json, resolved: list[dict[str, Any]]) -> list[Mapping[str, Any]]:
    sold: Any = document["features"]
    before: dict[str, Any] = {one["key"]: one for one in sold}
    for one in resolved:
        was = before.get(one["key"])
        if was is not None and was["type"] != one["type"]:
            raise Conflict(
                f"The feature {one['key']} of {document['entitlement_id']} was sold as {was['type']}, and the "
                f"catalogue has it as {one['type']} now: its counter would mean "
                "something else. Sell a new entitlement instead."
            )
    carried = [
        {**one, "grants": before[one["key"]]["grants"]} if one["key"] in before and "grants" in one else one
        for one in resolved
    ]
    return [*carried, *_others(sold, resolved)]


def _others(sold: list[Mapping[str, Any]], resolved: list[dict[str, Any]]) -> list[Mapping[str, Any]]:
    known = {one["key"] for one in resolved}
    return [one for one in sold if one["key"] not in known]
