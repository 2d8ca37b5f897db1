"""``lls-issuer serve`` and ``order import``: what shops and billing systems say was sold."""

from __future__ import annotations

import asyncio
import signal
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lls.issuer.cli.entitlement import entitlement_table, sold_document
from lls.issuer.cli.frame import AsJson, home_of, now, open_issuer, print_json, printable, say, stdout
from lls.issuer.files import read_bounded
from lls.issuer.orders import LARGEST_ORDER_BYTES
from lls.issuer.refusals import IntakeRefused

if TYPE_CHECKING:
    from lls.issuer.intake.settings import Settings

Config = Annotated[
    Path | None, typer.Option("--config", help="The intake's TOML; else intake.toml in the home, where that is.")
]
_HIGHEST_PORT = 65_535


def serve(
    ctx: typer.Context,
    listen: Annotated[
        str | None, typer.Option("--listen", help="HOST:PORT; else as the configuration says, or 127.0.0.1:6510.")
    ] = None,
    config: Config = None,
) -> None:
    """Take purchase events over HTTP, in the foreground, until it is stopped (Ctrl-C, SIGTERM)."""
    from lls.issuer.intake.settings import read_settings

    home = home_of(ctx)
    path = config or home / "intake.toml"
    if not path.exists():
        raise IntakeRefused(
            f"There is no {path}, so no source may send anything. Describe the sources there; see the vendor's guide, "
            "purchase events over HTTP."
        )
    settings = read_settings(path)
    if not settings.sources:
        raise IntakeRefused(f"{path} describes no source, so nobody may send anything; add a table such as [stripe].")
    host, port = address(listen or settings.listen)
    asyncio.run(_serve(home, settings, host, port))


async def _serve(home: Path, settings: Settings, host: str, port: int) -> None:
    from lls.issuer.intake.server import Server

    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    server = Server(home, settings, clock=now, tell=lambda told: say(printable(told)))
    bound, at = await server.start(host, port)
    say(f"Listening on http://{f'[{bound}]' if ':' in bound else bound}:{at} for {', '.join(settings.sources)}.")
    try:
        await stopped.wait()
    finally:
        await server.stop()
    say("Stopped; what was received is kept.")


def address(text: str) -> tuple[str, int]:
    """``HOST:PORT``, an IPv6 host in brackets. Raises IntakeRefused."""
    host, _, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if (
        not bare
        or not (port.isascii() and port.isdecimal())
        or int(port) > _HIGHEST_PORT
        or (":" in bare) != (bare != host)
    ):
        raise IntakeRefused(f"{text!r} is no address to listen on; write it like 127.0.0.1:6510 or [::1]:6510.")
    return bare, int(port)


class FileFormat(StrEnum):
    """Whose order files are read."""

    SALESFORCE = "salesforce"
    NETSUITE = "netsuite"


def order_import(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="CSV, or JSON where the name ends in .json.")],
    file_format: Annotated[FileFormat, typer.Option("--format", help="Whose export it is.")],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Fulfil the orders of an export, all or none; what was fulfilled before changes nothing."""
    from lls.issuer.intake.processing import Intake
    from lls.issuer.intake.settings import Settings, read_settings

    path = config or home_of(ctx) / "intake.toml"
    settings = read_settings(path, secrets=False) if config or path.exists() else Settings()
    data = read_bounded(file, what="order file", most=LARGEST_ORDER_BYTES)
    media = "application/json" if file.suffix.lower() == ".json" else "text/csv"
    with open_issuer(ctx) as issuer:
        fulfilled = Intake(issuer, settings).import_orders(file_format.value, data, media=media, now=now())
    if as_json:
        print_json({
            "orders": [
                {
                    "order_ref": one.order_ref,
                    "already_fulfilled": one.again,
                    "entitlements": [sold_document(sold) for sold in one.entitlements],
                }
                for one in fulfilled
            ]
        })  # fmt: skip
        return
    if not fulfilled:
        say(f"{file} holds no order that is released and sells a licence; nothing was changed.")
    for one in fulfilled:
        say(f"{one.order_ref}: {'fulfilled before: nothing changed' if one.again else 'fulfilled'}.")
        stdout.print(entitlement_table(one.entitlements))
