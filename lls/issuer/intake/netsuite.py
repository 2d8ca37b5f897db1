"""NetSuite's order files: the CSV of a saved search over sales orders, or the JSON records of its REST service.

Rules
1. In CSV the names are those of a saved search's columns (``Document Number``, ``Item``). Rows without an item (the
   main line, taxes) sell nothing and are passed over.
2. In JSON each record is a sales order whose sublist ``item`` was expanded.
3. The account reference is ``custbody_lls_account_ref`` or a column ``Account Ref`` or ``Customer ID``, else the
   customer's internal id; the product is the item's name. ``custbody_lls_server_id`` names the server,
   ``custcol_lls_action`` and ``custcol_lls_entitlement_id`` what a line does to what.
4. Orders that wait for approval, were cancelled or closed are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from lls.issuer.intake.order_files import Layout, adapter, flattened
from lls.licensing.fields import malformed

_NOT_RELEASED: Final = ("pending approval", "cancelled", "canceled", "closed", "a", "c", "h")
_ITEM: Final = ("line.item.refname", "line.item", "line.item.id", "item", "item name")


def _flat(document: Any) -> Iterator[dict[str, Any]]:
    records = document.get("items", [document]) if isinstance(document, dict) else document
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise malformed("items", "must be an array of sales orders")
    if isinstance(document, dict) and document.get("hasMore") is True:
        raise malformed("hasMore", "says that there are more records; export all of them")
    for record in records:
        sublist = record.get("item")
        listed = sublist.get("items") if isinstance(sublist, dict) else sublist
        if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
            raise malformed("item", "must hold the lines of the order (expandSubResources=true)")
        order = flattened(record, but=("item", "links"))
        for item in listed:
            yield {**order, **flattened(item, prefix="line.", but=("links",))}


LAYOUT: Final = Layout(
    source="netsuite",
    about="NetSuite's order files",
    names={
        "order_ref": ("tranid", "document number", "order number"),
        "account_ref": (
            "custbody_lls_account_ref", "account ref", "customer id", "entity.id", "customer internal id",
        ),
        "customer": ("entity.refname", "name", "customer", "customer name"),
        "server_id": ("custbody_lls_server_id", "lls server id"),
        "line": ("line.line", "line id", "line"),
        "sku": _ITEM,
        "quantity": ("line.quantity", "quantity"),
        "action": ("line.custcol_lls_action", "custcol_lls_action", "lls action"),
        "entitlement_id": (
            "line.custcol_lls_entitlement_id", "custcol_lls_entitlement_id", "lls entitlement id",
        ),
        "status": ("orderstatus.id", "orderstatus", "status.refname", "status"),
    },
    flat=_flat,
    released=lambda status: status.casefold() not in _NOT_RELEASED,
    unsold=lambda row: all(row.get(name) in (None, "") for name in _ITEM),
)  # fmt: skip

ADAPTER: Final = adapter(LAYOUT)
