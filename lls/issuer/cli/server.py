"""``lls-issuer server``: license servers at the customers' sites."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lls.faults import RefusedDocument
from lls.issuer.binding import changed_parts, usual_number
from lls.issuer.cli.frame import AsJson, cell, group, now, open_issuer, plain, print_id, print_json, say, show, stdout
from lls.issuer.cli.when import instant_of
from lls.issuer.files import read_bounded
from lls.issuer.issue import Terms
from lls.issuer.office import Issuer
from lls.issuer.register import Server, Sold
from lls.issuer.serving import Shown
from lls.licensing.fields import Fields, write_instant
from lls.signed.jose import MOST_TOKEN

noun = group("License servers at the customers' sites.")


class Binding(StrEnum):
    """What a server is bound to."""

    KEY_ONLY = "key_only"
    HOST = "host"


@noun.command("register")
def server_register(  # noqa: PLR0917 - Typer makes options out of parameters
    ctx: typer.Context,
    request: Annotated[Path, typer.Argument(help="Activation request (.llsreq).")],
    customer: Annotated[
        str | None, typer.Option("--customer", help="Account reference; else the first order settles whose it is.")
    ] = None,
    binding: Annotated[
        Binding | None, typer.Option("--binding", help="Bind to its key alone, or to its machine too.")
    ] = None,
    rebind: Annotated[
        str | None,
        typer.Option("--rebind", metavar="REASON", help="Why a request from another machine than before is believed."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take an activation request in, or a newer one of the same server."""
    data = read_bounded(request, what="activation request", most=MOST_TOKEN)
    with open_issuer(ctx) as issuer:
        before = {known.server_id: known for known in issuer.register.servers()}
        try:
            server = issuer.register_server(data, customer=customer, binding=binding, rebind=rebind, now=now())
        except RefusedDocument as refused:
            raise RefusedDocument(
                refused.reason,
                f"{request} is no activation request to register: {refused.detail} The site writes one with: lls "
                "server request -o FILE.",
            ) from refused
        document = {**_server_document(server, issuer), "changed_parts": _changed(before, server, issuer)}
    if as_json:
        print_json(document)
        return
    say(f"Registered {server.name} (version {server.version}, journal at line {server.journal_seq}).")
    say(f"Compare its key with the site, over the telephone: {document['fingerprint']}")
    if document["changed_parts"]:
        gone = ", ".join(document["changed_parts"])
        say(f"Its machine is enrolled as it is now. Other than before, or gone: {gone}. Ask, if nobody told you.")
    print_id(server.server_id)


def _changed(before: Mapping[str, Server], server: Server, issuer: Issuer) -> list[str]:
    """The parts that the request before had and this one does not confirm."""
    known = before.get(server.server_id)
    return [] if known is None else changed_parts(known, server.host, issuer.serving.terms(server.server_id))


@noun.command("list")
def server_list(ctx: typer.Context, as_json: AsJson = False) -> None:
    """All license servers."""
    with open_issuer(ctx) as issuer:
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
        "retired_at",
    )
    show("servers", servers, as_json, columns, ([cell(each[column]) for column in columns] for each in servers))


def _server_document(server: Server, issuer: Issuer) -> dict[str, Any]:
    owner = issuer.customer(server.customer_id).account_ref if server.customer_id else None
    return {
        **{key: value for key, value in plain(server).items() if not key.endswith("_jwk") and key != "certificate"},
        "account_ref": owner,
        "fingerprint": server.fingerprint,
    }


@noun.command("show")
def server_show(
    ctx: typer.Context, server_id: Annotated[str, typer.Argument(help="lls_…")], as_json: AsJson = False
) -> None:
    """One server: its terms, its licence, what it hosts, what it was sent and what it reported."""
    with open_issuer(ctx) as issuer:
        shown = issuer.serving.show(server_id, keys=issuer.keyring.newest)
        document = _shown_document(shown, issuer)
    if as_json:
        print_json(document)
        return
    terms, certificate = document["terms"], document["certificate"]
    for line in (
        f"{document['name']} ({server_id}) of {cell(document['account_ref'])}, version {document['version']}",
        f"key                {document['fingerprint']}",
        f"retired            {cell(document['retired_at'])}",
        f"licence            until {terms['license_until'] or 'its certificate ends'}",
        f"certificate        {'none' if certificate is None else 'until ' + certificate['not_after']}",
        f"binding            {_binding_words(document)}",
        f"report             every {terms['sync_days']} days; the next is due {cell(document['report_due_at'])}",
        f"last report        {_last(document['last_report'], 'made_at', 'to_seq', 'line')}",
        f"last bundle        {_last(document['last_bundle'], 'issued_at', 'sequence', 'sequence')}",
        f"key set            {document['keys_version']} at its newest request, of {cell(document['request_made_at'])}",
        f"waiting orders     {', '.join(one['type'] for one in document['commands']) or 'none'}",
    ):
        stdout.print(line)
    for one in document["waiting"]:
        stdout.print(f"waits for signing  {one['kind']} of {one['made_at']}, until {one['not_after']}")
    for one in document["entitlements"]:
        stdout.print(f"hosts              {one['entitlement_id']} {one['sku']}, {one['status']}")


def _shown_document(shown: Shown, issuer: Issuer) -> dict[str, Any]:
    terms, certificate, bundle, report = shown.terms, shown.certificate, shown.last_bundle, shown.last_report
    return {
        **_server_document(shown.server, issuer),
        "terms": terms_document(terms),
        "certificate": certificate
        and {"not_after": write_instant(certificate.not_after), "products": list(certificate.products)},
        "report_due_at": shown.report_due_at and write_instant(shown.report_due_at),
        "last_bundle": bundle
        and {"bundle_id": bundle.bundle_id, "sequence": bundle.sequence, "issued_at": write_instant(bundle.issued_at)},
        "last_report": report
        and {"report_id": report.report_id, "to_seq": report.to_seq, "made_at": write_instant(report.made_at)},
        "entitlements": [
            {
                "entitlement_id": sold.entitlement_id,
                "sku": Fields(sold.document, place="entitlement").object("offering").word("sku"),
                "status": sold.document["status"],
                "expires_at": sold.document["expires_at"],
            }
            for sold in shown.entitlements
        ],
        "waiting": plain(shown.waiting),
        "commands": [plain(one.document) | {"ordered_at": write_instant(one.ordered_at)} for one in shown.commands],
    }


def terms_document(terms: Terms) -> dict[str, Any]:
    """Terms as the options of ``server terms`` name them."""
    return {
        "license_until": terms.license_until and write_instant(terms.license_until),
        "sync_days": terms.sync_within_days,
        "valid_days": terms.bundle_life.days,
        "certificate_days": terms.certificate_life.days,
        "required": terms.required,
        "rebind_grace_days": terms.rebind_grace.days,
    }


def _binding_words(document: dict[str, Any]) -> str:
    if document["binding"] == Binding.KEY_ONLY:
        return "its keys alone"
    required = document["terms"]["required"] or usual_number(len(document["host"]))
    days = document["terms"]["rebind_grace_days"]
    return f"{required} of the {len(document['host'])} parts of its machine; {days} days after a change"


def _last(document: dict[str, Any] | None, at: str, number: str, word: str) -> str:
    return "none" if document is None else f"{document[at]}, {word} {document[number]}"


@noun.command("terms")
def server_terms(  # noqa: PLR0917 - Typer makes options out of parameters
    ctx: typer.Context,
    server_id: Annotated[str, typer.Argument(help="lls_…")],
    license_until: Annotated[
        str | None,
        typer.Option("--license-until", help="Day or instant at which its licence ends; certificate: with that."),
    ] = None,
    sync_days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="How often a usage report is due, at the latest.")
    ] = None,
    valid_days: Annotated[int | None, typer.Option(min=1, max=3650, help="How long a bundle may be imported.")] = None,
    certificate_days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="Life of a new server certificate.")
    ] = None,
    binding: Annotated[
        Binding | None, typer.Option("--binding", help="Bind to its key alone, or to its machine too.")
    ] = None,
    required: Annotated[
        int | None, typer.Option(min=1, max=64, help="How many parts of its machine must still match.")
    ] = None,
    rebind_grace_days: Annotated[
        int | None, typer.Option(min=1, max=3650, help="How long leases go on after its machine changed.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Agree on other terms for a server; its bundles carry them from now on."""
    given: dict[str, Any] = {
        "sync_days": sync_days, "valid_days": valid_days, "certificate_days": certificate_days, "required": required,
        "rebind_grace_days": rebind_grace_days,
    }  # fmt: skip
    said = {name: value for name, value in given.items() if value is not None}
    if license_until is not None:
        ends = None if license_until == "certificate" else instant_of(license_until, option="--license-until")
        said["license_until"] = ends and write_instant(ends)
    with open_issuer(ctx) as issuer:
        server, terms = issuer.serving.agree(server_id, said, binding=binding and binding.value, now=now())
    if as_json:
        print_json({"server_id": server_id, "binding": server.binding, "terms": terms_document(terms)})
    else:
        say(f"The terms of {server.name} are changed. Next: lls-issuer bundle issue --server {server_id} -o FILE")


@noun.command("reset-clock")
def server_reset_clock(
    ctx: typer.Context,
    server_id: Annotated[str, typer.Argument(help="lls_…")],
    confirm: Annotated[str | None, typer.Option("--confirm", help="The server's name.")] = None,
    as_json: AsJson = False,
) -> None:
    """Let the next bundle take back a clock that was far ahead once, so that the server believes its own again."""
    with open_issuer(ctx) as issuer:
        ordered = issuer.serving.reset_clock(server_id, confirm=confirm, now=now())
    if as_json:
        print_json({"command_id": ordered.command.command_id, "server_id": server_id, "already_ordered": ordered.again})
        return
    again = " already, and no report has shown that it was carried out" if ordered.again else ""
    say(f"{ordered.command.command_id} is ordered{again}; every bundle of {ordered.server.name} carries it until then.")
    say(f"Next: lls-issuer bundle issue --server {server_id} -o FILE")


@noun.command("adopt")
def server_adopt(  # noqa: PLR0917 - Typer makes options out of parameters
    ctx: typer.Context,
    request: Annotated[Path, typer.Argument(help="Activation request (.llsreq) of the server that was restored.")],
    confirm: Annotated[str | None, typer.Option("--confirm", help="The server's name.")] = None,
    binding: Annotated[
        Binding | None, typer.Option("--binding", help="Bind to its key alone, or to its machine too.")
    ] = None,
    rebind: Annotated[
        str | None,
        typer.Option("--rebind", metavar="REASON", help="Why a request from another machine than before is believed."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Let a server that was put back from a backup go on, with the counters that it reported last."""
    data = read_bounded(request, what="activation request", most=MOST_TOKEN)
    with open_issuer(ctx) as issuer:
        answered = issuer.adopt(data, confirm=confirm, binding=binding and binding.value, rebind=rebind, now=now())
    command, server = answered.command, answered.server
    if as_json:
        document = {"command_id": command.command_id, "server_id": server.server_id, "already_ordered": answered.again}
        print_json(document | {"known": answered.known, "backup": answered.backup, "lost": answered.lost})
        return
    say(f"Its backup ends at line {answered.backup}; line {answered.known} is the last one that it reported.")
    if answered.lost:
        say(f"It goes on behind line {answered.known}, with the counters of then: {answered.lost} lines are only here.")
    else:
        say("All that it reported is in the backup: it goes on as it is. What it wrote after the backup is lost.")
    again = " already, and no report has shown that it was carried out" if answered.again else ""
    say(f"{command.command_id} is ordered{again}; every bundle of {server.name} carries it until then.")
    say(f"Next: lls-issuer bundle issue --server {server.server_id} -o FILE")


@noun.command("retire")
def server_retire(
    ctx: typer.Context,
    server_id: Annotated[str, typer.Argument(help="lls_…")],
    lost: Annotated[bool, typer.Option("--lost", help="It is gone for good, with all that it hosts.")] = False,
    confirm: Annotated[str | None, typer.Option("--confirm", help="With --lost: the server's name.")] = None,
    as_json: AsJson = False,
) -> None:
    """Issue nothing to a server any more; with --lost, let others host what it hosted."""
    with open_issuer(ctx) as issuer:
        retired = issuer.hosting.retire(server_id, lost=lost, confirm=confirm, now=now())
        document = _server_document(retired.server, issuer)
    if as_json:
        free = [
            {"entitlement_id": sold.entitlement_id, "free_from": sold.free_from and write_instant(sold.free_from)}
            for sold in retired.freed
        ]
        print_json(document | {"already_retired": retired.again, "freed": free})
        return
    if retired.again:
        say(f"{server_id} was retired on {retired.server.retired_at:%Y-%m-%d}; nothing changed.")
        return
    say(f"{server_id} is retired: no bundle is issued to it any more, and its certificate is never renewed.")
    for sold in retired.freed:
        say(f"{sold.entitlement_id} {_free_from(sold)}: lls-issuer entitlement host {sold.entitlement_id} --server ID")


def _free_from(sold: Sold) -> str:
    if sold.free_from is None:
        return "can be hosted by another server at once"
    return (
        f"may have borrowed seats until {write_instant(sold.free_from)}, the longest that any could be borrowed for; "
        "from then on another server can host it"
    )
