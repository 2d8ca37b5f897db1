"""``lls log``: which lines of the log are written, and more of them for a while."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from lls.cli import show
from lls.cli.admin import admin
from lls.cli.frame import AsJson, noun
from lls.config import LogLevel

app = noun("log", "The server's log.")

_SPAN: Final = re.compile(r"(\d{1,6})(s|min|m|h|d)")
_SECONDS: Final = {"s": 1, "min": 60, "m": 60, "h": 3_600, "d": 86_400}
_LONGEST: Final = 604_800


@app.command("show")
def show_command(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show which level is written."""
    answer = admin(ctx).get("log")
    if as_json:
        show.document(answer)
        return
    show.say(_told(answer))


@app.command()
def level(
    ctx: typer.Context,
    level: Annotated[LogLevel, typer.Argument(metavar="LEVEL", help="debug, info, warning or error.")],
    lasting: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="10min, 2h, 1d; then as in the settings again.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write from this level on, without a restart: for a while, or until the next start."""
    body: dict[str, Any] = {"level": level.value}
    if lasting is not None:
        body["for_seconds"] = _seconds(lasting)
    answer = admin(ctx).tell("POST", "log", body)
    if as_json:
        show.document(answer)
        return
    show.say(_told(answer))


def _seconds(text: str) -> int:
    found = _SPAN.fullmatch(text.strip())
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    if not 0 < seconds <= _LONGEST:
        raise typer.BadParameter(f"{text!r} is no time of up to 7 days; write 10min, 2h or 1d.", param_hint="--for")
    return seconds


def _told(answer: Mapping[str, Any]) -> str:
    level, usual = show.said(answer.get("level")), show.said(answer.get("usual"))
    if level == usual:
        return f"The log is written from level {level} on, as the settings say."
    if answer.get("until"):
        return f"The log is written from level {level} on until {show.instant(answer['until'])}, then from {usual} on."
    return f"The log is written from level {level} on until the next start, then from {usual} on."
