"""``lls entitlement``: what is hosted here, who is named in it, and giving it back to the vendor.

Giving back drains: new seats are refused, held ones go on, and the command waits for the last of them. Whatever ends
the command early, the drain goes on in the server until ``lls entitlement keep``: it is begun and not done, which is
an exit status of its own (decision 0015).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer

from lls.cli import files, show
from lls.cli.admin import Admin, admin
from lls.cli.frame import BEGUN, AsJson, Failure, Output, noun
from lls.cli.show import column

app = noun("entitlement", "What the vendor sold and this server hosts.")

POLL_SECONDS: Final = 2.0
"""How often a draining entitlement is asked after."""

_Id = Annotated[str, typer.Argument(metavar="ID", help="As lls entitlement list shows it.")]
_User = Annotated[str, typer.Argument(metavar="USER", help="As the application names the user; case does not count.")]


@app.command("list")
def list_command(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List entitlements with their seats and dates."""
    answer = admin(ctx).get("entitlements")
    if as_json:
        show.document(answer)
        return
    hosted = answer.get("entitlements", [])
    show.table(
        hosted,
        (
            column("ENTITLEMENT", "entitlement_id", whole=True),
            column("PRODUCT", "product"),
            column("EDITION", "edition"),
            column("STANDING", _standing),
            column("IN USE", "in_use", number=True),
            column("SEATS", lambda row: _most(row.get("seats")), number=True),
            column("WAITING", "waiting", number=True),
            column("EXPIRES", _expiry),
        ),
        empty="Nothing is hosted here yet. Next: lls bundle import FILE",
    )
    problems = [row for row in hosted if row.get("problem")]
    if problems:
        show.say()
    for row in problems:
        show.say(f"{show.said(row.get('entitlement_id'))}: {row['problem']}")


@app.command("show")
def show_command(ctx: typer.Context, entitlement_id: _Id, as_json: AsJson = False) -> None:
    """Show an entitlement: dates, seats, features and what is left of them, borrowing, named users."""
    wanted = entitlement_id.strip()
    hosted = admin(ctx).get("entitlements").get("entitlements", [])
    found = next((row for row in hosted if row.get("entitlement_id") == wanted), None)
    if found is None:
        raise Failure(f"No entitlement {wanted} is hosted here; lls entitlement list shows them.")
    if as_json:
        show.document(found)
        return
    show.facts(_facts(found))
    if found.get("features"):
        show.say()
        show.table(found["features"], _FEATURES, empty="")


@app.command("return")
def return_command(
    ctx: typer.Context,
    entitlement_id: _Id,
    output: Output,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="End the leases that are held, but for borrowed ones.")
    ] = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Begin, and do not wait for the last lease: exit status 4.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it exists.")] = False,
) -> None:
    """Drain an entitlement, give it back, and write the signed return. Again: the identical document."""
    wanted = _one(entitlement_id, "ID")
    files.free(output, force=overwrite, option="--overwrite")
    document = _returned(admin(ctx), wanted, force=force, wait=not no_wait)
    try:
        with files.written(output, mode=files.SHARED, force=overwrite, option="--overwrite") as file:
            file.write(document.encode())
    except Failure as failure:
        raise Failure(
            f"{failure.sentence} The entitlement is returned all the same; the same command writes the same document.",
            status=failure.status,
        ) from None
    show.say(f"Wrote {output}: {wanted} is returned, and hosted here no more.")
    show.say("Next: lls report export -o FILE, and send both files to your vendor")


@app.command()
def keep(ctx: typer.Context, entitlement_id: _Id) -> None:
    """Keep an entitlement that is being drained: seats of it are granted again."""
    wanted = _one(entitlement_id, "ID")
    admin(ctx).send("DELETE", f"entitlements/{quote(wanted, safe='')}/return", {})
    show.say(f"{wanted} stays; seats of it are granted again.")


@app.command()
def assign(ctx: typer.Context, entitlement_id: _Id, user: _User) -> None:
    """Give a named place to a user of your choice."""
    wanted, name = _one(entitlement_id, "ID"), _one(user, "USER")
    admin(ctx).send("POST", f"entitlements/{quote(wanted, safe='')}/users/{quote(name, safe='')}", {})
    show.say(f"{name} may use {wanted}.")


@app.command()
def unassign(ctx: typer.Context, entitlement_id: _Id, user: _User) -> None:
    """Take a named place back. The user's leases end; the vendor allows some such changes a month."""
    wanted, name = _one(entitlement_id, "ID"), _one(user, "USER")
    admin(ctx).send("DELETE", f"entitlements/{quote(wanted, safe='')}/users/{quote(name, safe='')}", {})
    show.say(f"{name} may use {wanted} no more; a seat that {name} has borrowed stays away until its end.")


# ---------------------------------------------------------------- giving back


def _returned(daemon: Admin, wanted: str, *, force: bool, wait: bool) -> str:
    """The signed return. Raises Failure when it drains on and nobody waits."""
    told: object = None
    try:
        while True:
            answer = daemon.tell("POST", f"entitlements/{quote(wanted, safe='')}/return", {"force": force})
            if answer.get("state") != "draining":
                return str(answer.get("document", ""))
            held = answer.get("leases")
            if not wait:
                raise Failure(
                    f"{_drains(wanted, held)}; nothing was written. Run the same command again when they have ended,"
                    f" or lls entitlement keep {wanted} to keep it.",
                    status=BEGUN,
                )
            if held != told:
                told = held
                sys.stderr.write(f"{_drains(wanted, held)}; waiting for them to end (Ctrl-C stops the waiting).\n")
                sys.stderr.flush()
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        raise Failure(
            f"{wanted} is being drained all the same: nothing new is granted of it."
            f" Run the same command again to go on, or lls entitlement keep {wanted} to keep it.",
            status=BEGUN,
        ) from None


def _drains(wanted: str, held: object) -> str:
    return f"{wanted} is being drained; {show.count(held, 'lease is', 'leases are')} still held"


def _one(text: str, hint: str) -> str:
    """A part of an address."""
    part = text.strip()
    if not part or part in (".", ".."):
        raise typer.BadParameter("must not be empty.", param_hint=hint)
    return part


# ---------------------------------------------------------------- showing


def _facts(row: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    yield "Entitlement", row.get("entitlement_id")
    if row.get("problem"):
        yield "Problem", row["problem"]
        return
    yield "Product", f"{show.said(row.get('product_name'))} ({show.said(row.get('product'))})"
    yield "Offering", f"{show.said(row.get('offering'))} ({show.said(row.get('sku'))})"
    yield "Edition", row.get("edition")
    yield "Order", row.get("order_ref")
    yield "Standing", _standing(row)
    yield "Starts", show.instant(row["starts_at"]) if row.get("starts_at") else "with the first lease"
    if row.get("started_at"):
        yield "Started", show.instant(row["started_at"])
    yield "Expires", _expiry(row)
    yield "Maintenance", row.get("maintenance_expires_on")
    yield "Seats", f"{row.get('in_use')} of {_most(row.get('seats'))} in use"
    yield "Kind", _kind(row)
    yield from _borrowing(row)
    yield from _names(row)


def _kind(row: Mapping[str, Any]) -> str:
    kind = str(row.get("concurrency") or show.NOTHING).replace("_", " ")
    if release := row.get("node_lock_release_after_seconds"):
        kind += f", a machine's seat comes free after {show.duration(release)}"
    return kind


def _borrowing(row: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    terms = row.get("borrow") or {}
    if terms.get("max_seconds") and terms.get("max_seats"):
        longest = show.duration(terms["max_seconds"])
        yield "Borrowed", f"{row.get('borrowed', 0)} of {terms['max_seats']} seats, for {longest} at most"
    else:
        yield "Borrowed", row.get("borrowed") or "not allowed"


def _names(row: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    if row.get("concurrency") != "named_user":
        return
    yield "Named", ", ".join(row.get("named_users") or [])
    assignment = row.get("named_user_assignment") or {}
    if not assignment.get("by_site") and row.get("assigned"):
        yield "Assigned", f"{', '.join(row['assigned'])}; not in force: the vendor names the users now"
    elif assignment.get("by_site"):
        yield "Assigned", ", ".join(row.get("assigned") or [])
        yield "Changes", f"{assignment.get('changes_per_month')} a month"


def _standing(row: Mapping[str, Any]) -> str:
    words = [str(row.get("standing") or row.get("status") or show.NOTHING).replace("_", " ")]
    if row.get("returning"):
        words.append("being returned")
    if _overdrawn(row):
        words.append("in overdraft")
    return ", ".join(words)


def _overdrawn(row: Mapping[str, Any]) -> bool:
    seats, in_use = row.get("seats"), row.get("in_use")
    return isinstance(seats, int) and isinstance(in_use, int) and in_use > seats


def _expiry(row: Mapping[str, Any]) -> str:
    if not row.get("expires_at"):
        return "never"
    in_grace = row.get("standing") == "grace" and row.get("grace_expires_at")
    return f"{show.instant(row['expires_at'])}{f', grace until {show.instant(in_grace)}' if in_grace else ''}"


def _most(amount: object) -> object:
    return "unlimited" if amount is None else amount


def _figure(name: str) -> Any:
    """A cell of a counted feature; a switch has no figures, and no limit is not the same as none."""

    def cell(row: Mapping[str, Any]) -> object:
        return None if row.get("type") == "bool" else _most(row.get(name))

    return cell


_FEATURES: Final = (
    column("FEATURE", "key", whole=True),
    column("KIND", lambda row: str(row.get("type")).replace("_", " ")),
    column("UNIT", lambda row: row.get("unit") or row.get("currency")),
    column("BOUGHT", lambda row: bool(row.get("value")) if row.get("type") == "bool" else _most(row.get("total"))),
    column("LEFT", _figure("available"), number=True),
    column("CONSUMED", lambda row: None if row.get("type") == "bool" else row.get("consumed"), number=True),
    column("OVERAGE", lambda row: row.get("overage") or None, number=True),
    column("ENDS", lambda row: show.instant(row["ends_at"]) if row.get("ends_at") else None),
)
