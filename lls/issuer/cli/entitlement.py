"""``lls-issuer entitlement``: what was sold, where it is hosted, and what changes of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeAlias

import typer
from rich.table import Table

from lls.issuer.amending import Changed
from lls.issuer.catalog import Level
from lls.issuer.cli.frame import AsJson, group, now, open_issuer, overdraft_text, print_json, say, stdout
from lls.issuer.consumption import left_of
from lls.issuer.register import Sold
from lls.issuer.resolving import chains_in
from lls.licensing.fields import write_instant

noun = group("What was sold.")


@noun.command("list")
def entitlement_list(
    ctx: typer.Context,
    server: Annotated[str | None, typer.Option("--server", help="Only of this server.")] = None,
    customer: Annotated[str | None, typer.Option("--customer", help="Only of this account reference.")] = None,
    as_json: AsJson = False,
) -> None:
    """What was sold."""
    with open_issuer(ctx) as issuer:
        server_id = issuer.server(server).server_id if server else None
        customer_id = issuer.customer(customer).customer_id if customer else None
        sold = issuer.register.entitlements(server_id=server_id, customer_id=customer_id)
    if as_json:
        print_json({"entitlements": [_without_codes(sold_document(each)) for each in sold]})
    else:
        stdout.print(entitlement_table(sold, codes=False))


@noun.command("show")
def entitlement_show(
    ctx: typer.Context, entitlement_id: Annotated[str, typer.Argument(help="ent_…")], as_json: AsJson = False
) -> None:
    """One entitlement as its server gets it, activation codes included, and where each value comes from."""
    with open_issuer(ctx) as issuer:
        sold = issuer.entitlement(entitlement_id)
    if as_json:
        print_json({**sold_document(sold), "origins": sold.origins})
        return
    table = Table(show_header=False, title=entitlement_id)
    for key, value in sold_document(sold).items():
        table.add_row(key, value if isinstance(value, str) else json.dumps(value))
    stdout.print(table)
    stdout.print(_origin_table(sold))


def _origin_table(sold: Sold) -> Table:
    """Where each value comes from, and what it overrides."""
    version = sold.origins.get("catalog_version", "?")
    resale = ", not for resale" if sold.origins.get("not_for_resale") else ""
    table = Table("value", "is", "from", "overrides", title=f"Values, by version {version} of the catalogue{resale}")
    for path, chain in chains_in(sold.origins).items():
        (level, value), *lower = reversed(chain)
        overridden = ", ".join(f"{json.dumps(was)} ({who})" for who, was in lower if who is not Level.BUILT_IN)
        table.add_row(path, json.dumps(value), level, overridden or "-")
    return table


def sold_document(sold: Sold) -> dict[str, Any]:
    """As its server gets it, with where that is; ``carried`` is what earlier servers used up, and is taken off."""
    return {
        "server_id": sold.server_id,
        "free_from": None if sold.free_from is None else write_instant(sold.free_from),
        "customer_id": sold.customer_id,
        "line": sold.line,
        "carried": sold.carried,
        **left_of(sold.document, sold.carried),
    }


def _without_codes(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "activation_codes": len(document["activation_codes"])}


def _open_end(document: Mapping[str, Any]) -> str:
    term = document["plan"]["term"]
    return f"{term['count']} {term['unit']} later" if term and document["starts_at"] is None else "never"


def entitlement_table(sold: Iterable[Sold], *, codes: bool = True) -> Table:
    """One line each; with activation codes only where they are asked for."""
    table = Table(
        "entitlement",
        "order",
        "line",
        "SKU",
        "seats",
        "overdraft",
        "starts_at",
        "expires_at",
        "status",
        "server",
        title="Entitlements",
    )
    if codes:
        table.add_column("activation code")
    for each in sold:
        document: Mapping[str, Any] = each.document
        cells = [
            each.entitlement_id, each.order_ref, str(each.line), document["offering"]["sku"],
            "unlimited" if document["seats"] is None else str(document["seats"]), overdraft_text(document["overdraft"]),
            document["starts_at"] or "first lease", document["expires_at"] or _open_end(document), document["status"],
            each.server_id or "none",
        ]  # fmt: skip
        table.add_row(*cells, *(["\n".join(document["activation_codes"]) or "-"] if codes else []))
    return table


# -- changes ----------------------------------------------------------------------------------------------------------

Ref: TypeAlias = Annotated[
    str | None, typer.Option("--ref", help="Your own reference: the same again changes nothing.")
]
EntitlementId: TypeAlias = Annotated[str, typer.Argument(help="ent_…")]


@noun.command("disable")
def entitlement_disable(ctx: typer.Context, entitlement_id: EntitlementId, as_json: AsJson = False) -> None:
    """End its leases with the next bundle, until it is enabled again."""
    with open_issuer(ctx) as issuer:
        _show_switched(issuer.amending.disable(entitlement_id, now=now()), "disabled", as_json)


@noun.command("enable")
def entitlement_enable(ctx: typer.Context, entitlement_id: EntitlementId, as_json: AsJson = False) -> None:
    """Take a disabling back, with the next bundle."""
    with open_issuer(ctx) as issuer:
        _show_switched(issuer.amending.enable(entitlement_id, now=now()), "enabled", as_json)


def _show_switched(changed: Changed, what: str, as_json: bool) -> None:
    if as_json:
        print_json(changed_document(changed))
        return
    say(f"{changed.sold.entitlement_id} {'was' if changed.again else 'is'} {what}.")
    if not changed.again:
        next_step(changed.sold)


@noun.command("renew")
def entitlement_renew(
    ctx: typer.Context, entitlement_id: EntitlementId, ref: Ref = None, as_json: AsJson = False
) -> None:
    """Add a term of its plan: to its end, or from now where that and its grace have passed."""
    with open_issuer(ctx) as issuer:
        changed = issuer.amending.renew(entitlement_id, ref=ref, now=now())
    if as_json:
        print_json(changed_document(changed))
        return
    was = "was renewed before under that reference" if changed.again else "is renewed"
    until = changed.outcome["expires_at"] or f"maintenance, {changed.outcome['maintenance_expires_on']}"
    say(f"{entitlement_id} {was}: until {until}.")
    _say_resets(changed)
    next_step(changed.sold)


@noun.command("add-seats")
def entitlement_add_seats(  # noqa: PLR0917 - Typer makes options out of parameters
    ctx: typer.Context,
    entitlement_id: EntitlementId,
    seats: Annotated[int, typer.Option("--seats", help="So many more; below zero: so many fewer.")],
    named_user: Annotated[
        list[str] | None, typer.Option("--named-user", help="Somebody to name for a new seat; repeatable.")
    ] = None,
    ref: Ref = None,
    as_json: AsJson = False,
) -> None:
    """Add seats to it, or take some away; its dates stay."""
    with open_issuer(ctx) as issuer:
        changed = issuer.amending.add_seats(entitlement_id, seats, named_users=named_user or (), ref=ref, now=now())
    if as_json:
        print_json(changed_document(changed))
        return
    was = "had been changed before under that reference" if changed.again else "is changed"
    say(f"{entitlement_id} {was}: {changed.outcome['seats']} seats.")
    next_step(changed.sold)


@noun.command("upgrade")
def entitlement_upgrade(
    ctx: typer.Context,
    entitlement_id: EntitlementId,
    sku: Annotated[str, typer.Option("--sku", help="An offering with the action upgrade.")],
    ref: Ref = None,
    as_json: AsJson = False,
) -> None:
    """Bring it to another edition; what was overridden for it stays."""
    with open_issuer(ctx) as issuer:
        changed = issuer.upgrade(entitlement_id, sku=sku, ref=ref, now=now())
    if as_json:
        print_json(changed_document(changed))
        return
    was = "had been upgraded before under that reference" if changed.again else "is upgraded"
    say(f"{entitlement_id} {was}: edition {changed.outcome['edition']}, sold as {changed.outcome['sku']}.")
    next_step(changed.sold)


@noun.command("reset-usage")
def entitlement_reset_usage(
    ctx: typer.Context,
    entitlement_id: EntitlementId,
    feature: Annotated[str | None, typer.Option("--feature", help="Only this one; else all that is used up.")] = None,
    ref: Ref = None,
    as_json: AsJson = False,
) -> None:
    """Let its counters at the site begin anew, with the next bundle."""
    with open_issuer(ctx) as issuer:
        changed = issuer.amending.reset_usage(entitlement_id, feature=feature, ref=ref, now=now())
    if as_json:
        print_json(changed_document(changed))
        return
    _say_resets(changed)
    next_step(changed.sold)


def _say_resets(changed: Changed) -> None:
    ordered: Any = changed.outcome["command_ids"]
    if ordered:
        say(f"Counters begin anew, once: every bundle orders it until a report shows it done ({', '.join(ordered)}).")


@noun.command("host")
def entitlement_host(
    ctx: typer.Context,
    entitlement_id: EntitlementId,
    server: Annotated[str, typer.Option("--server", help="lls_…: another server of the same customer.")],
    as_json: AsJson = False,
) -> None:
    """Let a server host what was returned, or was on a server that is lost."""
    with open_issuer(ctx) as issuer:
        hosted = issuer.hosting.host(entitlement_id, server_id=server, now=now())
    for warning in hosted.warnings:
        say(f"Note: {warning}")
    if as_json:
        print_json(sold_document(hosted.sold) | {"already_hosted": hosted.again, "warnings": list(hosted.warnings)})
        return
    say(f"{entitlement_id} is hosted by {server}{' already; nothing changed' if hosted.again else ''}.")
    next_step(hosted.sold)


def changed_document(changed: Changed) -> dict[str, Any]:
    """A change for programs: the entitlement without its codes, ``already_done`` and what the change made."""
    return {
        "already_done": changed.again,
        **changed.outcome,
        "entitlement": _without_codes(sold_document(changed.sold)),
    }


def next_step(sold: Sold) -> None:
    """How a change reaches the site."""
    if sold.server_id is None:
        say(f"It is hosted nowhere: lls-issuer entitlement host {sold.entitlement_id} --server ID")
    else:
        say(f"Next: lls-issuer bundle issue --server {sold.server_id} -o FILE")
