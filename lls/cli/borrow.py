"""``lls borrow``: seats that leave the network; for a machine without it by two files and a stick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from lls.cli import files, show
from lls.cli.admin import admin
from lls.cli.frame import AsJson, Force, Output, noun
from lls.cli.lease import columns

app = noun("borrow", "Seats that leave the network for a while.")

_NEXT: Final = "Next: carry it to the machine, and there: python -m lls.client accept {} (or its own program takes it)"


@app.command()
def grant(
    ctx: typer.Context,
    request: Annotated[Path, typer.Argument(metavar="REQUEST", help="The .llsborrow file that the machine made.")],
    output: Output,
    force: Force = False,
) -> None:
    """Lend a seat to a machine without the network. The same request again gets the same seat."""
    asked = files.content(request)
    with (
        files.written(output, mode=files.PRIVATE, force=force) as file,
        admin(ctx).download("POST", "borrows", content=asked) as arriving,
    ):
        amount = arriving.save(file)
    show.say(f"Wrote {output}: the grant, {files.size(amount)}.")
    show.say(_NEXT.format(output.name))


@app.command("return")
def return_command(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The .llsborrow file by which the machine returns it.")],
    as_json: AsJson = False,
) -> None:
    """Take a borrowed seat back before its end, on its machine's word. Again: changes nothing."""
    answer = admin(ctx).upload("borrows/return", files.content(file))
    if as_json:
        show.document(answer)
        return
    show.say(f"Lease {show.said(answer.get('lease_id'))} is returned; its seat is free.")


@app.command("list")
def list_command(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the seats that are away, the first to end first."""
    answer = admin(ctx).get("borrows")
    if as_json:
        show.document(answer)
        return
    away = answer.get("borrows", [])
    show.table(away, columns(away), empty="No seat is borrowed.")
