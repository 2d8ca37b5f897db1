"""``lls config check``: the settings in force, where each comes from, and what is wrong with them.

The settings themselves are judged by :mod:`lls.config`, all of them; when they are right, whether the files that they
name can be used is asked here. The check needs no daemon. A password in ``store.url`` is not shown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import typer

from lls.cli import show
from lls.cli.frame import AsJson, Failure, given, noun
from lls.cli.show import column
from lls.config import DEFAULT_PATH, PATH_VARIABLE, PREFIX, Config, TlsMode, load
from lls.config import problems as wrong_settings
from lls.faults import RefusedDocument

app = noun("config", "The settings.")


@app.command()
def check(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show the settings in force and every problem."""
    path, environ = given(ctx)
    problems = wrong_settings(path, environ)
    config = None if problems else load(path, environ)
    if config is not None:
        problems = list(_unusable(config))
    source = str(_source(path, environ) or "")
    if as_json:
        shown = _tables(config) if config else None
        show.document({"file": source or None, "settings": shown, "problems": problems})
    elif config:
        show.say(f"Settings from {source}." if source else f"There is no {DEFAULT_PATH}: the defaults hold.")
        show.say()
        show.table(_rows(config, environ), _COLUMNS, empty="There are no settings.")
        show.say()
    if len(problems) == 1:
        raise Failure(problems[0])
    if problems:
        if not as_json:
            for problem in problems:
                show.say(problem)
        raise Failure(f"There are {len(problems)} problems; mend them and check again.")
    if not as_json:
        show.say("No problems.")


def _unusable(config: Config) -> Iterator[str]:
    """What the daemon would stumble over when it opens what the settings name."""
    yield from _unreadable(config.trust.keys, "[trust] keys", "put the vendor's key set there")
    if config.policy.file:
        yield from _wrong_policy(config.policy.file)
    if config.tls.mode is TlsMode.FILES:
        yield from _unreadable(config.tls.cert, "[tls] cert", "put the certificate chain there")
        yield from _unreadable(config.tls.key, "[tls] key", "put the private key there")
    state = Path(config.server.state_dir)
    if state.exists() and not state.is_dir():
        yield f"[server] state_dir: {state} is not a folder; name one."


def _wrong_policy(name: str) -> Iterator[str]:
    unreadable = list(_unreadable(name, "[policy] file", "write the policy or empty the setting"))
    yield from unreadable
    if unreadable or not os.access(name, os.R_OK):
        return
    from lls.licensing.policy_file import read_policy

    try:
        read_policy(Path(name).read_text("utf-8"))
    except UnicodeDecodeError:
        yield f"[policy] file: {name} is not UTF-8; write it anew."
    except RefusedDocument as fault:
        for problem in fault.problems or (fault.detail,):
            yield f"[policy] file: {name}: {problem}"


def _unreadable(name: str, setting: str, remedy: str) -> Iterator[str]:
    try:
        Path(name).stat()
    except PermissionError:
        return  # the folder is the server's own; what this user may not see is not wrong
    except OSError as error:
        yield f"{setting}: {name}: {error.strerror}; {remedy}."
        return
    if not Path(name).is_file():
        yield f"{setting}: {name} is not a file; {remedy}."
    elif os.geteuid() == 0 and not os.access(name, os.R_OK):
        yield f"{setting}: {name} cannot be read; {remedy}."


def _source(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    named = path or (Path(environ[PATH_VARIABLE]) if environ.get(PATH_VARIABLE) else None)
    return named or (DEFAULT_PATH if DEFAULT_PATH.exists() else None)


def _tables(config: Config) -> dict[str, dict[str, Any]]:
    tables = asdict(config)
    tables["store"]["url"] = _without_password(config.store.url)
    return tables


def _without_password(url: str) -> str:
    return re.sub(
        r"(://[^/@:]*):[^/]*@|(password=)[^&]*", lambda found: f"{found[1]}:***@" if found[1] else f"{found[2]}***", url
    )


def _rows(config: Config, environ: Mapping[str, str]) -> Iterator[dict[str, str]]:
    default, shown = Config(), _tables(config)
    variables = {name.upper(): name for name in environ if name.startswith(PREFIX)}
    for table in fields(Config):
        kept = getattr(default, table.name)
        for one in fields(kept):
            value = getattr(getattr(config, table.name), one.name)
            variable = variables.get(f"{PREFIX}{table.name}__{one.name}".upper())
            yield {
                "setting": f"{table.name}.{one.name}",
                "value": _value(shown[table.name][one.name]),
                "source": variable or ("default" if value == getattr(kept, one.name) else "file"),
            }


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value))
    return str(value)


_COLUMNS = (
    column("SETTING", "setting", whole=True),
    column("VALUE", "value"),
    column("FROM", "source"),
)
