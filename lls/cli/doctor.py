"""``lls doctor``: is everything well here, and what is to be done. The server examines itself; without it we look.

Exit status: 0 when nothing must be mended, warnings included; 1 when something must; never 3: a server that does not
run is a finding.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from lls import __version__
from lls.cli import show
from lls.cli.admin import Admin
from lls.cli.frame import UNREACHABLE, AsJson, Failure, given
from lls.config import DEFAULT_PATH, PATH_VARIABLE, Config, load
from lls.config import problems as wrong_settings

_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(
    ctx: typer.Context,
    full: Annotated[bool, typer.Option("--full", help="Check every line of the journal, not only the last.")] = False,
    as_json: AsJson = False,
) -> None:
    """Examine the server and the machine under it, and say what to do. Changes nothing."""
    found = examined(ctx, full=full)
    wrong = sum(one["state"] == "fail" for one in found)
    doubts = sum(one["state"] == "warn" for one in found)
    if as_json:
        show.document({"findings": found, "failed": wrong, "warned": doubts})
    else:
        for line in _lines(found):
            show.say(line)
    if wrong:
        raise Failure(f"{show.count(wrong, 'check')} failed; what to do stands above.")
    if not as_json:
        show.say()
        show.say("Nothing must be mended." if doubts else "All is well.")


def examined(ctx: typer.Context, *, full: bool) -> list[dict[str, Any]]:
    """Every finding as the wire has it, the settings first. Raises nothing for what is only unwell."""
    path, environ = given(ctx)
    problems = wrong_settings(path, environ)
    if problems:
        mend = "Mend it; `lls config check` shows what is in force."
        return [{"check": "settings", "state": "fail", "said": one, "advice": mend} for one in problems]
    config = load(path, environ)
    found = [*_settings_file(path, environ)]
    told = _asked(config, full=full)
    found += _looked_at(config, full=full) if told is None else told
    found += _from_outside(config, running=told is not None)
    return found


def _settings_file(path: Path | None, environ: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    file = path or (Path(environ[PATH_VARIABLE]) if environ.get(PATH_VARIABLE) else DEFAULT_PATH)
    try:
        loose = file.stat().st_mode & _WRITABLE_BY_OTHERS
    except OSError:
        yield _finding("settings", "ok", "There is no settings file: the defaults hold.")
        return
    if loose:
        yield _finding("settings", "fail", f"{file} can be written by other users.", f"chmod go-w {file}")
    else:
        yield _finding("settings", "ok", f"{file} is well-formed.")


def _asked(config: Config, *, full: bool) -> list[dict[str, Any]] | None:
    """What the daemon found; None where there is none."""
    daemon = Admin(config.server.admin_socket)
    try:
        answer = daemon.get("doctor", full="1" if full else None)
        running = str(daemon.get("server").get("version"))
    except Failure as failure:
        if failure.status == UNREACHABLE:
            return None
        raise
    found = [one for one in answer.get("findings", []) if isinstance(one, dict)]
    if running != __version__:
        said = f"The server that runs is version {running}, this program {__version__}."
        found.insert(0, _finding("version", "warn", said, "systemctl restart lls"))
    return found


def _looked_at(config: Config, *, full: bool) -> list[dict[str, Any]]:
    import asyncio

    from lls.care.doctor import examine_resting

    found = asyncio.run(examine_resting(config, full=full))
    return [_finding(one.check, one.state, one.said, one.advice) for one in found]


def _from_outside(config: Config, *, running: bool) -> Iterator[dict[str, Any]]:
    from lls.care.doctor import examine_outside

    for one in examine_outside(config, running=running):
        yield _finding(one.check, one.state, one.said, one.advice)


def _finding(check: str, state: str, said: str, advice: str = "") -> dict[str, Any]:
    return {"check": check, "state": str(state), "said": said, "advice": advice or None}


def _lines(found: list[dict[str, Any]]) -> Iterator[str]:
    width = max(len(show.said(one.get("check"))) for one in found)
    for one in found:
        head = f"{show.said(one.get('state')).upper():<4}  {show.said(one.get('check')):<{width}}"
        yield f"{head}  {show.said(one.get('said'))}"
        if one.get("advice"):
            yield f"{'':<{len(head)}}  → {show.said(one['advice'])}"
