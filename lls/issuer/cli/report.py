"""``lls-issuer report``, ``receipt`` and ``return``: what comes back from the sites, and the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from lls.faults import RefusedDocument
from lls.issuer.cli.frame import (
    AsJson,
    Output,
    PassphraseFile,
    cell,
    group,
    now,
    open_issuer,
    plain,
    print_id,
    print_json,
    printable,
    progress_bar,
    say,
    show,
    stderr,
    writable,
)
from lls.issuer.cli.signing import (
    STANDARD_DAYS,
    KeyFile,
    PendingFile,
    SignWith,
    SignWithinDays,
    Trusted,
    Unsigned,
    Yes,
    read_file,
    sign_file,
    write_pending,
)
from lls.issuer.files import read_bounded, write_whole
from lls.issuer.hosting import Accepted
from lls.issuer.ingest import Ingested
from lls.issuer.office import Issuer
from lls.issuer.pending import Kind, Pending
from lls.issuer.receiving import Refused, Watch
from lls.issuer.register import IngestedReport, IssuedReceipt
from lls.licensing.fields import write_instant
from lls.signed.returned import MOST_RETURN

report_noun = group("Usage reports that came back.")
receipt_noun = group("Acknowledgements of reports.")
return_noun = group("Entitlements that sites gave back.")


@report_noun.command("ingest")
def report_ingest(
    ctx: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="Usage reports (.llsreport), in any order.")],
    server: Annotated[str | None, typer.Option("--server", help="Refuse reports of any other server.")] = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Verify usage reports and take them in, each whole or not at all; what is known is counted once."""
    taken: list[Ingested] = []
    refused: list[Refused] = []
    with open_issuer(ctx, passphrase_file, signs=True) as issuer, progress_bar() as bar:
        for file, outcome in issuer.receiving.take_in(files, watch=_watch(bar), now=now, server_id=server):
            if isinstance(outcome, Refused):
                refused.append(outcome)
                continue
            taken.append(outcome)
            if not as_json:
                say(_ingested_sentence(file, outcome))
    if as_json:
        print_json({"reports": [_ingested_document(one) for one in taken], "refused": plain(refused)})
    else:
        _say_end(taken, refused)
    if refused:
        raise typer.Exit(1)


def _watch(bar: Progress) -> Watch:
    @contextmanager
    def watch(file: Path) -> Iterator[Callable[[int, int], None]]:
        task = bar.add_task(file.name, total=None)
        try:
            yield lambda done, total: bar.update(task, completed=done, total=total)
        finally:
            bar.remove_task(task)

    return watch


def _say_end(taken: Sequence[Ingested], refused: Sequence[Refused]) -> None:
    for one in refused:
        stderr.print(
            printable(" ".join(part for part in (f"lls-issuer: {one.file}: {one.detail}", one.advice) if part)),
            style="red",
        )
    if refused and len(taken) + len(refused) > 1:
        say(f"{len(taken)} of {len(taken) + len(refused)} reports are taken in, {len(refused)} refused.")
    newest: dict[str, IngestedReport] = {}
    for ingested in taken:
        known = newest.get(ingested.report.server_id)
        if known is None or ingested.report.to_seq > known.to_seq:
            newest[ingested.report.server_id] = ingested.report
    for report in newest.values():
        say(f"Next: lls-issuer receipt issue --report {report.report_id} -o FILE")
        print_id(report.report_id)


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
    refused: Annotated[bool, typer.Option("--refused", help="Those that were refused, and why.")] = False,
    as_json: AsJson = False,
) -> None:
    """The reports that were taken in; with --refused, those that were not."""
    with open_issuer(ctx) as issuer:
        server_id = issuer.server(server).server_id if server else None
        refusals = issuer.receiving.refusals(server_id=server_id)
        reports = [_report_document(report, issuer) for report in issuer.register.reports(server_id=server_id)]
    if refused:
        names = ("refused_at", "file", "sha256", "claimed", "problem", "detail")
        show(
            "refused",
            refusals,
            as_json,
            names,
            ([printable(cell(getattr(each, name))) for name in names] for each in refusals),
        )
        return
    columns = ("report_id", "server_id", "from_seq", "to_seq", "new_lines", "made_at", "pseudonymised", "receipt_id")
    show("reports", reports, as_json, columns, ([cell(each[column]) for column in columns] for each in reports))
    if refusals and not as_json:
        say(f"{len(refusals)} more were refused: lls-issuer report list --refused")


def _report_document(report: IngestedReport, issuer: Issuer) -> dict[str, Any]:
    receipt = issuer.register.receipt_of(report.report_id)
    return {**plain(report), "receipt_id": receipt and receipt.receipt_id}


@receipt_noun.command("issue")
def receipt_issue(  # noqa: PLR0917 - Typer makes options out of parameters
    ctx: typer.Context,
    report: Annotated[str, typer.Option("--report", help="rpt_…")],
    output: Output,
    unsigned: Unsigned = False,
    sign_within_days: SignWithinDays = STANDARD_DAYS,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Write the receipt for a report; the next bundle carries it too."""
    writable(output)
    if unsigned:
        with open_issuer(ctx) as issuer:
            life = timedelta(days=sign_within_days)
            drafted = issuer.issuing.draft_receipt(report, now=now(), life=life)
        write_pending(output, drafted.pending, as_json=as_json)
        return
    with open_issuer(ctx, passphrase_file, signs=True) as issuer:
        receipt = issuer.issue_receipt(report, now=now())
        _write_receipt(receipt, issuer, output, as_json=as_json)


@receipt_noun.command("sign")
def receipt_sign(  # noqa: PLR0917 - Typer makes options out of parameters
    ctx: typer.Context,
    file: PendingFile,
    key: KeyFile = None,
    sign_with: SignWith = None,
    trust: Trusted = None,
    yes: Yes = False,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Read what a receipt says, and add your signature; without --key, those of this home."""

    def here(pending: Pending) -> Pending:
        with open_issuer(ctx, passphrase_file, signs=True) as issuer:
            return issuer.issuing.sign_here(pending, now=now())

    sign_file(
        file, kind=Kind.RECEIPT, key=key, sign_with=sign_with, trust=trust, passphrase_file=passphrase_file, yes=yes,
        as_json=as_json, here=here,
    )  # fmt: skip


@receipt_noun.command("seal")
def receipt_seal(ctx: typer.Context, file: PendingFile, output: Output, as_json: AsJson = False) -> None:
    """Make the receipt of what enough people have signed."""
    writable(output)
    pending = read_file(file, kind=Kind.RECEIPT)
    with open_issuer(ctx) as issuer:
        receipt = issuer.issuing.seal_receipt(pending, now=now())
        _write_receipt(receipt, issuer, output, as_json=as_json)


def _write_receipt(receipt: IssuedReceipt, issuer: Issuer, output: Path, *, as_json: bool) -> None:
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


@return_noun.command("accept")
def return_accept(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="The signed return (.llsreturn).")],
    as_json: AsJson = False,
) -> None:
    """Take in that a site hosts an entitlement no more; its reports up to there must be in."""
    data = read_bounded(file, what="return", most=MOST_RETURN)
    with open_issuer(ctx) as issuer:
        try:
            accepted = issuer.hosting.accept_return(data, now=now())
        except RefusedDocument as refused:
            raise RefusedDocument(
                refused.reason,
                f"{file} is no return to accept: {refused.detail} The site writes one with: lls entitlement return ID "
                "-o FILE.",
            ) from refused
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
