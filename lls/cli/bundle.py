"""``lls bundle``: what the vendor sends. The daemon judges a bundle; here its judgement is read out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lls.cli import files, show
from lls.cli.admin import admin
from lls.cli.frame import AsJson, noun
from lls.cli.show import column

app = noun("bundle", "Bundles from the vendor: look, apply, history.")

_File = Annotated[Path, typer.Argument(metavar="FILE", help="The .llsbundle file from your vendor.")]


@app.command("show")
def show_command(ctx: typer.Context, file: _File, as_json: AsJson = False) -> None:
    """Verify a bundle and show what it would change. Nothing is changed."""
    answer = admin(ctx).upload("bundles", files.content(file), dry_run=1)
    if as_json:
        show.document(answer)
        return
    _read_out(answer)
    if answer.get("already_applied"):
        show.say("This very bundle is applied already; importing it again would change nothing.")
    else:
        show.say("Nothing was changed.")
        show.say(f"Next: lls bundle import {file}")


@app.command("import")
def import_command(ctx: typer.Context, file: _File, as_json: AsJson = False) -> None:
    """Verify a bundle and apply it, whole or not at all."""
    answer = admin(ctx).upload("bundles", files.content(file))
    if as_json:
        show.document(answer)
        return
    _read_out(answer)
    if answer.get("already_applied"):
        show.say("This very bundle was applied before; nothing was changed.")
        return
    show.say("The bundle is applied.")
    show.say("Next: lls entitlement list")


@app.command("list")
def list_command(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the bundles that were imported."""
    answer = admin(ctx).get("bundles")
    if as_json:
        show.document(answer)
        return
    show.table(
        answer.get("bundles", []),
        (
            column("BUNDLE", "bundle_id", whole=True),
            column("SEQUENCE", "sequence", number=True),
            column("IMPORTED", lambda row: show.instant(row.get("imported_at"))),
            column("ISSUED", lambda row: show.instant(row.get("issued_at"))),
            column("ENTITLEMENTS", "entitlements", number=True),
            column("STATE", "state"),
        ),
        empty="No bundle was imported yet. Next: lls server request -o FILE and send it to your vendor.",
    )


def _read_out(answer: Mapping[str, Any]) -> None:
    show.facts(_facts(answer))
    show.say()
    show.table(
        answer.get("entitlements", []),
        (
            column("ENTITLEMENT", "entitlement_id", whole=True),
            column("PRODUCT", "product"),
            column("EDITION", "edition"),
            column("SKU", "sku"),
            column("SEATS", _seats, number=True),
            column("CHANGE", _change),
        ),
        empty="The bundle names no entitlement.",
    )
    show.say()
    notes = [*_differences(answer), *(f"Warning: {warning}" for warning in answer.get("warnings", []))]
    for note in notes:
        show.say(note)
    if notes:
        show.say()


def _facts(answer: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    customer, receipt = answer.get("customer"), answer.get("receipt")
    yield "Bundle", f"{show.said(answer.get('bundle_id'))}, sequence {show.said(answer.get('sequence'))}"
    yield "For server", answer.get("server_id")
    yield "Customer", customer.get("name") if isinstance(customer, Mapping) else customer
    yield "Issued", show.instant(answer.get("issued_at"))
    yield "Import before", show.instant(answer.get("not_after"))
    if answer.get("keys_added"):
        yield "New key sets", ", ".join(f"version {version}" for version in answer["keys_added"])
    if isinstance(receipt, Mapping):
        yield "Receipt", f"for report {receipt.get('report_id')}, up to journal line {receipt.get('up_to_seq')}"
    if answer.get("adopted_upto") is not None:
        yield (
            "After the restore",
            f"the vendor has lines up to {answer['adopted_upto']}; what is used up is given again",
        )


def _differences(answer: Mapping[str, Any]) -> Iterator[str]:
    for one in answer.get("entitlements", []):
        name = show.said(one.get("entitlement_id"))
        for difference in one.get("differences") or []:
            old, new = _value(difference.get("old")), _value(difference.get("new"))
            yield f"{name}: {difference.get('field')}: {old} → {new}"
        if one.get("leases_ended"):
            yield f"{name}: ends {show.count(one['leases_ended'], 'lease')}."


def _value(value: object) -> str:
    if isinstance(value, list | dict):
        import json

        return json.dumps(value, ensure_ascii=False)
    return show.instant(value) if isinstance(value, str) and show.moment(value) else show.said(value)


def _seats(row: Mapping[str, Any]) -> object:
    return "unlimited" if row.get("seats") is None else row["seats"]


def _change(row: Mapping[str, Any]) -> str:
    change = str(row.get("change", show.NOTHING))
    return f"{change}: {row['reason']}" if row.get("reason") else change
