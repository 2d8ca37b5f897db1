"""The appliance's commands: one module per noun, every one a short conversation with the running daemon.

Rules
1. A command reads its settings, asks the daemon over the admin socket once or a few times, and shows what it said. It
   holds no rule of licensing: what may be done is judged by the daemon alone.
2. Exit status (contract, common rules): 0 done, 1 refused or failed, 2 wrong usage, 3 the daemon cannot be reached.
   1 and 3 come with one sentence on standard error; no mistake of a user's shows a traceback.
3. Results go to standard output: tables for people, documents with ``--json`` for programs. All else goes to
   standard error.
4. A command imports what it needs when it runs: ``lls lease list`` is typed a hundred times a day.

It refuses to own the vendor's commands (``lls-issuer``).
"""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from lls import __version__
from lls.cli import (
    backup,
    borrow,
    bundle,
    clock,
    config,
    denials,
    doctor,
    entitlement,
    events,
    journal,
    key,
    lease,
    log,
    policy,
    receipt,
    report,
    serve,
    server,
    setup,
    support_bundle,
    tls,
    usage,
    user,
)
from lls.cli.frame import Commands, noun

app = noun(None, "The Local License Server: floating seats on a network that has no way out.", cls=Commands)


def main() -> None:
    """The program ``lls``."""
    # A terminal that cannot write a holder's name must not turn a list into a traceback.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    if (
        "_LLS_COMPLETE" in os.environ
    ):  # a shell asks what could follow; Typer knows shells only where it may install for them
        from typer._completion_classes import completion_init

        completion_init()
        os.environ["COLUMNS"] = "1000"  # a help that is folded at the terminal's width is two words in fish
    app(prog_name="lls")


def _tell_version(ctx: typer.Context, *, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:  # a shell that completes wants words and no answer
        typer.echo(f"lls {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    ctx: typer.Context,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="The settings. Default: $LLS_CONFIG, else /etc/lls/lls.toml, else defaults.",
        ),
    ] = None,
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=lambda ctx, value: _tell_version(ctx, wanted=value),
            help="Show the version and exit.",
        ),
    ] = False,
) -> None:
    ctx.obj = (config_file, os.environ)


serve.register(app)
backup.register(app)
setup.register(app)
for part in (
    server,
    bundle,
    entitlement,
    lease,
    borrow,
    policy,
    report,
    receipt,
    journal,
    events,
    user,
    key,
    clock,
    log,
    tls,
    config,
):
    app.add_typer(part.app)
policy.register(app)
denials.register(app)
usage.register(app)
doctor.register(app)
support_bundle.register(app)
