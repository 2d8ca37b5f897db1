"""``lls-issuer bundle``: what is carried to a site."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Final

import typer

from lls.issuer.cli.frame import AsJson, Output, PassphraseFile, group, now, open_issuer, print_json, say, writable
from lls.issuer.files import write_whole
from lls.issuer.issue import Terms
from lls.licensing.fields import write_instant

noun = group("What is carried to a site.")


_STANDARD: Final = Terms()


@noun.command("issue")
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
    writable(output)
    terms = Terms(
        bundle_life=timedelta(days=valid_days),
        certificate_life=timedelta(days=certificate_days),
        sync_within_days=sync_days,
    )
    with open_issuer(ctx, passphrase_file, signs=True) as issuer:
        written = issuer.issue_bundle(server, now=now(), terms=terms)
    write_whole(output, written.data)
    bundle = written.bundle
    for warning in written.warnings:
        say(f"Note: {warning}")
    if as_json:
        payload: Mapping[str, Any] = bundle.payload
        print_json({
            "bundle_id": bundle.bundle_id, "server_id": bundle.server_id, "sequence": bundle.sequence,
            "issued_at": write_instant(bundle.issued_at), "not_after": write_instant(bundle.not_after),
            "certificate_not_after": write_instant(written.certificate_ends_at), "key_sets": len(payload["keys"]),
            "entitlements": [sold.entitlement_id for sold in written.entitlements], "receipt_id": bundle.receipt_id,
            "file": str(output), "warnings": list(written.warnings),
        })  # fmt: skip
    else:
        say(f"Wrote bundle {bundle.sequence} with {len(written.entitlements)} entitlements to {output}.")
        say(f"Carry it to the site and import it by {bundle.not_after:%Y-%m-%d}: lls bundle import {output.name}")
