"""What every command of ``lls-issuer`` shares: its options, its two outputs, the home, the passphrase, the clock.

It refuses to own what a command does.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from lls.issuer.files import read_bounded
from lls.issuer.history import Who, whoever
from lls.issuer.office import Issuer
from lls.issuer.refusals import HomeRefused
from lls.licensing.fields import write_instant

# Ids must stay whole when the output goes into a pipe, whatever width a terminal would have had.
stdout = Console(markup=False, highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 300)
stderr = Console(markup=False, highlight=False, soft_wrap=True, stderr=True)

AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Output: TypeAlias = Annotated[Path, typer.Option("--output", "-o", help="The file to write, whole or not at all.")]
PassphraseFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file", help="File with the passphrase of the keys; else $LLS_ISSUER_PASSPHRASE or a question."
    ),
]


MOST_ROWS: Final = (1 << 63) - 1
"""The highest number that a row of the register can have."""


def group(about: str) -> typer.Typer:
    """A group of commands."""
    return typer.Typer(no_args_is_help=True, help=about)


def now() -> datetime:
    """The clock, read here and nowhere else."""
    return datetime.now(UTC)


def home_of(ctx: typer.Context) -> Path:
    """The home that the command line names."""
    home = ctx.obj
    if not isinstance(home, Path):
        raise typer.BadParameter("Say where the issuer's home is: lls-issuer --home DIR …, or LLS_ISSUER_HOME.")
    return home


def who_of(ctx: typer.Context) -> Who:
    """Who acts and why, as the command line says it; else the account of the operating system."""
    who = ctx.meta.get(_WHO)
    return who if isinstance(who, Who) else whoever()


def remember_who(ctx: typer.Context, *, by: str | None, reason: str | None) -> None:
    """Keeps that for the command below. Raises Conflict where a text does not fit."""
    ctx.meta[_WHO] = whoever(by, reason=reason)


_WHO: Final = "lls.issuer.who"


def open_issuer(ctx: typer.Context, passphrase_file: Path | None = None, *, signs: bool = False) -> Issuer:
    """The issuer in that home; ``signs``: with its private keys, asking for the passphrase where they have one."""
    home = home_of(ctx)
    if not signs:
        return Issuer(home, now=now(), who=who_of(ctx))
    given = passphrase_file is not None or "LLS_ISSUER_PASSPHRASE" in os.environ
    asks = not given and sys.stdin.isatty() and Issuer.needs_passphrase(home)
    passphrase = passphrase_from(passphrase_file) if given or asks else None
    return Issuer(home, now=now(), passphrase=passphrase, who=who_of(ctx))


def passphrase_from(file: Path | None, *, anew: bool = False) -> bytes:
    """The passphrase from the file, the environment or the terminal; ``anew``: asked for twice."""
    if file is not None:
        text = read_bounded(file, what="passphrase file", most=4096).rstrip(b"\r\n")
    elif "LLS_ISSUER_PASSPHRASE" in os.environ:
        try:
            text = os.environ["LLS_ISSUER_PASSPHRASE"].encode()
        except UnicodeEncodeError:
            raise HomeRefused(
                "LLS_ISSUER_PASSPHRASE is not UTF-8; give the passphrase with --passphrase-file."
            ) from None
    elif sys.stdin.isatty():
        text = str(typer.prompt("Passphrase of the vendor's keys", hide_input=True, confirmation_prompt=anew)).encode()
    else:
        raise typer.BadParameter(
            "Give a passphrase with --passphrase-file or LLS_ISSUER_PASSPHRASE, or say --no-passphrase."
        )
    if not text:
        raise HomeRefused("The passphrase is empty; give one, or say --no-passphrase at init.")
    if len(text) > _LONGEST_PASSPHRASE:
        raise HomeRefused(
            f"The passphrase is longer than {_LONGEST_PASSPHRASE} bytes, which PKCS #8 files cannot take."
        )
    return text


_LONGEST_PASSPHRASE: Final = 1023  # OpenSSL's limit


def writable(output: Path) -> None:
    """Refuse an output that cannot be written, or that would take the place of something else.

    A regular file is replaced where it is what this program writes: the newest bundle in the place of the last. What a
    link points to, a device, and a table or a key that somebody mistyped are left alone.
    """
    # Found out before anything is signed, so that a mistyped name costs no sequence number.
    if output.is_symlink():
        raise HomeRefused(f"{output} is a symbolic link; name the file itself.")
    if output.is_dir() or not os.access(output.absolute().parent, os.W_OK):
        raise HomeRefused(
            f"{output} cannot be written: its directory is missing or closed to you, or it is one itself."
        )
    if not output.exists():
        return
    if not output.is_file():
        raise HomeRefused(f"{output} is no regular file; name one that can be written whole or not at all.")
    with output.open("rb") as file:
        there = file.read(_SNIFFED)
    if there and not (there.startswith(_OWN) or (there.startswith(b"{") and any(word in there for word in _OWN_WORDS))):
        raise HomeRefused(
            f"{output} is there already, and is nothing that lls-issuer wrote; choose another name, or remove it first."
        )


_SNIFFED: Final = 1 << 16
_OWN: Final = (b"eyJ", b"line_id,", b"<?xml")
"""How a signed or encrypted document, a table of billing lines, and a drawing begin."""
_OWN_WORDS: Final = (b'"signatures"', b'"fingerprint"', b'"line_id"', b'"lines": []')


@contextmanager
def progress_bar() -> Any:
    """A bar on standard error, where that is a terminal."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=stderr, transient=True, disable=not sys.stderr.isatty())
    with progress if sys.stderr.isatty() else nullcontext():
        yield progress


def say(sentence: str) -> None:
    """A sentence for a person, on standard error."""
    stderr.print(sentence)


def print_id(made: str) -> None:
    """What a command made or took in, on standard output: for ``NAME=$(lls-issuer …)``."""
    typer.echo(made)


def print_json(document: object) -> None:
    """A document for a program, on standard output."""
    typer.echo(json.dumps(document, indent=2))


def show(
    name: str, values: Iterable[object], as_json: bool, columns: Iterable[str], rows: Iterable[Iterable[str]]
) -> None:
    """A list as a table, or as JSON under its name."""
    if as_json:
        print_json({name: [plain(value) for value in values]})
        return
    table = Table(*columns, title=name.capitalize())
    for row in rows:
        table.add_row(*row)
    stdout.print(table)


def printable(text: str) -> str:
    """Text that somebody else wrote, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)


def cell(value: object) -> str:
    """A value as a table shows it."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case _:
            return str(value)


def plain(value: Any) -> Any:
    """Values as JSON has them."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    match value:
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case datetime():
            return write_instant(value)
        case Decimal():
            return str(value)
        case _:
            return value


def overdraft_text(document: Mapping[str, Any]) -> str:
    """What may be taken on top, in short."""
    match document["type"]:
        case "absolute":
            return f"+{document['value']}"
        case "percentage":
            return f"+{document['value']} %"
        case kind:
            return str(kind)
