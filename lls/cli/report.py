"""``lls report``: exactly what would leave the site, and writing it.

Sealing a report is a line in the journal. When the file cannot be written after that, nothing is lost: the report is
there and is written again, byte for byte, with ``--report``; the sentence says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Annotated, Any

import typer

from lls.cli import files, show
from lls.cli.admin import Admin, Arriving, admin
from lls.cli.frame import AsJson, Failure, Force, Output, noun
from lls.cli.show import column
from lls.cli.usage import COLUMNS

app = noun("report", "Usage reports: what the vendor gets to see.")


@app.command()
def preview(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show exactly what the next report would contain. Nothing is written."""
    answer = admin(ctx).get("reports/preview")
    if as_json:
        show.document(answer)
        return
    if not answer.get("lines"):
        show.say("Nothing happened since the last acknowledged report.")
        return
    show.facts((("Lines", f"{answer['lines']}, from {answer.get('from_seq')} to {answer.get('to_seq')}"),))
    show.say()
    kinds = answer.get("kinds", {})
    counted = [{"kind": kind, "count": kinds[kind]} for kind in sorted(kinds)]
    show.table(counted, (column("KIND", "kind"), column("LINES", "count", number=True)), empty="No lines.")
    show.say()
    show.table(answer.get("usage", []), COLUMNS, empty="No usage.")
    show.say()
    show.say("Names of people and machines go with it unless it is exported with --pseudonymise.")
    show.say("Next: lls report export -o FILE")


@app.command()
def export(
    ctx: typer.Context,
    output: Output,
    pseudonymise: Annotated[
        bool, typer.Option("--pseudonymise", help="Leave the names of people and machines out.")
    ] = False,
    report: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Write this earlier report again, byte for byte.", show_default=False),
    ] = None,
    force: Force = False,
) -> None:
    """Seal a report of everything since the last acknowledged one, and write it for the vendor."""
    if report is not None and pseudonymise:
        raise typer.BadParameter(
            "an earlier report is written as it was; leave one of the two out.", param_hint="--report"
        )
    if report is not None and (not report.strip() or "/" in report):
        raise typer.BadParameter("is not a report id; lls report list shows them.", param_hint="--report")
    daemon = admin(ctx)
    sealed = ""
    try:
        with (
            files.written(output, mode=files.PRIVATE, force=force) as file,
            _asked_for(daemon, report, pseudonymise=pseudonymise) as arriving,
        ):
            sealed = arriving.report_id
            amount = arriving.save(file)
    except Failure as failure:
        if sealed and report is None:
            raise Failure(
                f"{failure.sentence} Report {sealed} is sealed all the same: write it with lls report export "
                f"--report {sealed} -o FILE",
                status=failure.status,
            ) from None
        raise
    show.say(f"Wrote {output}: report {show.said(sealed or report)}, {files.size(amount)}.")
    show.say("Next: send it to your vendor, and import the receipt that comes back: lls receipt import FILE")


@app.command("list")
def list_command(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the reports that were made."""
    answer = admin(ctx).get("reports")
    if as_json:
        show.document(answer)
        return
    show.table(
        answer.get("reports", []),
        (
            column("REPORT", "report_id", whole=True),
            column("MADE", lambda row: show.instant(row.get("made_at"))),
            column("FROM LINE", "from_seq", number=True),
            column("TO LINE", "to_seq", number=True),
            column("NAMES", lambda row: "left out" if row.get("pseudonymised") else "included"),
            column("ACKNOWLEDGED", _acknowledged),
        ),
        empty="No report was made yet. Next: lls report preview",
    )


def _asked_for(daemon: Admin, report: str | None, *, pseudonymise: bool) -> AbstractContextManager[Arriving]:
    if report is not None:
        return daemon.download("GET", f"reports/{report.strip()}")
    return daemon.download("POST", "reports", body={"pseudonymise": pseudonymise})


def _acknowledged(row: Mapping[str, Any]) -> bool:
    return bool(row.get("acknowledged"))
