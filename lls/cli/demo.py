"""``lls demo``: a whole throw-away world on this machine. The world itself is :mod:`lls.demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo_command(
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Where the server listens on 127.0.0.1; 0: any.")] = 0,
    clients: Annotated[int, typer.Option(min=1, max=10_000, help="Simulated applications.")] = 100,
    seconds: Annotated[
        int | None, typer.Option(min=1, help="How long. Default: until Ctrl-C.", show_default=False)
    ] = None,
    directory: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Keep the files here. Default: a temporary folder.")
    ] = None,
) -> None:
    """Show a whole throw-away world at work.

    Vendor, server, signed bundle, simulated clients, usage report and receipt.
    """
    from lls.demo import demo

    raise typer.Exit(demo(port, clients, seconds, directory))
