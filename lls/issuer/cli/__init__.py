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

import os
import sqlite3
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lls.faults import Fault
from lls.issuer.cli import (
    audit,
    bundle,
    catalog,
    customer,
    entitlement,
    grant,
    inbox,
    keys,
    order,
    report,
    serve,
    server,
    usage,
    view,
)
from lls.issuer.cli.frame import (
    AsJson,
    PassphraseFile,
    home_of,
    now,
    passphrase_from,
    print_json,
    printable,
    remember_who,
    say,
    stderr,
    who_of,
)
from lls.issuer.cli.signing import pending_document, tell_pending
from lls.issuer.founding import FIRST_KEYS, SAMPLE_CATALOG
from lls.issuer.office import Issuer


class _Refusing(TyperGroup):
    """Turns a refusal into its sentence and exit status 1, for every command below."""

    def invoke(self, ctx: Any) -> Any:  # Typer brings a Click of its own, whose types have no public name
        try:
            return super().invoke(ctx)
        except Fault as fault:
            # A refusal may name what somebody else wrote, such as an unknown member of a shop's order.
            stderr.print(f"lls-issuer: {printable(fault.detail)}", style="red")
        except sqlite3.DatabaseError as failure:
            if type(failure) not in (sqlite3.DatabaseError, sqlite3.OperationalError):
                raise  # a fault of this program, and none of the disk
            stderr.print(
                f"lls-issuer: The register cannot be read: {failure}. If it is damaged, put it back from the backup.",
                style="red",
            )
        except OSError as failure:
            if failure.strerror is None:
                raise
            stderr.print(f"lls-issuer: {failure.filename or 'the disk'}: {failure.strerror}.", style="red")
        raise typer.Exit(1)


app = typer.Typer(
    cls=_Refusing, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False,
    help="The vendor's side of the Local License Server: sell seats, issue bundles, take usage reports in.",
)  # fmt: skip


for name, noun in {
    "keys": keys.noun,
    "catalog": catalog.noun,
    "customer": customer.noun,
    "server": server.noun,
    "order": order.noun,
    "entitlement": entitlement.noun,
    "grant": grant.noun,
    "bundle": bundle.noun,
    "report": report.report_noun,
    "receipt": report.receipt_noun,
    "return": report.return_noun,
    "usage": usage.noun,
    "view": view.view_noun,
    "feed": view.feed_noun,
    "audit": audit.noun,
    "inbox": inbox.noun,
}.items():
    app.add_typer(noun, name=name)
app.command("serve")(serve.serve)
order.noun.command("import")(serve.order_import)


@app.callback()
def _options(
    ctx: typer.Context,
    home: Annotated[
        Path | None, typer.Option("--home", envvar="LLS_ISSUER_HOME", help="Directory of keys and register.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option("--by", envvar="LLS_ISSUER_ACTOR", help="Who acts, for the history; else your account's name."),
    ] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Why, for the history.")] = None,
) -> None:
    ctx.obj = home
    remember_who(ctx, by=by or None, reason=reason)


@app.command()
def init(  # noqa: PLR0917 - Typer makes options out of parameters
    ctx: typer.Context,
    passphrase_file: PassphraseFile = None,
    no_passphrase: Annotated[
        bool, typer.Option("--no-passphrase", help="Leave the private keys unencrypted: for tests and demonstrations.")
    ] = False,
    threshold: keys.Thresholds = None,
    given: Annotated[
        list[str] | None,
        typer.Option("--keys", help="ROLE=FILE.llskey: somebody else's key; ROLE=own: one of this home. Repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make keys, register and a sample catalogue."""
    home = home_of(ctx)
    if no_passphrase and passphrase_file:
        raise typer.BadParameter("--no-passphrase and --passphrase-file exclude each other.")
    change = keys.first_change(given, threshold)
    passphrase = None if no_passphrase else passphrase_from(passphrase_file, anew=True)
    with Issuer.create(home, now=now(), passphrase=passphrase, who=who_of(ctx), keys=change) as issuer:
        if as_json:
            print_json(_made(issuer, home))
        elif issuer.first_keys is None:
            say(f"Made keys (key set {issuer.keyring.newest.version}) and register in {home}.")
        else:
            say(f"Made keys and register in {home}. The first key set waits for the signatures of others.")
            tell_pending(home / FIRST_KEYS, issuer.first_keys, as_json=False)
    if as_json:
        return
    if no_passphrase:
        say("The private keys are NOT encrypted; whoever reads them can make licences.")
    say(
        f"Next: edit {home / SAMPLE_CATALOG} and load it (catalog load); "
        "put the key set where servers and applications find it (keys export)."
    )


def _made(issuer: Issuer, home: Path) -> dict[str, Any]:
    pending = issuer.first_keys
    return {
        "home": str(home),
        "key_set": issuer.keyring.newest.version if pending is None else None,
        "catalog": str(home / SAMPLE_CATALOG),
        "pending": None if pending is None else pending_document(pending, file=home / FIRST_KEYS),
    }


def main() -> None:
    """The entry point of ``lls-issuer``."""
    if "_LLS_ISSUER_COMPLETE" in os.environ:  # a shell asks what could follow
        from typer._completion_classes import completion_init

        completion_init()
        os.environ["COLUMNS"] = "1000"  # a help that is folded at the terminal's width is two words in fish
    app(prog_name="lls-issuer")
