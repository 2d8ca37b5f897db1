"""``lls-issuer order``: orders in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lls.issuer.cli.entitlement import entitlement_table, sold_document
from lls.issuer.cli.frame import AsJson, group, now, open_issuer, plain, print_json, say, stdout
from lls.issuer.files import read_bounded
from lls.issuer.office import Fulfilled
from lls.issuer.orders import LARGEST_ORDER_BYTES

noun = group("Orders.")


@noun.command("fulfil")
def order_fulfil(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="JSON: an order, or a list of orders.")],
    as_json: AsJson = False,
) -> None:
    """Fulfil orders, all or none; an order fulfilled before changes nothing."""
    data = read_bounded(file, what="order", most=LARGEST_ORDER_BYTES)
    with open_issuer(ctx) as issuer:
        fulfilled = issuer.fulfil(data, now=now())
    if as_json:
        print_json({"orders": [_fulfilled_document(each) for each in fulfilled]})
        return
    for each in fulfilled:
        say(
            f"{each.order_ref}: for {each.customer.name}, "
            f"{'fulfilled before: nothing changed' if each.again else 'fulfilled'}."
        )
        stdout.print(entitlement_table(each.entitlements))
    for server_id in sorted({each.server_id for each in fulfilled}):
        say(f"Next: lls-issuer bundle issue --server {server_id} -o FILE")


def _fulfilled_document(fulfilled: Fulfilled) -> dict[str, Any]:
    return {
        "order_ref": fulfilled.order_ref,
        "already_fulfilled": fulfilled.again,
        "server_id": fulfilled.server_id,
        "customer": plain(fulfilled.customer),
        "entitlements": [sold_document(sold) for sold in fulfilled.entitlements],
    }
