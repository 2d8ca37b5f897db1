"""``lls-issuer``: the vendor's commands. The only room of the issuer that prints, asks and reads the clock.

Rules
1. Every command opens the home, calls one method of :class:`~lls.issuer.office.Issuer`, and shows what it gave.
2. Exit status (contract, common rules): 0 done, 1 refused with one sentence on standard error, 2 wrong usage. A
   user's mistake never shows a traceback; a programming error always does.
3. ``--json`` prints documents and nothing else on standard output, in ASCII: a customer's name must not reach a
   terminal as the control characters that it may hold; messages and progress go to standard error.
4. A passphrase comes from a file, from ``LLS_ISSUER_PASSPHRASE`` or from the terminal, never from an argument: those
   are in the process list.
5. Activation codes are shown by ``entitlement show`` and ``order fulfil``, whose purpose that is, and nowhere else.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from typer.core import TyperGroup

from lls.faults import Fault
from lls.issuer.billing import billing_csv, billing_document
from lls.issuer.catalog import LARGEST_CATALOG_BYTES, Catalog
from lls.issuer.files import PRIVATE, read_bounded, write_whole
from lls.issuer.ingest import Ingested
from lls.issuer.issue import Terms
from lls.issuer.office import SAMPLE_CATALOG, Fulfilled, Issuer
from lls.issuer.orders import LARGEST_ORDER_BYTES
from lls.issuer.refusals import HomeRefused, IssuerRefused
from lls.issuer.register import IngestedReport, Server, Sold
from lls.licensing.fields import write_instant
from lls.signed.jose import MOST_TOKEN
from lls.signed.keys import KeySet


class _Refusing(TyperGroup):
    """Turns a refusal into its sentence and exit status 1, for every command below."""

    def invoke(self, ctx: Any) -> Any:  # Typer brings a Click of its own, whose types have no public name
        try:
            return super().invoke(ctx)
        except Fault as fault:
            _stderr.print(f"lls-issuer: {fault.detail}", style="red")
        except OSError as failure:
            if failure.strerror is None:
                raise
            _stderr.print(f"lls-issuer: {failure.filename or 'the disk'}: {failure.strerror}.", style="red")
        raise typer.Exit(1)


# Ids must stay whole when the output goes into a pipe, whatever width a terminal would have had.
_stdout = Console(markup=False, highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 300)
_stderr = Console(markup=False, highlight=False, soft_wrap=True, stderr=True)

app = typer.Typer(
    cls=_Refusing, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False,
    help="The vendor's side of the Local License Server: sell seats, issue bundles, take usage reports in.",
)  # fmt: skip


def _noun(name: str, about: str) -> typer.Typer:
    noun = typer.Typer(no_args_is_help=True, help=about)
    app.add_typer(noun, name=name)
    return noun


keys_noun = _noun("keys", "The key set: what applications and servers trust.")
catalog_noun = _noun("catalog", "What can be sold.")
customer_noun = _noun("customer", "Who buys.")
server_noun = _noun("server", "License servers at the customers' sites.")
order_noun = _noun("order", "Orders.")
entitlement_noun = _noun("entitlement", "What was sold.")
bundle_noun = _noun("bundle", "What is carried to a site.")
report_noun = _noun("report", "Usage reports that came back.")
receipt_noun = _noun("receipt", "Acknowledgements of reports.")
usage_noun = _noun("usage", "What was used, for billing.")

AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Output: TypeAlias = Annotated[Path, typer.Option("--output", "-o", help="The file to write, whole or not at all.")]
PassphraseFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file", help="File with the passphrase of the keys; else $LLS_ISSUER_PASSPHRASE or a question."
    ),
]


class Binding(StrEnum):
    """What a server is bound to."""

    KEY_ONLY = "key_only"
    HOST = "host"


class Format(StrEnum):
    """How billing lines are written."""

    CSV = "csv"
    JSON = "json"


@app.callback()
def _options(
    ctx: typer.Context,
    home: Annotated[
        Path | None, typer.Option("--home", envvar="LLS_ISSUER_HOME", help="Directory of keys and register.")
    ] = None,
) -> None:
    ctx.obj = home


@app.command()
def init(
    ctx: typer.Context,
    passphrase_file: PassphraseFile = None,
    no_passphrase: Annotated[
        bool, typer.Option("--no-passphrase", help="Leave the private keys unencrypted: for tests and demonstrations.")
    ] = False,
) -> None:
    """Make keys, register and a sample catalogue."""
    home = _home(ctx)
    if no_passphrase and passphrase_file:
        raise typer.BadParameter("--no-passphrase and --passphrase-file exclude each other.")
    passphrase = None if no_passphrase else _passphrase(passphrase_file, anew=True)
    with Issuer.create(home, now=_now(), passphrase=passphrase) as issuer:
        _say(f"Made keys (key set {issuer.keyring.newest.version}) and register in {home}.")
    if no_passphrase:
        _say("The private keys are NOT encrypted; whoever reads them can make licences.")
    _say(
        f"Next: edit {home / SAMPLE_CATALOG} and load it (catalog load); "
        "put the key set where servers and applications find it (keys export)."
    )


# -- keys -------------------------------------------------------------------------------------------------------------


@keys_noun.command("show")
def keys_show(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Every version of the key set, with its keys' ids."""
    with _open(ctx) as issuer:
        versions = [_key_set_document(keys, newest=keys is issuer.keyring.newest) for keys in issuer.keyring.versions]
    if as_json:
        _print_json({"key_sets": versions})
        return
    table = Table("version", "expires_at", "role", "threshold", "kid", title="Key sets")
    for version in versions:
        for role, terms in version["roles"].items():
            table.add_row(
                str(version["version"]), version["expires_at"], role, str(terms["threshold"]), "\n".join(terms["kids"])
            )
    _stdout.print(table)


@keys_noun.command("rotate")
def keys_rotate(ctx: typer.Context, passphrase_file: PassphraseFile = None, as_json: AsJson = False) -> None:
    """New keys for every role: the next version, signed by the old root and the new one."""
    with _open(ctx, passphrase_file, signs=True) as issuer:
        keys = issuer.rotate_keys(now=_now())
    if as_json:
        _print_json(_key_set_document(keys, newest=True))
    else:
        _say(
            f"Key set {keys.version} is in force until {write_instant(keys.expires_at)}; "
            "each server's next bundle carries it."
        )


@keys_noun.command("export")
def keys_export(
    ctx: typer.Context,
    output: Output,
    version: Annotated[int | None, typer.Option("--version", help="Which version; the newest if left out.")] = None,
) -> None:
    """Write a key set (.llskeys) for servers and applications to trust."""
    with _open(ctx) as issuer:
        keys = issuer.keyring.newest if version is None else issuer.keyring.version(version)
    write_whole(output, keys.token.encode())
    _say(f"Wrote key set {keys.version} to {output}.")


def _key_set_document(keys: KeySet, *, newest: bool) -> dict[str, Any]:
    return {
        "version": keys.version,
        "in_force": newest,
        "expires_at": write_instant(keys.expires_at),
        "roles": {name: {"threshold": role.threshold, "kids": sorted(role.kids)} for name, role in keys.roles.items()},
    }


# -- catalogue and customers ------------------------------------------------------------------------------------------


@catalog_noun.command("load")
def catalog_load(ctx: typer.Context, file: Annotated[Path, typer.Argument(help="TOML file.")]) -> None:
    """Put a catalogue into force for new orders."""
    data = read_bounded(file, what="catalogue", most=LARGEST_CATALOG_BYTES)
    try:
        text = data.decode()
    except UnicodeDecodeError as failure:
        raise HomeRefused(f"The catalogue {file} is not UTF-8 (byte {failure.start}).") from failure
    with _open(ctx) as issuer:
        catalog = issuer.load_catalog(text, now=_now())
    _say(f"Loaded {len(catalog.products)} products, {len(catalog.plans)} plans and {len(catalog.offerings)} offerings.")


@catalog_noun.command("show")
def catalog_show(ctx: typer.Context, as_json: AsJson = False) -> None:
    """The offerings in force."""
    with _open(ctx) as issuer:
        catalog = issuer.catalog()
    if as_json:
        _print_json(_plain(catalog))
    else:
        _stdout.print(_catalog_table(catalog))


def _catalog_table(catalog: Catalog) -> Table:
    table = Table(
        "SKU", "name", "product", "edition", "plan", "seats", "overdraft", "features", "codes", title="Offerings"
    )
    for offering in catalog.offerings.values():
        features = (terms.key for terms, value in catalog.feature_values(offering, overrides={}) if value)
        table.add_row(
            offering.sku, offering.name, offering.product, offering.edition or "-", offering.plan,
            "unlimited" if offering.seats is None else str(offering.seats), _overdraft(offering.overdraft.document()),
            ", ".join(features) or "-", "yes" if offering.activation_codes else "no",
        )  # fmt: skip
    return table


@customer_noun.command("add")
def customer_add(
    ctx: typer.Context,
    account_ref: Annotated[str, typer.Argument(help="Your own number for the customer; it never changes.")],
    name: Annotated[str, typer.Argument(help="The customer's name.")],
    field: Annotated[
        list[str] | None, typer.Option("--field", help="A field of your own, KEY=VALUE; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add a customer, or change the one of that account reference."""
    own = dict(_pair(item) for item in field) if field else None
    with _open(ctx) as issuer:
        customer = issuer.put_customer(account_ref, name=name, custom_fields=own, now=_now())
    if as_json:
        _print_json(_plain(customer))
    else:
        _say(f"{customer.account_ref} is {customer.name} ({customer.customer_id}).")


@customer_noun.command("list")
def customer_list(ctx: typer.Context, as_json: AsJson = False) -> None:
    """All customers."""
    with _open(ctx) as issuer:
        customers = issuer.register.customers()
    rows = ((each.account_ref, each.name, each.customer_id, write_instant(each.created_at)) for each in customers)
    _show("customers", customers, as_json, ("account_ref", "name", "customer_id", "created_at"), rows)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise typer.BadParameter(f"--field takes KEY=VALUE, not {text!r}.")
    return key, value


# -- servers ----------------------------------------------------------------------------------------------------------


@server_noun.command("register")
def server_register(
    ctx: typer.Context,
    request: Annotated[Path, typer.Argument(help="Activation request (.llsreq).")],
    customer: Annotated[
        str | None, typer.Option("--customer", help="Account reference; else the first order settles whose it is.")
    ] = None,
    binding: Annotated[
        Binding | None, typer.Option("--binding", help="Bind to its key alone, or to its machine too.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take an activation request in, or a newer one of the same server."""
    data = read_bounded(request, what="activation request", most=MOST_TOKEN)
    with _open(ctx) as issuer:
        server = issuer.register_server(data, customer=customer, binding=binding, now=_now())
        document = _server_document(server, issuer)
    if as_json:
        _print_json(document)
        return
    _say(
        f"Registered {server.name}: {server.server_id} "
        f"(version {server.version}, journal at line {server.journal_seq})."
    )
    _say(f"Compare its key with the site, over the telephone: {document['fingerprint']}")


@server_noun.command("list")
def server_list(ctx: typer.Context, as_json: AsJson = False) -> None:
    """All license servers."""
    with _open(ctx) as issuer:
        servers = [_server_document(server, issuer) for server in issuer.register.servers()]
    columns = (
        "server_id",
        "name",
        "account_ref",
        "version",
        "binding",
        "keys_version",
        "bundle_sequence",
        "request_made_at",
    )
    _show("servers", servers, as_json, columns, ([_cell(each[column]) for column in columns] for each in servers))


def _server_document(server: Server, issuer: Issuer) -> dict[str, Any]:
    owner = issuer.customer(server.customer_id).account_ref if server.customer_id else None
    return {
        **{key: value for key, value in _plain(server).items() if not key.endswith("_jwk") and key != "certificate"},
        "account_ref": owner,
        "fingerprint": server.fingerprint,
    }


# -- orders and entitlements ------------------------------------------------------------------------------------------


@order_noun.command("fulfil")
def order_fulfil(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="JSON: an order, or a list of orders.")],
    as_json: AsJson = False,
) -> None:
    """Fulfil orders, all or none; an order fulfilled before changes nothing."""
    data = read_bounded(file, what="order", most=LARGEST_ORDER_BYTES)
    with _open(ctx) as issuer:
        fulfilled = issuer.fulfil(data, now=_now())
    if as_json:
        _print_json({"orders": [_fulfilled_document(each) for each in fulfilled]})
        return
    for each in fulfilled:
        _say(
            f"{each.order_ref}: for {each.customer.name}, "
            f"{'fulfilled before: nothing changed' if each.again else 'fulfilled'}."
        )
        _stdout.print(_entitlement_table(each.entitlements))
    for server_id in sorted({each.server_id for each in fulfilled}):
        _say(f"Next: lls-issuer bundle issue --server {server_id} -o FILE")


def _fulfilled_document(fulfilled: Fulfilled) -> dict[str, Any]:
    return {
        "order_ref": fulfilled.order_ref,
        "already_fulfilled": fulfilled.again,
        "server_id": fulfilled.server_id,
        "customer": _plain(fulfilled.customer),
        "entitlements": [_sold_document(sold) for sold in fulfilled.entitlements],
    }


@entitlement_noun.command("list")
def entitlement_list(
    ctx: typer.Context,
    server: Annotated[str | None, typer.Option("--server", help="Only of this server.")] = None,
    customer: Annotated[str | None, typer.Option("--customer", help="Only of this account reference.")] = None,
    as_json: AsJson = False,
) -> None:
    """What was sold."""
    with _open(ctx) as issuer:
        server_id = issuer.server(server).server_id if server else None
        customer_id = issuer.customer(customer).customer_id if customer else None
        sold = issuer.register.entitlements(server_id=server_id, customer_id=customer_id)
    if as_json:
        _print_json({"entitlements": [_without_codes(_sold_document(each)) for each in sold]})
    else:
        _stdout.print(_entitlement_table(sold, codes=False))


@entitlement_noun.command("show")
def entitlement_show(
    ctx: typer.Context, entitlement_id: Annotated[str, typer.Argument(help="ent_…")], as_json: AsJson = False
) -> None:
    """One entitlement as its server gets it, activation codes included."""
    with _open(ctx) as issuer:
        sold = issuer.entitlement(entitlement_id)
    if as_json:
        _print_json(_sold_document(sold))
        return
    table = Table(show_header=False, title=entitlement_id)
    for key, value in _sold_document(sold).items():
        table.add_row(key, value if isinstance(value, str) else json.dumps(value))
    _stdout.print(table)


def _sold_document(sold: Sold) -> dict[str, Any]:
    return {"server_id": sold.server_id, "customer_id": sold.customer_id, "line": sold.line, **sold.document}


def _without_codes(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "activation_codes": len(document["activation_codes"])}


def _entitlement_table(sold: Iterable[Sold], *, codes: bool = True) -> Table:
    table = Table(
        "entitlement",
        "order",
        "line",
        "SKU",
        "seats",
        "overdraft",
        "starts_at",
        "expires_at",
        "status",
        title="Entitlements",
    )
    if codes:
        table.add_column("activation code")
    for each in sold:
        document: Mapping[str, Any] = each.document
        cells = [
            each.entitlement_id, each.order_ref, str(each.line), document["offering"]["sku"],
            "unlimited" if document["seats"] is None else str(document["seats"]), _overdraft(document["overdraft"]),
            document["starts_at"] or "first lease", document["expires_at"] or "never", document["status"],
        ]  # fmt: skip
        table.add_row(*cells, *(["\n".join(document["activation_codes"]) or "-"] if codes else []))
    return table


def _overdraft(document: Mapping[str, Any]) -> str:
    match document["type"]:
        case "absolute":
            return f"+{document['value']}"
        case "percentage":
            return f"+{document['value']} %"
        case kind:
            return str(kind)


# -- bundles, reports, receipts ---------------------------------------------------------------------------------------

_STANDARD: Final = Terms()


@bundle_noun.command("issue")
def bundle_issue(  # noqa: PLR0917 - Typer makes options out of parameters
    ctx: typer.Context,
    server: Annotated[str, typer.Option("--server", help="lls_…")],
    output: Output,
    valid_days: Annotated[
        int, typer.Option(min=1, max=3650, help="Until when it may be imported.")
    ] = _STANDARD.bundle_life.days,
    certificate_days: Annotated[
        int, typer.Option(min=1, max=36_500, help="Life of a new server certificate; new leases end with it.")
    ] = _STANDARD.certificate_life.days,
    sync_days: Annotated[
        int, typer.Option(min=1, max=36_500, help="How often a usage report is due, at the latest.")
    ] = _STANDARD.sync_within_days,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Write the bundle with the current state of all that a server hosts."""
    _writable(output)
    terms = Terms(
        bundle_life=timedelta(days=valid_days),
        certificate_life=timedelta(days=certificate_days),
        sync_within_days=sync_days,
    )
    with _open(ctx, passphrase_file, signs=True) as issuer:
        written = issuer.issue_bundle(server, now=_now(), terms=terms)
    write_whole(output, written.data)
    bundle = written.bundle
    for warning in written.warnings:
        _say(f"Note: {warning}")
    if as_json:
        payload: Mapping[str, Any] = bundle.payload
        _print_json({
            "bundle_id": bundle.bundle_id, "server_id": bundle.server_id, "sequence": bundle.sequence,
            "issued_at": write_instant(bundle.issued_at), "not_after": write_instant(bundle.not_after),
            "certificate_not_after": write_instant(written.certificate_ends_at), "key_sets": len(payload["keys"]),
            "entitlements": [sold.entitlement_id for sold in written.entitlements], "receipt_id": bundle.receipt_id,
            "file": str(output), "warnings": list(written.warnings),
        })  # fmt: skip
    else:
        _say(f"Wrote bundle {bundle.sequence} with {len(written.entitlements)} entitlements to {output}.")
        _say(f"Carry it to the site and import it by {bundle.not_after:%Y-%m-%d}: lls bundle import {output.name}")


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
    with _open(ctx, passphrase_file, signs=True) as issuer, _bar() as bar:
        for file in files:
            task = bar.add_task(file.name, total=None)
            try:
                ingested = issuer.ingest(
                    file,
                    now=_now(),
                    server_id=server,
                    progress=lambda done, total, task=task: bar.update(task, completed=done, total=total),  # type: ignore[misc]
                )
            except Fault as fault:
                done = f" The {len(taken)} before it were taken in." if taken else ""
                raise IssuerRefused(f"{file}: {fault.detail}{done}") from fault
            taken.append(ingested)
            if not as_json:
                _say(_ingested_sentence(file, ingested))
    if as_json:
        _print_json({"reports": [_ingested_document(each) for each in taken]})
    else:
        _say(f"Next: lls-issuer receipt issue --report {taken[-1].report.report_id} -o FILE")


def _ingested_sentence(file: Path, ingested: Ingested) -> str:
    report = ingested.report
    if ingested.again:
        return f"{file}: {report.report_id} was ingested before, nothing changed."
    lines = report.to_seq - report.from_seq + 1
    known = f", {lines - report.new_lines} of them known already" if report.new_lines < lines else ""
    return (
        f"{file}: {report.report_id} of {report.server_id}, lines {report.from_seq} to {report.to_seq}{known}; "
        f"the chain and the usage table hold, {len(ingested.usage)} usage lines."
    )


def _ingested_document(ingested: Ingested) -> dict[str, Any]:
    return {
        **_plain(ingested.report),
        "already_ingested": ingested.again,
        "usage": _plain(ingested.usage),
        "names": ingested.names,
    }


@report_noun.command("list")
def report_list(
    ctx: typer.Context,
    server: Annotated[str | None, typer.Option("--server", help="Only of this server.")] = None,
    as_json: AsJson = False,
) -> None:
    """The reports that were taken in."""
    with _open(ctx) as issuer:
        server_id = issuer.server(server).server_id if server else None
        reports = [_report_document(report, issuer) for report in issuer.register.reports(server_id=server_id)]
    columns = ("report_id", "server_id", "from_seq", "to_seq", "new_lines", "made_at", "pseudonymised", "receipt_id")
    _show("reports", reports, as_json, columns, ([_cell(each[column]) for column in columns] for each in reports))


def _report_document(report: IngestedReport, issuer: Issuer) -> dict[str, Any]:
    receipt = issuer.register.receipt_of(report.report_id)
    return {**_plain(report), "receipt_id": receipt and receipt.receipt_id}


@receipt_noun.command("issue")
def receipt_issue(
    ctx: typer.Context,
    report: Annotated[str, typer.Option("--report", help="rpt_…")],
    output: Output,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Write the receipt for a report; the next bundle carries it too."""
    _writable(output)
    with _open(ctx, passphrase_file, signs=True) as issuer:
        receipt = issuer.issue_receipt(report, now=_now())
        knows, newest = issuer.server(receipt.server_id).keys_version, issuer.keyring.newest.version
    write_whole(output, receipt.token.encode())
    if knows < newest:
        _say(
            f"Note: at its newest request this server knew key set {knows}, and the receipt is signed by key set "
            f"{newest}: it is accepted once a bundle brought those keys. The next bundle carries it too."
        )
    if as_json:
        _print_json({key: value for key, value in _plain(receipt).items() if key != "token"} | {"file": str(output)})
    else:
        _say(f"Wrote the receipt for everything up to line {receipt.up_to_seq} of {receipt.server_id} to {output}.")


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
    with _open(ctx) as issuer:
        lines = issuer.usage(customer=customer, period=period)
    if format_ is Format.CSV:
        data = billing_csv(lines)
    else:
        data = (json.dumps({"lines": [billing_document(line) for line in lines]}, indent=2) + "\n").encode()
    if output is None:
        typer.echo(data, nl=False)
    else:
        write_whole(output, data, mode=PRIVATE)
        _say(f"Wrote {len(lines)} billing lines to {output}.")


# -- how --------------------------------------------------------------------------------------------------------------


def main() -> None:
    """The entry point of ``lls-issuer``."""
    app(prog_name="lls-issuer")


def _now() -> datetime:
    return datetime.now(UTC)


def _home(ctx: typer.Context) -> Path:
    home = ctx.obj
    if not isinstance(home, Path):
        raise typer.BadParameter("Say where the issuer's home is: lls-issuer --home DIR …, or LLS_ISSUER_HOME.")
    return home


def _open(ctx: typer.Context, passphrase_file: Path | None = None, *, signs: bool = False) -> Issuer:
    home = _home(ctx)
    if not signs:
        return Issuer(home, now=_now())
    given = passphrase_file is not None or "LLS_ISSUER_PASSPHRASE" in os.environ
    asks = not given and sys.stdin.isatty() and Issuer.needs_passphrase(home)
    return Issuer(home, now=_now(), passphrase=_passphrase(passphrase_file) if given or asks else None)


def _passphrase(file: Path | None, *, anew: bool = False) -> bytes:
    if file is not None:
        text = read_bounded(file, what="passphrase file", most=4096).rstrip(b"\r\n")
    elif "LLS_ISSUER_PASSPHRASE" in os.environ:
        try:
            text = os.environ["LLS_ISSUER_PASSPHRASE"].encode()
        except UnicodeEncodeError:
            raise HomeRefused(
                "LLS_ISSUER_PASSPHRASE is not UTF-8; give the passphrase with --passphrase-file."
            ) from None
    elif sys.stdin.isatty():
        text = str(typer.prompt("Passphrase of the vendor's keys", hide_input=True, confirmation_prompt=anew)).encode()
    else:
        raise typer.BadParameter(
            "Give a passphrase with --passphrase-file or LLS_ISSUER_PASSPHRASE, or say --no-passphrase."
        )
    if not text:
        raise HomeRefused("The passphrase is empty; give one, or say --no-passphrase at init.")
    if len(text) > _LONGEST_PASSPHRASE:
        raise HomeRefused(
            f"The passphrase is longer than {_LONGEST_PASSPHRASE} bytes, which PKCS #8 files cannot take."
        )
    return text


_LONGEST_PASSPHRASE: Final = 1023  # OpenSSL's limit


def _writable(output: Path) -> None:
    # Found out before anything is signed, so that a mistyped folder costs no sequence number.
    if output.is_dir() or not os.access(output.absolute().parent, os.W_OK):
        raise HomeRefused(
            f"{output} cannot be written: its directory is missing or closed to you, or it is one itself."
        )


@contextmanager
def _bar() -> Any:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=_stderr, transient=True, disable=not sys.stderr.isatty())
    with progress if sys.stderr.isatty() else nullcontext():
        yield progress


def _say(sentence: str) -> None:
    _stderr.print(sentence)


def _print_json(document: object) -> None:
    typer.echo(json.dumps(document, indent=2))


def _show(
    name: str, values: Iterable[object], as_json: bool, columns: Iterable[str], rows: Iterable[Iterable[str]]
) -> None:
    if as_json:
        _print_json({name: [_plain(value) for value in values]})
        return
    table = Table(*columns, title=name.capitalize())
    for row in rows:
        table.add_row(*row)
    _stdout.print(table)


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case _:
            return str(value)


def _plain(value: Any) -> Any:
    """Values as JSON has them."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    match value:
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case datetime():
            return write_instant(value)
        case Decimal():
            return str(value)
        case _:
            return value
