"""``lls-issuer bundle``: what is carried to a site."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from lls.issuer.cli.frame import AsJson, Output, PassphraseFile, group, now, open_issuer, print_json, say, writable
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
from lls.issuer.cli.when import instant_of
from lls.issuer.files import write_whole
from lls.issuer.issuing import WrittenBundle
from lls.issuer.pending import Kind, Pending
from lls.licensing.fields import write_instant

noun = group("What is carried to a site.")


@noun.command("issue")
def bundle_issue(  # noqa: PLR0917 - Typer makes options out of parameters
    ctx: typer.Context,
    server: Annotated[str, typer.Option("--server", help="lls_…")],
    output: Output,
    valid_days: Annotated[int | None, typer.Option(min=1, max=3650, help="Until when it may be imported.")] = None,
    certificate_days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="Life of a new server certificate; new leases end with it.")
    ] = None,
    sync_days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="How often a usage report is due, at the latest.")
    ] = None,
    license_until: Annotated[
        str | None, typer.Option("--license-until", help="Day or instant at which the server's licence ends.")
    ] = None,
    unsigned: Unsigned = False,
    sign_within_days: SignWithinDays = STANDARD_DAYS,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Write the bundle with the current state of all that a server hosts."""
    writable(output)
    said = {
        "valid_days": valid_days,
        "certificate_days": certificate_days,
        "sync_days": sync_days,
        "license_until": None
        if license_until is None
        else write_instant(instant_of(license_until, option="--license-until")),
    }
    with open_issuer(ctx, passphrase_file, signs=True) as issuer:
        if not unsigned:
            _write(issuer.issue_bundle(server, now=now(), terms=said), output, as_json=as_json)
            return
        life = timedelta(days=sign_within_days)
        drafted = issuer.issuing.draft_bundle(server, now=now(), terms=said, life=life)
    for warning in drafted.warnings:
        say(f"Note: {warning}")
    write_pending(output, drafted.pending, as_json=as_json)


@noun.command("sign")
def bundle_sign(  # noqa: PLR0917 - Typer makes options out of parameters
    ctx: typer.Context,
    file: PendingFile,
    key: KeyFile = None,
    sign_with: SignWith = None,
    trust: Trusted = None,
    yes: Yes = False,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Read what a bundle would grant, and add your signature; without --key, those of this home."""

    def here(pending: Pending) -> Pending:
        with open_issuer(ctx, passphrase_file, signs=True) as issuer:
            return issuer.issuing.sign_here(pending, now=now())

    sign_file(
        file, kind=Kind.BUNDLE, key=key, sign_with=sign_with, trust=trust, passphrase_file=passphrase_file, yes=yes,
        as_json=as_json, here=here,
    )  # fmt: skip


@noun.command("seal")
def bundle_seal(ctx: typer.Context, file: PendingFile, output: Output, as_json: AsJson = False) -> None:
    """Make the bundle of what enough people have signed."""
    writable(output)
    pending = read_file(file, kind=Kind.BUNDLE)
    with open_issuer(ctx) as issuer:
        written = issuer.issuing.seal_bundle(pending, now=now())
    _write(written, output, as_json=as_json)


def _write(written: WrittenBundle, output: Path, *, as_json: bool) -> None:
    write_whole(output, written.data)
    bundle = written.bundle
    for warning in written.warnings:
        say(f"Note: {warning}")
    if as_json:
        payload: Mapping[str, Any] = bundle.payload
        print_json({
            "bundle_id": bundle.bundle_id, "server_id": bundle.server_id, "sequence": bundle.sequence,
            "issued_at": write_instant(bundle.issued_at), "not_after": write_instant(bundle.not_after),
            "certificate_not_after": write_instant(written.certificate_ends_at),
            "license_expires_at": payload["server_license"]["expires_at"], "key_sets": len(payload["keys"]),
            "entitlements": [sold.entitlement_id for sold in written.entitlements], "receipt_id": bundle.receipt_id,
            "commands": [one["command_id"] for one in payload["commands"]],
            "file": str(output), "warnings": list(written.warnings),
        })  # fmt: skip
    else:
        say(f"Wrote bundle {bundle.sequence} with {len(written.entitlements)} entitlements to {output}.")
        say(f"Carry it to the site and import it by {bundle.not_after:%Y-%m-%d}: lls bundle import {output.name}")
