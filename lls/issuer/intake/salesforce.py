"""Salesforce's order files: a report of order products or a Data Loader export (CSV), or the answer to a query (JSON).

Rules
1. In CSV the names are a report's labels (``Order Number``) or the fields of a query (``ORDER.ORDERNUMBER``). In JSON
   each record is an Order with its OrderItems, or an OrderItem with its Order.
2. The account reference is the account's number, the product its code. Fields of the vendor's own may say what only the
   vendor knows: ``LLS_Account_Ref__c`` and ``LLS_Server_Id__c`` of the order, ``LLS_Action__c`` and
   ``LLS_Entitlement_Id__c`` of its product.
3. Only activated orders are fulfilled; where a file says nothing of the status, all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from lls.issuer.intake.order_files import Layout, adapter, flattened
from lls.licensing.fields import malformed


def _flat(document: Any) -> Iterator[dict[str, Any]]:
    records = document.get("records", [document]) if isinstance(document, dict) else document
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise malformed("records", "must be an array of Order or OrderItem objects")
    if isinstance(document, dict) and document.get("done") is False:
        raise malformed("done", "says that there are more records; export all of them")
    for record in records:
        items = record.get("OrderItems")
        if items is None:
            yield flattened(record, but=("attributes",))
            continue
        listed = items.get("records") if isinstance(items, dict) else items
        if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
            raise malformed("OrderItems", "must be an array of OrderItem objects")
        order = flattened(record, prefix="order.", but=("attributes", "OrderItems"))
        for item in listed:
            yield {**order, **flattened(item, but=("attributes", "Order"))}


LAYOUT: Final = Layout(
    source="salesforce",
    about="Salesforce's order files",
    names={
        "order_ref": ("order.ordernumber", "ordernumber", "order number"),
        "account_ref": (
            "order.lls_account_ref__c", "lls_account_ref__c", "order.account.accountnumber", "account.accountnumber",
            "account number", "order.accountid", "accountid", "account id",
        ),
        "customer": ("order.account.name", "account.name", "account name"),
        "server_id": ("order.lls_server_id__c", "lls_server_id__c", "lls server id"),
        "line": ("orderitemnumber", "order product number", "linenumber", "line number"),
        "sku": ("product2.productcode", "productcode", "product code", "product2.stockkeepingunit", "product sku"),
        "quantity": ("quantity",),
        "action": ("lls_action__c", "lls action"),
        "entitlement_id": ("lls_entitlement_id__c", "lls entitlement id"),
        "status": ("order.status", "order status", "status"),
    },
    flat=_flat,
    released=lambda status: status.casefold() in ("", "activated"),
    unsold=lambda _row: False,
)  # fmt: skip

ADAPTER: Final = adapter(LAYOUT)
