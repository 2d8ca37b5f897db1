"""``lls key``: API keys for programs that administer or watch over the network."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from lls.cli import show
from lls.cli.admin import admin
from lls.cli.frame import AsJson, noun
from lls.cli.show import column
from lls.cli.user import judge_role

app = noun("key", "API keys of programs.")


@app.command()
def add(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is for, as lists show it.")],
    *,
    role: Annotated[str, typer.Option(metavar="ROLE", help="viewer, operator or admin.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(metavar="SCOPE", help="Only these calls, such as leases or leases:read; repeat for more."),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="DATE", help="The first day on which it opens nothing.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key. It is shown once."""
    judge_role(role)
    body = {"name": name, "role": role, "scopes": scope or [], "expires_at": _instant(expires)}
    made = admin(ctx).tell("POST", "keys", body)
    if as_json:
        show.document(made)
        return
    show.say(str(made.get("secret", "")))
    key = made.get("key") or {}
    show.say(f"This is the key {key.get('key_id', '')}; it is not shown again. Send it as Authorization: Bearer.")


@app.command("list")
def list_command(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the keys; what opens is not shown."""
    answer = admin(ctx).get("keys")
    if as_json:
        show.document(answer)
        return
    show.table(answer.get("keys", []), _KEYS, empty="There are no API keys.")


@app.command()
def revoke(
    ctx: typer.Context,
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="As lls key list shows it.")],
) -> None:
    """Revoke a key: it opens nothing any more."""
    if not key_id.strip() or "/" in key_id:
        raise typer.BadParameter("is not a key's id; lls key list shows them.", param_hint="KEY_ID")
    admin(ctx).send("DELETE", f"keys/{key_id.strip()}", {})
    show.say(f"The key {key_id.strip()} is revoked.")


def _instant(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("must be a day such as 2027-01-31.", param_hint="--expires") from None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")


def _ends(row: Mapping[str, Any]) -> str:
    if row.get("expired"):
        return "expired"
    return show.instant(row["expires_at"]) if row.get("expires_at") else show.NOTHING


_KEYS: Final = (
    column("KEY", "key_id", whole=True),
    column("NAME", "name"),
    column("ROLE", "role"),
    column("SCOPES", lambda row: ", ".join(row.get("scopes") or [])),
    column("EXPIRES", _ends),
    column("SINCE", lambda row: show.instant(row.get("made_at"))),
)
