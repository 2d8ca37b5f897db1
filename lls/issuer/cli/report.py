"""``lls-issuer report``, ``receipt``, ``usage`` and ``return``: what comes back from the sites, and the answer."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lls.faults import Fault
from lls.issuer.billing import billing_csv, billing_document
from lls.issuer.cli.frame import (
    AsJson,
    Output,
    PassphraseFile,
    cell,
    group,
    now,
    open_issuer,
    plain,
    print_json,
    progress_bar,
    say,
    show,
    writable,
)
from lls.issuer.files import PRIVATE, read_bounded, write_whole
from lls.issuer.hosting import Accepted
from lls.issuer.ingest import Ingested
from lls.issuer.office import Issuer
from lls.issuer.refusals import IssuerRefused
from lls.issuer.register import IngestedReport
from lls.licensing.fields import write_instant
from lls.signed.returned import MOST_RETURN

report_noun = group("Usage reports that came back.")
receipt_noun = group("Acknowledgements of reports.")
usage_noun = group("What was used, for billing.")
return_noun = group("Entitlements that sites gave back.")


class Format(StrEnum):
    """How billing lines are written."""

    CSV = "csv"
    JSON = "json"


@report_noun.command("ingest")
def report_ingest(
    ctx: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="Usage reports (.llsreport), the oldest first.")],
    server: Annotated[str | None, typer.Option("--server", help="Refuse reports of any other server.")] = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Verify usage reports and take them in, each whole or not at all; what is known is counted once."""
    taken: list[Ingested] = []
    with open_issuer(ctx, passphrase_file, signs=True) as issuer, progress_bar() as bar:
        for file in files:
            task = bar.add_task(file.name, total=None)
            try:
                ingested = issuer.ingest(
                    file,
                    now=now(),
                    server_id=server,
                    progress=lambda done, total, task=task: bar.update(task, completed=done, total=total),  # type: ignore[misc]
                )
            except Fault as fault:
                done = f" The {len(taken)} before it were taken in." if taken else ""
                raise IssuerRefused(f"{file}: {fault.detail}{done}") from fault
            taken.append(ingested)
            if not as_json:
                say(_ingested_sentence(file, ingested))
    if as_json:
        print_json({"reports": [_ingested_document(each) for each in taken]})
    else:
        say(f"Next: lls-issuer receipt issue --report {taken[-1].report.report_id} -o FILE")


def _ingested_sentence(file: Path, ingested: Ingested) -> str:
    report = ingested.report
    if ingested.again:
        return f"{file}: {report.report_id} was ingested before, nothing changed."
    lines = report.to_seq - report.from_seq + 1
    known = f", {lines - report.new_lines} of them known already" if report.new_lines < lines else ""
    return (
        f"{file}: {report.report_id} of {report.server_id}, lines {report.from_seq} to {report.to_seq}{known}; "
        f"the chain and the usage table hold, {len(ingested.usage)} usage lines.{_noticed(ingested)}"
    )


def _noticed(ingested: Ingested) -> str:
    begun = "".join(f" {sold.entitlement_id} began on its first lease." for sold in ingested.begun)
    return begun + "".join(f" {command_id} was carried out." for command_id in ingested.applied)


def _ingested_document(ingested: Ingested) -> dict[str, Any]:
    return {
        **plain(ingested.report),
        "already_ingested": ingested.again,
        "usage": plain(ingested.usage),
        "names": ingested.names,
        "begun": [sold.entitlement_id for sold in ingested.begun],
        "applied": list(ingested.applied),
    }


@report_noun.command("list")
def report_list(
    ctx: typer.Context,
    server: Annotated[str | None, typer.Option("--server", help="Only of this server.")] = None,
    as_json: AsJson = False,
) -> None:
    """The reports that were taken in."""
    with open_issuer(ctx) as issuer:
        server_id = issuer.server(server).server_id if server else None
        reports = [_report_document(report, issuer) for report in issuer.register.reports(server_id=server_id)]
    columns = ("report_id", "server_id", "from_seq", "to_seq", "new_lines", "made_at", "pseudonymised", "receipt_id")
    show("reports", reports, as_json, columns, ([cell(each[column]) for column in columns] for each in reports))


def _report_document(report: IngestedReport, issuer: Issuer) -> dict[str, Any]:
    receipt = issuer.register.receipt_of(report.report_id)
    return {**plain(report), "receipt_id": receipt and receipt.receipt_id}


@receipt_noun.command("issue")
def receipt_issue(
    ctx: typer.Context,
    report: Annotated[str, typer.Option("--report", help="rpt_…")],
    output: Output,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Write the receipt for a report; the next bundle carries it too."""
    writable(output)
    with open_issuer(ctx, passphrase_file, signs=True) as issuer:
        receipt = issuer.issue_receipt(report, now=now())
        knows, newest = issuer.server(receipt.server_id).keys_version, issuer.keyring.newest.version
    write_whole(output, receipt.token.encode())
    if knows < newest:
        say(
            f"Note: at its newest request this server knew key set {knows}, and the receipt is signed by key set "
            f"{newest}: it is accepted once a bundle brought those keys. The next bundle carries it too."
        )
    if as_json:
        print_json({key: value for key, value in plain(receipt).items() if key != "token"} | {"file": str(output)})
    else:
        say(f"Wrote the receipt for everything up to line {receipt.up_to_seq} of {receipt.server_id} to {output}.")


@usage_noun.command("export")
def usage_export(
    ctx: typer.Context,
    format_: Annotated[Format, typer.Option("--format", help="csv or json.")] = Format.CSV,
    customer: Annotated[str | None, typer.Option("--customer", help="Only of this account reference.")] = None,
    period: Annotated[str | None, typer.Option("--period", help="Only of this month, such as 2026-11.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file; else standard output.")] = None,
) -> None:
    """Billing lines per customer, month, SKU and meter, with ids that stay the same in every export."""
    if period is not None and not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", period):
        raise typer.BadParameter(f"--period takes a month such as 2026-11, not {period!r}.")
    with open_issuer(ctx) as issuer:
        lines = issuer.usage(customer=customer, period=period)
    if format_ is Format.CSV:
        data = billing_csv(lines)
    else:
        data = (json.dumps({"lines": [billing_document(line) for line in lines]}, indent=2) + "\n").encode()
    if output is None:
        typer.echo(data, nl=False)
    else:
        write_whole(output, data, mode=PRIVATE)
        say(f"Wrote {len(lines)} billing lines to {output}.")


@return_noun.command("accept")
def return_accept(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="The signed return (.llsreturn).")],
    as_json: AsJson = False,
) -> None:
    """Take in that a site hosts an entitlement no more; its reports up to there must be in."""
    data = read_bounded(file, what="return", most=MOST_RETURN)
    with open_issuer(ctx) as issuer:
        accepted = issuer.hosting.accept_return(data, now=now())
    if as_json:
        print_json(_accepted_document(accepted))
        return
    entitlement_id, server_id = accepted.sold.entitlement_id, accepted.session.server_id
    if accepted.again:
        say(f"{entitlement_id}: this return of {server_id} was accepted before; nothing changed.")
        return
    say(f"{entitlement_id} is hosted by {server_id} no more. {_host_when(accepted)}")


def _host_when(accepted: Accepted) -> str:
    until = accepted.session.borrowed_until
    when = "Next" if until is None else f"Seats are borrowed until {write_instant(until)}; from then on"
    return f"{when}: lls-issuer entitlement host {accepted.sold.entitlement_id} --server ID"


def _accepted_document(accepted: Accepted) -> dict[str, Any]:
    session = {key: value for key, value in plain(accepted.session).items() if key != "token"}
    return {**session, "already_accepted": accepted.again, "meters": plain(accepted.meters)}
