"""``lls journal``: check the chain, follow it. Whether the lines hold together is judged by the daemon."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from lls.cli import show
from lls.cli.admin import Admin, admin
from lls.cli.frame import AsJson, Failure, noun

app = noun("journal", "The hash-chained history.")

_PAGE: Final = 1_000
_POLL_SECONDS: Final = 1.0
_COMMITMENT: Final = 64  # hex digits
_SHORT: Final = 16


@app.command()
def verify(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Check that no line was changed, taken out or put in."""
    answer = admin(ctx).get("journal/verify")
    if as_json:
        show.document(answer)
    if not answer.get("ok"):
        problem = show.said(answer.get("problem")).rstrip(".")
        raise Failure(f"The journal does not hold together: {problem}. Stop using this copy and tell your vendor.")
    if not as_json:
        show.say(
            f"The chain holds: {show.count(answer.get('lines'), 'line')}, {show.said(answer.get('first_seq'))} to "
            f"{show.said(answer.get('last_seq'))}, head {show.said(answer.get('head'))}."
        )
        if answer.get("archived_lines"):
            show.say(f"{show.count(answer['archived_lines'], 'line')} of them were read from archives.")
        if answer.get("left_out_upto"):
            show.say(f"Lines 1 to {answer['left_out_upto']} are in archives that are not there; they were not checked.")


@app.command()
def archive(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Move acknowledged lines that are old enough into an archive file, now and not at night."""
    answer = admin(ctx).tell("POST", "journal/archive", {})
    if as_json:
        show.document(answer)
        return
    if not answer.get("lines"):
        show.say("No line may leave yet: lines go when they are acknowledged and older than journal.keep_days.")
        return
    show.say(f"{show.count(answer['lines'], 'line')} left the database, and {show.count(answer.get('names'), 'name')}.")
    for name in answer.get("files", []):
        show.say(f"Wrote {show.said(name)}.")


@app.command()
def tail(
    ctx: typer.Context,
    number: Annotated[int, typer.Option("-n", min=0, max=1_000_000, help="How many of the last lines.")] = 10,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the last lines of the journal."""
    daemon = admin(ctx)
    writership = daemon.get("server").get("writership") or {}
    after = max(0, int(writership.get("seq") or 0) - number)
    after = _print_after(daemon, after, as_json=as_json)
    try:
        while follow:
            time.sleep(_POLL_SECONDS)
            after = _print_after(daemon, after, as_json=as_json)
    except KeyboardInterrupt:  # the way to end it
        raise typer.Exit from None


def _print_after(daemon: Admin, after: int, *, as_json: bool) -> int:
    """Print every line after ``after``, page by page; the number of the last one."""
    page = _PAGE
    while page == _PAGE:
        page = 0
        for line in daemon.lines("journal", after=after, limit=_PAGE):
            read = _entry(line)
            if read["seq"] <= after:
                raise Failure(
                    f"The license server sent journal line {read['seq']} again; restart it: systemctl restart lls."
                )
            after, page = read["seq"], page + 1
            show.say(line.decode() if as_json else _told(read))
        sys.stdout.flush()
    return after


def _entry(line: bytes) -> Mapping[str, Any]:
    try:
        read = json.loads(line)
    except ValueError:
        read = None
    if not isinstance(read, dict) or not isinstance(read.get("seq"), int):
        raise Failure(
            "The license server sent a journal line that cannot be read; check the chain with lls journal verify."
        )
    return read


def _told(read: Mapping[str, Any]) -> str:
    data = read.get("data")
    pairs = data.items() if isinstance(data, Mapping) else ()
    words = " ".join(f"{name}={_short(value)}" for name, value in pairs if value not in (None, "", [], {}))
    return f"{read['seq']:>8}  {show.instant(read.get('at'))}  {show.said(read.get('kind')):<13}  {words}".rstrip()


def _short(value: object) -> str:
    """A value on a line; of a commitment as much as tells one from another."""
    if isinstance(value, str):
        digits = len(value) == _COMMITMENT and all(one in "0123456789abcdef" for one in value)
        return f"{value[:_SHORT]}…" if digits else value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
