"""``lls events``: what the server told of itself, to whom, and whether it got there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from lls.cli import show
from lls.cli.admin import admin
from lls.cli.frame import AsJson, Failure, noun
from lls.cli.show import column

app = noun("events", "What the server tells of itself: webhooks, mail, syslog.")

_NOWHERE: Final = "No destination is configured: set webhook_urls, smtp_server or syslog in [events], and restart."


@app.command("list")
def list_command(
    ctx: typer.Context,
    number: Annotated[int, typer.Option("-n", min=1, max=10_000, help="How many, newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the newest events, and what has not reached its destination."""
    answer = admin(ctx).get("events", limit=number)
    if as_json:
        show.document(answer)
        return
    columns = (
        column("AT", lambda row: show.instant(row.get("at"))),
        column("EVENT", "type", whole=True),
        column("STATE", "state"),
        column("SEVERITY", "severity"),
        column("WHAT", "text"),
    )
    show.table(answer.get("events", []), columns, empty="Nothing has happened that anybody should hear of.")
    stuck = [row for row in answer.get("deliveries", []) if row.get("state") != "sent"]
    if stuck:
        show.say()
        ways = (
            column("TO", "destination", whole=True),
            column("EVENT", "type"),
            column("STATE", "state"),
            column("ATTEMPTS", "attempts", number=True),
            column("NEXT", _next),
            column("WHY NOT", "error"),
        )
        show.table(stuck, ways, empty="")
    if (answer.get("counts") or {}).get("dead"):
        show.say("Dead deliveries are not tried any more; when their destination works again: lls events retry")
    if not answer.get("destinations"):
        show.say(_NOWHERE)


@app.command("test")
def send_test(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Send a test event to every destination; lls events list shows whether it got there."""
    _act(ctx, "test", "A test is on its way to {}; see: lls events list", "destination", as_json=as_json)


@app.command()
def retry(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Try again what was given up."""
    _act(ctx, "retry", "{} will be tried again; see: lls events list", "delivery", as_json=as_json)


def _act(ctx: typer.Context, act: str, sentence: str, noun_: str, *, as_json: bool) -> None:
    answer = admin(ctx).tell("POST", "events", {"act": act})
    number = int(answer.get("deliveries") or 0)
    if as_json:
        show.document(answer)
    if act == "test" and not number:
        raise Failure(_NOWHERE)
    if not as_json:
        show.say(sentence.format(_number(number, noun_)) if number else "There is nothing that was given up.")


def _number(number: int, word: str) -> str:
    plural = "deliveries" if word == "delivery" else f"{word}s"
    return f"{number} {word if number == 1 else plural}"


def _next(row: Mapping[str, Any]) -> object:
    return show.instant(row.get("next_at")) if row.get("state") == "waiting" else None
