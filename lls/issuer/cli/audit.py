"""``lls-issuer audit``: what was done, by whom and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from lls.issuer.auditing import Told
from lls.issuer.cli.frame import AsJson, open_issuer, plain, print_json, say, show
from lls.issuer.cli.when import instant_of
from lls.licensing.fields import write_instant

noun = typer.Typer(help="What was done, by whom and why.", invoke_without_command=True)
_LONGEST_CELL = 160


@noun.callback()
def audit(
    ctx: typer.Context,
    customer: Annotated[
        str | None, typer.Option("--customer", help="Only of this account reference or id, deleted or not.")
    ] = None,
    entitlement: Annotated[str | None, typer.Option("--entitlement", help="Only of this entitlement.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Only from this instant or day on, such as 2026-11-01.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The history, oldest first."""
    if ctx.invoked_subcommand is not None:
        return
    begins = None if since is None else instant_of(since, option="--since")
    with open_issuer(ctx) as issuer:
        lines = list(issuer.audit.lines(customer=customer, entitlement=entitlement, since=begins))
    columns = ("seq", "at", "by", "what was done", "of", "how", "why")
    show("history", lines, as_json, columns, map(_row, lines))


@noun.command("verify")
def audit_verify(
    ctx: typer.Context,
    head: Annotated[
        str | None, typer.Option("--head", help="A head that you wrote down earlier; it must still be in it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Whether the history is whole, and the register as it says."""
    with open_issuer(ctx) as issuer:
        verified = issuer.audit.verify(head=head)
    if as_json:
        print_json(plain(verified))
    else:
        say(f"The history holds: {verified.lines} lines. Write its head down elsewhere: {verified.head}")


def _row(told: Told) -> tuple[str, ...]:
    by = told.by if told.by == told.user else f"{told.by} ({told.user})"
    of = told.entitlement_id or told.server_id or told.customer_id or "-"
    return (
        str(told.seq),
        write_instant(told.at),
        by,
        told.kind.replace("_", " "),
        of,
        _how(told.what),
        told.reason or "-",
    )


def _how(what: Mapping[str, Any]) -> str:
    """What changed, before and after; else what there is to say."""
    changed = what.get("changes")
    if isinstance(changed, Mapping):
        parts = [
            f"{path} {_short(pair[0])} → {_short(pair[1])}" for path, pair in changed.items() if path != "sequence"
        ]
    else:
        parts = [f"{key} {_short(value)}" for key, value in what.items() if value is not None and key != "sha256"]
    text = ", ".join(parts)
    return text if len(text) <= _LONGEST_CELL else f"{text[:_LONGEST_CELL]}…"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else ascii(text)
