"""What ``man`` shows: the commands by their own tree, the settings by their own declarations.

Rules
1. Nothing is said here that the program says itself: helps, defaults and ranges are Typer's, settings are those of
   :mod:`lls.config`, the policy's rules are those of the sample that every package carries.
2. A page for each word that follows the program's name (``lls lease`` → ``lls-lease(1)``), one for the program, one for
   each file that people write.
3. The same tree and the same time give the same bytes (decision 0033 says why no library writes them).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, Final

import typer
from typer.main import get_command

from lls import __version__, cli
from lls.cli.frame import BEGUN, FAILED, UNREACHABLE
from lls.config import DEFAULT_PATH, PATH_VARIABLE, PREFIX, Config
from lls.issuer import cli as issuer_cli
from parcel.troff import Page, bold, italic, plain, prose

SETTINGS: Final = "lls.toml"
POLICY: Final = "lls-policy.toml"
SAMPLE: Final = "config/policy.toml"

_USAGE: Final = 2
_WORDS: Final = {"path": "FILE", "str": "TEXT", "int": "N", "int range": "N", "float range": "N"}
"""What stands for a value, by Typer's name of its type."""
_NAMES: Final = re.compile(r"^(?:--?[\w-]+(?:,|/|$)?\s*)+")
_VARIABLE: Final = re.compile(r"LLS_[A-Z][A-Z_]*")
_TOML: Final = re.compile(r"\[|[a-z_]+ = ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A command with its tree, and what its first page says before the list."""

    name: str
    app: typer.Typer
    told: str
    statuses: Mapping[int, str]
    see: tuple[str, ...]
    """Pages beside those of its own commands."""


_ENDS: Final = {
    0: "What was asked is done.",
    FAILED: "It was refused, or it failed; one sentence on standard error says why and what to do.",
    _USAGE: "The command line is wrong.",
}
LLS: Final = Program(
    name="lls",
    app=cli.app,
    told="""`lls serve` is the server. Most other commands are short conversations with the one that runs on this
machine, over its admin socket, which is for root and the members of the group lls-admin.

Each command below has a page of its own, with all of its options: lls-lease(1) is that of `lls lease`. The settings are
those of lls.toml(5), the site's own rules those of lls-policy.toml(5). The administrator's manual,
`administrators-manual.md`, lies beside the package's other documents; it begins with the first start.""",
    statuses=_ENDS
    | {
        UNREACHABLE: "No server answers.",
        BEGUN: "Begun, and not done yet: the same command again goes on.",
    },
    see=(f"{SETTINGS}(5)", f"{POLICY}(5)"),
)
ISSUER: Final = Program(
    name="lls-issuer",
    app=issuer_cli.app,
    told="""Keys, orders and what the sites reported lie in one folder, the home, which `lls-issuer init` makes; every
command works in it, and asks no server.

Each command below has a page of its own, with all of its options: lls-issuer-order(1) is that of
`lls-issuer order`.""",
    statuses=_ENDS,
    see=("lls(1)",),
)


def pages(program: Program, *, time: int) -> dict[str, bytes]:
    """The pages of a program by their files' names, ``lls-lease.1``."""
    return {f"{page.name}.{page.section}": page.source() for page in _commands(program, time)}


def settings_page(*, time: int) -> dict[str, bytes]:
    """``lls.toml.5``: every setting at its default."""
    page = _page(SETTINGS, 5, about="settings of the Local License Server", time=time)
    page.heading("SYNOPSIS")
    page.paragraph(bold(str(DEFAULT_PATH)))
    page.heading("DESCRIPTION")
    page.paragraph(
        prose(
            "A TOML file that `lls serve` reads when it starts, and so do the commands that ask it. What is left out"
            " has the default that is shown here; a table or a setting that is not listed here is refused. Lists are"
            " TOML's, and so are texts in quotes. The file that is installed holds every setting, commented out."
        )
    )
    page.paragraph(prose("`lls config check` shows what is in force and every problem."))
    page.heading("SETTINGS")
    whole = Config()
    for table in fields(Config):
        kind = type(getattr(whole, table.name))
        _, _, about = (kind.__doc__ or "").partition("]: ")
        page.subheading(f"[{table.name}]")
        page.paragraph(prose(_sentence(_capital(about))))
        for one in fields(kind):
            page.entry(f"{bold(one.name)} = {plain(_written(one.default))}", prose(_setting(one)))
    page.heading("FILES")
    _files(page)
    page.heading("ENVIRONMENT")
    _environment(page)
    _see(page, ["lls(1)", "lls-config(1)", f"{POLICY}(5)"])
    return {f"{SETTINGS}.5": page.source()}


def policy_page(sample: str, *, time: int) -> dict[str, bytes]:
    """``lls-policy.toml.5``: the sample, its comments as prose and its rules as they are written."""
    page = _page(POLICY, 5, about="a site's own rules for its seats", time=time)
    beginning, *blocks = sample.strip().split("\n\n")
    page.heading("SYNOPSIS")
    page.paragraph(prose("The file that `[policy] file` of lls.toml(5) names"))
    page.heading("DESCRIPTION")
    page.paragraph(prose(_block(beginning.partition("\n#\n")[0])[0]))
    page.paragraph(prose("What follows is the sample `policy.toml`, which lies beside the package's other documents."))
    page.heading("RULES")
    shown = ""
    for told, toml in map(_block, blocks):
        head = next((line for line in toml if line.startswith("[")), "")
        if told and head and head != shown:
            page.subheading(shown := head)
        if told and toml:
            page.paragraph(prose(told))
        page.verbatim(toml)
    _see(page, ["lls-policy(1)", f"{SETTINGS}(5)"])
    return {f"{POLICY}.5": page.source()}


# -------------------------------------------------------------------- commands


def _commands(program: Program, time: int) -> Iterator[Page]:
    root = get_command(program.app)
    context = _context(root, program.name, None)
    below = dict(_below(root, context))
    yield _program_page(program, root, context, below, time)
    for word, command in below.items():
        yield _word_page(program, command, _context(command, word, context), time)


def _program_page(program: Program, root: Any, context: Any, below: Mapping[str, Any], time: int) -> Page:
    page = _page(program.name, 1, about=_about(root.help), time=time)
    page.synopsis([(program.name, f"{_optional_options(root, context)} {italic('COMMAND')} [{italic('ARGUMENT')}...]")])
    page.heading("DESCRIPTION")
    for told in program.told.split("\n\n"):
        page.paragraph(prose(told))
    page.heading("COMMANDS")
    for word, command in sorted(below.items()):
        page.entry(bold(word), prose(_help(command.help)[0]))
    page.heading("OPTIONS")
    page.paragraph(prose("They stand before the command."))
    _parameters(page, root, context)
    _statuses(page, program.statuses)
    if program is LLS:
        page.heading("FILES")
        _files(page)
    page.heading("ENVIRONMENT")
    if program is LLS:
        _environment(page)
    _variables(page, {name: options for name, options in _named(root, context).items() if name != PATH_VARIABLE})
    elsewhere: dict[str, list[str]] = {}
    for word, command in sorted(below.items()):
        for leaf, inner in _leaves(command, _context(command, word, context)):
            for name in _named(leaf, inner):
                _once(elsewhere.setdefault(name, []), f"{program.name}-{word}(1)")
    _variables(page, elsewhere)
    _see(page, [*(f"{program.name}-{word}(1)" for word in sorted(below)), *program.see])
    return page


def _word_page(program: Program, command: Any, context: Any, time: int) -> Page:
    name = context.command_path.replace(" ", "-")
    leaves = list(_leaves(command, context))
    page = _page(name, 1, about=_about(command.help), time=time)
    page.synopsis((inner.command_path, _usage(leaf, inner)) for leaf, inner in leaves)
    page.heading("DESCRIPTION")
    for paragraph in _help(command.help):
        page.paragraph(prose(_sentence(paragraph)))
    if leaves != [(command, context)]:
        page.heading("COMMANDS")
        for leaf, inner in leaves:
            page.subheading(inner.command_path)
            for paragraph in _help(leaf.help):
                page.paragraph(prose(paragraph))
            _parameters(page, leaf, inner, besides=("--help",))
        page.heading("OPTIONS")
        page.entry(bold("--help"), prose("Show the help of a command, and exit."))
    else:
        page.heading("OPTIONS")
        _parameters(page, command, context)
    page.paragraph(prose(f"Options of all commands, which stand before the first word, are in {program.name}(1)."))
    spoken = " ".join(said for leaf, inner in leaves for _, said in _records(leaf, inner))
    known = program.statuses.items()
    statuses = {one: told for one, told in known if one != BEGUN or f"exit status {BEGUN}" in spoken}
    _statuses(page, statuses, is_run=context.command_path == "lls run")
    named: dict[str, list[str]] = {}
    for leaf, inner in leaves:
        for name, options in _named(leaf, inner).items():
            for option in options:
                _once(named.setdefault(name, []), option)
    if named:
        page.heading("ENVIRONMENT")
        _variables(page, named)
    beside = {"policy": [f"{POLICY}(5)"], "config": [f"{SETTINGS}(5)"], "serve": [f"{SETTINGS}(5)"]}
    _see(page, [f"{program.name}(1)", *(beside.get(context.info_name, []) if program is LLS else [])])
    return page


def _statuses(page: Page, statuses: Mapping[int, str], *, is_run: bool = False) -> None:
    page.heading("EXIT STATUS")
    for status, told in statuses.items():
        page.entry(bold(str(status)), prose(told))
    if is_run:
        page.paragraph(
            prose(
                "Once its program has begun, `lls run` ends as that does: with its status, or 128 and the"
                " number of its signal."
            )
        )
        page.paragraph(prose("126 and 127 say that the program cannot be started, or is not there."))


def _leaves(command: Any, context: Any) -> Iterator[tuple[Any, Any]]:
    """Every command that can be typed, with the words that lead there."""
    if not hasattr(command, "list_commands") or command.invoke_without_command:
        yield command, context
    for word, inner in _below(command, context):
        yield from _leaves(inner, _context(inner, word, context))


def _below(command: Any, context: Any) -> Iterator[tuple[str, Any]]:
    """Typer brings a Click of its own, whose types have no public name: hence Any."""
    for word in command.list_commands(context) if hasattr(command, "list_commands") else ():
        inner = command.get_command(context, word)
        if not inner.hidden:
            yield word, inner


def _context(command: Any, word: str, parent: Any) -> Any:
    return command.context_class(command, info_name=word, parent=parent)


# -------------------------------------------------------------------- options


def _records(command: Any, context: Any) -> Iterator[tuple[str, str]]:
    """What ``--help`` shows of each option and argument."""
    for one in command.get_params(context):
        if (record := one.get_help_record(context)) is not None:
            yield record


def _parameters(page: Page, command: Any, context: Any, *, besides: tuple[str, ...] = ()) -> None:
    for one in command.get_params(context):
        record = one.get_help_record(context)
        if record is None or record[0] in besides:
            continue
        page.entry(_tag(one, record[0]), *filter(None, [prose(_told(record[1]))]))


def _told(said: str) -> str:
    """A help, and what Typer shows in brackets behind it."""
    text, found, extras = said.removesuffix("]").rpartition("[") if said.endswith("]") else (said, "", "")
    told = [_sentence(text), *map(_extra, extras.split("; "))] if found else [_sentence(said)]
    return " ".join(filter(None, told))


def _tag(one: Any, shown: str) -> str:
    if one.param_type_name == "argument":
        return _argument(shown)
    value = _value(one, shown)
    return ", ".join(bold(name) for name in sorted([*one.opts, *one.secondary_opts], key=len)) + (
        f" {value}" if value else ""
    )


def _value(one: Any, shown: str) -> str:
    """What follows an option: its own word, the choices, or a word for its type."""
    kind = _NAMES.sub("", shown, count=1)
    if one.is_flag or not kind:
        return ""
    bare = re.sub(r"^list\[(.*)\]$", r"\1", kind.removeprefix("<").removesuffix(">"))
    if kind.startswith("<") and "|" in bare:
        return "|".join(bold(choice) for choice in bare.split("|"))
    return italic(_WORDS[bare] if kind.startswith("<") else bare)


def _argument(shown: str) -> str:
    name, _, _ = shown.partition(" <")
    dashes, found, rest = name.partition("-- ")
    if found:
        return f"{bold('--')} {italic(rest)}"
    return italic(dashes.upper() if dashes.islower() else dashes)


def _usage(command: Any, context: Any) -> str:
    """What must be given stands there; what may be given is below."""
    params = command.get_params(context)
    needed = [one for one in params if one.param_type_name == "option" and one.required]
    words = [_optional_options(command, context)] if len(params) > len(needed) else []
    words += [f"{bold(max(one.opts, key=len))} {_value(one, one.get_help_record(context)[0])}" for one in needed]
    for one in params:
        if one.param_type_name == "argument":
            word = _argument(one.get_help_record(context)[0])
            words.append(word if one.required else f"[{word}]")
    return " ".join(words)


def _optional_options(command: Any, context: Any) -> str:
    optional = [one for one in command.get_params(context) if one.param_type_name == "option" and not one.required]
    return f"[{italic('OPTION')}...]" if optional else ""


def _extra(said: str) -> str:
    """What Typer shows in brackets behind a help, in words."""
    if found := re.fullmatch(r"(-?[\d.]+)<=x<=(-?[\d.]+)", said):
        return f"From {found[1]} to {found[2]}."
    if found := re.fullmatch(r"x>=(-?[\d.]+)", said):
        return f"At least {found[1]}."
    if found := re.fullmatch(r"env var: (\w+)", said):
        return f"Default: the variable {found[1]}."
    return f"{_capital(said)}." if said else ""


# -------------------------------------------------------------------- words


def _page(name: str, section: int, *, about: str, time: int) -> Page:
    return Page(name, section, about=about, version=f"lls {__version__}", time=time)


def _help(text: str | None) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in (text or "").split("\n\n")]


def _about(text: str | None) -> str:
    """The first sentence, as the line of NAME wants it: without its capital and its full stop."""
    first = _help(text)[0].split(". ")[0].removesuffix(".")
    return first if first[1:2].isupper() else first[:1].lower() + first[1:]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sentence(text: str) -> str:
    said = " ".join(text.split())
    return said if not said or said.endswith((".", "…")) else f"{said}."


def _setting(one: Any) -> str:
    told, default = one.metadata["explanation"], one.default
    least, most = one.metadata["least"], one.metadata["most"]
    said = [_sentence(told if isinstance(default, Enum) else _capital(told))]
    if least is not None:
        said.append(f"At least {least}." if most is None else f"From {least} to {most}.")
    return " ".join(said)


def _written(value: object) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def _block(text: str) -> tuple[str, list[str]]:
    """A block of the sample: what is said, and what is written below it."""
    lines = [line.removeprefix("#").removeprefix(" ") for line in text.splitlines()]
    at = next((at for at, line in enumerate(lines) if _TOML.match(line)), len(lines))
    return " ".join(lines[:at]), lines[at:]


def _files(page: Page) -> None:
    config = Config()
    page.entry(bold(str(DEFAULT_PATH)), prose("The settings, unless another file is named; see lls.toml(5)."))
    page.entry(bold(config.trust.keys), prose("The vendor's key set."))
    page.entry(bold(config.server.state_dir), prose("Keys, journal and store of the server: its identity."))
    page.entry(bold(config.server.admin_socket), prose("Where the commands talk to the server."))


def _environment(page: Page) -> None:
    page.entry(
        bold(PATH_VARIABLE), prose(f"The settings' file, where --config does not name one; else {DEFAULT_PATH}.")
    )
    page.entry(
        f"{bold(PREFIX)}{italic('TABLE')}{bold('__')}{italic('NAME')}",
        prose(
            f"A single setting, and wins over the file: {PREFIX}SERVER__NAME is name in [server]."
            " Lists are JSON, or separated by commas."
        ),
    )


def _named(command: Any, context: Any) -> dict[str, list[str]]:
    """The variables that a command's helps speak of, each with its options."""
    found: dict[str, list[str]] = {}
    for one in command.get_params(context):
        record = one.get_help_record(context)
        for name in _VARIABLE.findall(record[1]) if record else ():
            _once(found.setdefault(name, []), one.opts[0])
    return found


def _once(words: list[str], word: str) -> None:
    if word not in words:
        words.append(word)


def _variables(page: Page, named: Mapping[str, list[str]]) -> None:
    for name, where in named.items():
        page.entry(bold(name), prose(f"See {', '.join(where)}."))


def _see(page: Page, others: Iterable[str]) -> None:
    page.heading("SEE ALSO")
    page.paragraph(",\n".join(map(prose, others)))
