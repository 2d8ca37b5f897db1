"""``lls tls``: the certificate that applications meet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import typer

from lls.cli import show
from lls.cli.admin import admin
from lls.cli.frame import AsJson, noun

app = noun("tls", "The certificate that applications meet.")

_MODES: Final = {"self": "made by this server", "files": "your own files", "off": "none: plain HTTP"}


@app.command("show")
def show_command(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show who made it, for which names, until when, and the keys that a client may meet."""
    _show(admin(ctx).get("tls"), as_json=as_json)


@app.command()
def renew(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Make another key and certificate, now. No lease ends; clients ask once more whose key it is."""
    _show(admin(ctx).tell("POST", "tls", {}), as_json=as_json)


def _show(answer: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        show.document(answer)
        return
    keys: list[str] = answer.get("spki_sha256") or []
    show.facts(
        [
            ("Certificate", _MODES.get(str(answer.get("mode")), answer.get("mode"))),
            ("Names", ", ".join(answer.get("names") or []) or None),
            ("Until", show.instant(answer.get("ends_at"))),
            ("Key (SHA-256)", keys[0] if keys else None),
            *(("", key) for key in keys[1:]),
        ]
    )
    if answer.get("trouble"):
        show.say()
        show.say(f"The files as they are now are not shown: {answer['trouble']}")
