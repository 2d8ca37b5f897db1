"""``lls-issuer inbox``: the events that were received, and what became of them."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from lls.issuer.cli.frame import (
    MOST_ROWS,
    AsJson,
    cell,
    group,
    now,
    open_issuer,
    plain,
    print_json,
    printable,
    say,
    show,
    stdout,
)
from lls.issuer.cli.serve import Config
from lls.issuer.intake.inbox import Inbox, Status, Stored
from lls.licensing.fields import write_instant

noun = group("Purchase events that were received.")
_COLUMNS = ("event", "source", "kind", "subject", "received_at", "status", "outcome")
Key = Annotated[int, typer.Argument(min=1, max=MOST_ROWS, help="Its number in the inbox.")]


@noun.command("list")
def inbox_list(
    ctx: typer.Context,
    status: Annotated[Status | None, typer.Option("--status", help="Only those that stand there.")] = None,
    source: Annotated[str | None, typer.Option("--source", help="Only those of this source.")] = None,
    most: Annotated[int, typer.Option("--most", min=1, max=100_000, help="The newest so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """The newest events, oldest first."""
    with open_issuer(ctx) as issuer:
        listed = Inbox(issuer.register).listed(status=status, source=source, most=most)
    documents = [_told(stored) for stored in listed]
    show(
        "events", documents, as_json, _COLUMNS, ([printable(cell(one[name])) for name in _COLUMNS] for one in documents)
    )


@noun.command("show")
def inbox_show(ctx: typer.Context, key: Key, as_json: AsJson = False) -> None:
    """One event, word for word."""
    with open_issuer(ctx) as issuer:
        stored = Inbox(issuer.register).get(key)
    if as_json:
        print_json({**_told(stored), "document": plain(stored.document)})
        return
    for name, value in _told(stored).items():
        stdout.print(f"{name}: {printable(cell(value))}")
    stdout.print(json.dumps(stored.document, indent=2))


@noun.command("retry")
def inbox_retry(ctx: typer.Context, key: Key, as_json: AsJson = False) -> None:
    """Let an event be processed again, that failed or is held; the server does it within seconds."""
    with open_issuer(ctx) as issuer:
        stored = Inbox(issuer.register).retry(key)
    if as_json:
        print_json(_told(stored))
        return
    say(f"Event {key} waits; lls-issuer serve processes it at once, lls-issuer inbox process without a server.")


@noun.command("drop")
def inbox_drop(
    ctx: typer.Context,
    key: Key,
    because: Annotated[str, typer.Option("--because", help="Why nobody needs it processed.")],
    as_json: AsJson = False,
) -> None:
    """Let an event never be processed; it stays in the list."""
    with open_issuer(ctx) as issuer:
        stored = Inbox(issuer.register).drop(key, reason=because)
    if as_json:
        print_json(_told(stored))
        return
    say(f"Event {key} of {stored.source} is dropped.")


@noun.command("process")
def inbox_process(ctx: typer.Context, config: Config = None, as_json: AsJson = False) -> None:
    """Process what waits and what is due, without a server."""
    from lls.issuer.cli.frame import home_of
    from lls.issuer.intake.processing import Intake
    from lls.issuer.intake.settings import read_settings

    settings = read_settings(config or home_of(ctx) / "intake.toml", secrets=False)
    with open_issuer(ctx) as issuer:
        intake = Intake(issuer, settings)
        fates = intake.process(now=now())
        intake.remove_bodies(now=now())
    if as_json:
        print_json({"events": [plain(fate) for fate in fates]})
        return
    for fate in fates:
        say(printable(f"Event {fate.key}, {fate.kind} of {fate.source}: {fate.status}. {fate.outcome}"))
    if not fates:
        say("Nothing waits.")


def _told(stored: Stored) -> dict[str, Any]:
    return {
        "event": stored.key,
        "source": stored.source,
        "event_id": stored.event_id,
        "kind": stored.kind,
        "subject": stored.subject,
        "sent_at": stored.sent_at and write_instant(stored.sent_at),
        "received_at": write_instant(stored.received_at),
        "status": stored.status.value,
        "due_at": stored.due_at and write_instant(stored.due_at),
        "attempts": stored.attempts,
        "body_removed_at": stored.removed_at and write_instant(stored.removed_at),
        "outcome": stored.outcome,
    }
