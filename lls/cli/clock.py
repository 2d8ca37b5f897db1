"""``lls clock``: the time that the server goes by, and the administrator's word that a clock which jumped is right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import typer

from lls.cli import show
from lls.cli.admin import admin
from lls.cli.frame import AsJson, Failure, noun

app = noun("clock", "The guarded time.")

ADVICE: Final = {
    "behind": "set this machine's clock right (timedatectl); new leases are granted again by themselves.",
    "jumped": "the clock jumped forward; if the time above is right, lls clock accept, else set it right.",
}


@app.command("show")
def show_command(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show what this machine's clock says, what the server goes by, and what to do."""
    answer = admin(ctx).get("clock")
    if as_json:
        show.document(answer)
        return
    show.facts(_facts(answer))
    if step := ADVICE.get(str(answer.get("state"))):
        show.say()
        show.say(f"Next: {step}")


@app.command()
def accept(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Believe a clock that jumped forward, now and not after 24 hours. It cannot be taken back."""
    daemon = admin(ctx)
    before = daemon.get("clock")
    if before.get("state") == "behind":
        raise Failure(
            f"The clock is behind the time already seen ({show.instant(before.get('mark'))}), and only your vendor can "
            "turn that back; set this machine's clock right (timedatectl)."
        )
    after = daemon.tell("POST", "clock", {"act": "accept"}) if before.get("state") == "jumped" else before
    if as_json:
        show.document(after)
    elif before.get("state") == "jumped":
        show.say(f"The server goes by {show.instant(after.get('mark'))} now; what has ended by then ends.")
    else:
        show.say(f"There is nothing to accept: the clock says {show.instant(after.get('now'))}, and is believed.")


def told(clock: Mapping[str, Any]) -> str:
    """The clock on one line."""
    state = str(clock.get("state", show.NOTHING))
    behind = clock.get("behind_seconds")
    if state == "behind" and isinstance(behind, int | float):
        state = f"BEHIND by {show.duration(behind)}"
    elif state == "jumped":
        state = f"JUMPED; time seen before: {show.instant(clock.get('mark'))}"
    return f"{show.instant(clock.get('now'))}, {state}"


def _facts(clock: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    yield "Machine", show.instant(clock.get("now"))
    yield "Server", show.until(clock.get("mark"), clock.get("now"))
    yield "State", clock.get("state")
    if clock.get("behind_seconds"):
        yield "Behind", show.duration(clock["behind_seconds"])
