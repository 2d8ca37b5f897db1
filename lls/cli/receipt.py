"""``lls receipt``: the vendor's acknowledgement of a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lls.cli import files, show
from lls.cli.admin import admin
from lls.cli.frame import AsJson, noun

app = noun("receipt", "Receipts from the vendor.")


@app.command("import")
def import_command(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The .llsreceipt file from your vendor.")],
    as_json: AsJson = False,
) -> None:
    """Verify a receipt and note what the vendor has."""
    answer = admin(ctx).upload("receipts", files.content(file))
    if as_json:
        show.document(answer)
        return
    done = "was imported before; nothing was changed" if answer.get("already_applied") else "is imported"
    show.say(f"Receipt {show.said(answer.get('receipt_id'))} {done}.")
    show.say(
        f"Your vendor has report {show.said(answer.get('report_id'))}; "
        f"the next one begins after journal line {show.said(answer.get('up_to_seq'))}."
    )
