"""``lls entitlement``: what is hosted here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from lls.cli import show
from lls.cli.admin import admin
from lls.cli.frame import AsJson, noun
from lls.cli.show import column

app = noun("entitlement", "What the vendor sold and this server hosts.")


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
            column("SEATS", lambda row: "unlimited" if row.get("seats") is None else row["seats"], number=True),
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


def _standing(row: Mapping[str, Any]) -> str:
    standing = str(row.get("standing") or row.get("status") or show.NOTHING).replace("_", " ")
    return f"{standing}, in overdraft" if _overdrawn(row) else standing


def _overdrawn(row: Mapping[str, Any]) -> bool:
    seats, in_use = row.get("seats"), row.get("in_use")
    return isinstance(seats, int) and isinstance(in_use, int) and in_use > seats


def _expiry(row: Mapping[str, Any]) -> str:
    if not row.get("expires_at"):
        return "never"
    in_grace = row.get("standing") == "grace" and row.get("grace_expires_at")
    return f"{show.instant(row['expires_at'])}{f', grace until {show.instant(in_grace)}' if in_grace else ''}"
