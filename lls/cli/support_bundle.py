"""``lls support-bundle``: everything that support needs, in one file, without names and secrets.

The server makes the parts that only it can see, already without names; what is missing because it does not run stands
in the list of what is inside.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from lls.cli import doctor, files, show
from lls.cli.admin import Admin
from lls.cli.frame import Failure, Force, Output, given
from lls.config import Config, load
from lls.config import problems as wrong_settings

if TYPE_CHECKING:
    from lls.care.pseudonyms import Pseudonyms
    from lls.care.support import Part


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("support-bundle")(support_bundle)


def support_bundle(ctx: typer.Context, output: Output, force: Force = False) -> None:
    """Write diagnostics for your vendor: names and secrets are taken out, and a list says what is inside."""
    from lls.care.pseudonyms import Pseudonyms
    from lls.care.support import machine_names, parts_of_machine, view_part, write_bundle

    path, environ = given(ctx)
    hide = Pseudonyms(secrets.token_bytes(32), names=machine_names())
    missing: dict[str, str] = {}
    config = None if wrong_settings(path, environ) else load(path, environ)
    parts = [
        view_part("doctor.json", "what lls doctor found", doctor.examined(ctx, full=False), hide),
    ]
    if config is None:
        missing["settings.json"] = "the settings are not well-formed; see doctor.json"
    else:
        parts += parts_of_machine(config, hide)
        parts += _of_server(config, missing) or _of_files(config, hide, missing)
    with files.written(output, mode=files.PRIVATE, force=force) as file:
        write_bundle(file, parts, made_at=datetime.now(UTC), missing=missing)
    show.say(f"Wrote {output}: {show.count(len(parts), 'file')} and MANIFEST.txt, which says what each of them holds.")
    for name, why in missing.items():
        show.say(f"Not in it: {name}: {why}.")
    show.say("Next: look into it, then send it to your vendor.")


def _of_server(config: Config, missing: dict[str, str]) -> list[Part]:
    from lls.care.support import Part

    try:
        answer = Admin(config.server.admin_socket).get("support")
    except Failure as failure:
        missing["server.json"] = f"the server was not asked: {failure.sentence.rstrip('.')}"
        return []
    return [Part(name=one["name"], holds=one["holds"], text=one["text"]) for one in answer.get("parts", [])]


def _of_files(config: Config, hide: Pseudonyms, missing: dict[str, str]) -> list[Part]:
    """Without the server: what lies in files."""
    import asyncio

    from lls.care.support import resting_parts

    return asyncio.run(resting_parts(config, hide, missing))
