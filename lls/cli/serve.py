"""``lls serve``: the daemon in the foreground. The daemon itself is :mod:`lls.daemon`."""

from __future__ import annotations

import typer

from lls.cli.frame import given, settings
from lls.config import source_of


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve")(serve)


def serve(ctx: typer.Context) -> None:
    """Run the daemon in the foreground.

    SIGTERM drains and stops it, SIGHUP reloads the policy.
    """
    config = settings(ctx)
    from lls import daemon

    raise typer.Exit(daemon.serve(config, source=source_of(*given(ctx))))
