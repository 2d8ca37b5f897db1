"""``lls-issuer server``: license servers at the customers' sites."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lls.issuer.cli.frame import AsJson, cell, group, now, open_issuer, plain, print_json, say, show
from lls.issuer.files import read_bounded
from lls.issuer.office import Issuer
from lls.issuer.register import Server, Sold
from lls.licensing.fields import write_instant
from lls.signed.jose import MOST_TOKEN

noun = group("License servers at the customers' sites.")


class Binding(StrEnum):
    """What a server is bound to."""

    KEY_ONLY = "key_only"
    HOST = "host"


@noun.command("register")
def server_register(
    ctx: typer.Context,
    request: Annotated[Path, typer.Argument(help="Activation request (.llsreq).")],
    customer: Annotated[
        str | None, typer.Option("--customer", help="Account reference; else the first order settles whose it is.")
    ] = None,
    binding: Annotated[
        Binding | None, typer.Option("--binding", help="Bind to its key alone, or to its machine too.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take an activation request in, or a newer one of the same server."""
    data = read_bounded(request, what="activation request", most=MOST_TOKEN)
    with open_issuer(ctx) as issuer:
        server = issuer.register_server(data, customer=customer, binding=binding, now=now())
        document = _server_document(server, issuer)
    if as_json:
        print_json(document)
        return
    say(
        f"Registered {server.name}: {server.server_id} "
        f"(version {server.version}, journal at line {server.journal_seq})."
    )
    say(f"Compare its key with the site, over the telephone: {document['fingerprint']}")


@noun.command("list")
def server_list(ctx: typer.Context, as_json: AsJson = False) -> None:
    """All license servers."""
    with open_issuer(ctx) as issuer:
        servers = [_server_document(server, issuer) for server in issuer.register.servers()]
    columns = (
        "server_id",
        "name",
        "account_ref",
        "version",
        "binding",
        "keys_version",
        "bundle_sequence",
        "request_made_at",
        "retired_at",
    )
    show("servers", servers, as_json, columns, ([cell(each[column]) for column in columns] for each in servers))


def _server_document(server: Server, issuer: Issuer) -> dict[str, Any]:
    owner = issuer.customer(server.customer_id).account_ref if server.customer_id else None
    return {
        **{key: value for key, value in plain(server).items() if not key.endswith("_jwk") and key != "certificate"},
        "account_ref": owner,
        "fingerprint": server.fingerprint,
    }


@noun.command("retire")
def server_retire(
    ctx: typer.Context,
    server_id: Annotated[str, typer.Argument(help="lls_…")],
    lost: Annotated[bool, typer.Option("--lost", help="It is gone for good, with all that it hosts.")] = False,
    confirm: Annotated[str | None, typer.Option("--confirm", help="With --lost: the server's name.")] = None,
    as_json: AsJson = False,
) -> None:
    """Issue nothing to a server any more; with --lost, let others host what it hosted."""
    with open_issuer(ctx) as issuer:
        retired = issuer.hosting.retire(server_id, lost=lost, confirm=confirm, now=now())
        document = _server_document(retired.server, issuer)
    if as_json:
        free = [
            {"entitlement_id": sold.entitlement_id, "free_from": sold.free_from and write_instant(sold.free_from)}
            for sold in retired.freed
        ]
        print_json(document | {"already_retired": retired.again, "freed": free})
        return
    if retired.again:
        say(f"{server_id} was retired on {retired.server.retired_at:%Y-%m-%d}; nothing changed.")
        return
    say(f"{server_id} is retired: no bundle is issued to it any more, and its certificate is never renewed.")
    for sold in retired.freed:
        say(f"{sold.entitlement_id} {_free_from(sold)}: lls-issuer entitlement host {sold.entitlement_id} --server ID")


def _free_from(sold: Sold) -> str:
    if sold.free_from is None:
        return "can be hosted by another server at once"
    return (
        f"may have borrowed seats until {write_instant(sold.free_from)}, the longest that any could be borrowed for; "
        "from then on another server can host it"
    )
