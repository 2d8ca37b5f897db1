"""``lls lease``: who holds which seat, since when; and taking one back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import typer

from lls.cli import show
from lls.cli.admin import admin
from lls.cli.frame import AsJson, noun
from lls.cli.show import Column, column

app = noun("lease", "Seats that are held now.")

_MOST_REASON: Final = 500


@app.command("list")
def list_command(
    ctx: typer.Context,
    product: Annotated[str | None, typer.Option(help="Only leases of this product key.", show_default=False)] = None,
    holder: Annotated[
        str | None, typer.Option(help="Only leases of this holder: user, host or seat.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List who holds what since when, and who waits."""
    answer = admin(ctx).get("leases", product=product, holder=holder)
    if as_json:
        show.document(answer)
        return
    leases, waiting = answer.get("leases", []), answer.get("waiting", [])
    show.table(
        leases, columns(leases), empty="No seat is held." if not (product or holder) else "No such seat is held."
    )
    if waiting:
        show.say()
        show.say("Waiting:")
        show.table(waiting, _WAITING, empty="")
    if any(row.get("clone_alarms") for row in leases):
        show.say()
        show.say("A lease marked CLONED was used by two processes at once: its machine was probably copied.")


@app.command()
def release(
    ctx: typer.Context,
    lease_id: Annotated[str, typer.Argument(metavar="LEASE_ID", help="As lls lease list shows it.")],
    reason: Annotated[str, typer.Option(help="Why, for the journal; 1 to 500 characters.")],
) -> None:
    """Take a seat back from its holder."""
    reason = reason.strip()
    if not 1 <= len(reason) <= _MOST_REASON:
        raise typer.BadParameter(f"must have 1 to {_MOST_REASON} characters.", param_hint="--reason")
    if not lease_id.strip() or "/" in lease_id:
        raise typer.BadParameter("is not a lease id; lls lease list shows them.", param_hint="LEASE_ID")
    admin(ctx).send("DELETE", f"leases/{lease_id.strip()}", {"reason": reason})
    show.say(f"Lease {lease_id.strip()} is released; its program learns it at its next heartbeat.")


def columns(leases: Sequence[Mapping[str, Any]]) -> Sequence[Column]:
    """How leases are listed: the features that they hold only where any does, for a line is soon too long."""
    held = any(row.get("features") for row in leases)
    return (*_LEASES, column("FEATURES", _features)) if held else _LEASES


def _expiry(row: Mapping[str, Any]) -> str:
    if row.get("until"):
        return f"{show.instant(row['until'])} ({show.ahead(row.get('expires_in_seconds'))})"
    left = row.get("expires_in_seconds")
    return show.ahead(left) if left is not None else show.instant(row.get("expires_at"))


def _features(row: Mapping[str, Any]) -> str:
    held = row.get("features")
    return ", ".join(f"{key} {held[key]}" for key in sorted(held)) if isinstance(held, Mapping) else ""


def _state(row: Mapping[str, Any]) -> str:
    words = [str(row.get("mode", show.NOTHING)).replace("_", "-")]
    if row.get("by_file"):
        words.append("by file")
    if row.get("state") not in ("active", None):
        words.append(str(row["state"]))
    if row.get("overdraft"):
        words.append("overdraft")
    if row.get("clone_alarms"):
        words.append("CLONED")
    return ", ".join(words)


_LEASES: Final = (
    column("LEASE", "lease_id", whole=True),
    column("PRODUCT", "product"),
    column("SEATS", "seats", number=True),
    column("HOLDER", lambda row: show.holder(row.get("holder"))),
    column("SINCE", lambda row: show.instant(row.get("granted_at"))),
    column("EXPIRES", _expiry),
    column("STATE", _state),
)

_WAITING: Final = (
    column("LEASE", "lease_id", whole=True),
    column("PRODUCT", "product"),
    column("SEATS", "seats", number=True),
    column("HOLDER", lambda row: show.holder(row.get("holder"))),
    column("SINCE", lambda row: show.instant(row.get("since"))),
    column("PLACE", "position", number=True),
    column("ASKING", lambda row: bool(row.get("open"))),
)
