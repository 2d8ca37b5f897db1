"""How a command is declared and how it ends.

Rules
1. A :class:`Failure` is one sentence and an exit status; where several things are wrong, each has a line below it.
   :class:`Commands` turns it, a fault of the settings and an error of the operating system into that sentence; whatever
   else is raised is our own error and stays loud.
2. Help and usage errors are plain text: they are piped into ``less`` and mailed to support.
3. ``lls run`` is loaded when it is asked for: it carries the client and its cryptography.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import typer
from typer.core import TyperGroup

from lls.config import Config, load
from lls.faults import Fault

FAILED: Final = 1
UNREACHABLE: Final = 3
BEGUN: Final = 4
"""Begun, and not done yet (decision 0015)."""
_LATE: Final = ("demo", "run")

AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]
Output: TypeAlias = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write, whole or not at all.")
]
Force: TypeAlias = Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")]


class Failure(Exception):
    """A command cannot do what it was asked; ``sentence`` says why and what to do, ``status`` ends the program.

    ``problems``: all that is wrong, one by one.
    """

    def __init__(self, sentence: str, *, status: int = FAILED, problems: Iterable[str] = ()) -> None:
        super().__init__(sentence)
        self.sentence, self.status, self.problems = sentence, status, tuple(problems)


class Commands(TyperGroup):
    """All commands of ``lls``. Typer brings a Click of its own, whose types have no public name: hence Any."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; its last word on a failure is one sentence."""
        try:
            return super().invoke(ctx)
        except Failure as failure:
            complain(failure.sentence, failure.problems)
            raise typer.Exit(failure.status) from None
        except Fault as fault:
            problems = fault.fields.get("problems")
            complain(fault.detail, problems if isinstance(problems, tuple) else ())
            raise typer.Exit(FAILED) from None
        except BrokenPipeError:  # `lls … | head` has read enough; Typer knows how to leave quietly
            raise
        except OSError as error:
            if error.strerror is None:
                raise
            where = f"{error.filename}: " if error.filename else ""
            complain(f"{where}{error.strerror}.")
            raise typer.Exit(FAILED) from None

    def list_commands(self, ctx: Any) -> list[str]:
        """The names in the help, those that are loaded late among them."""
        return list(dict.fromkeys([*super().list_commands(ctx), *_LATE]))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, loaded if need be."""
        if cmd_name in _LATE and cmd_name not in self.commands:
            self.add_command(_loaded(cmd_name), cmd_name)
        return super().get_command(ctx, cmd_name)


def _loaded(name: str) -> Any:
    late = noun(None, "")
    if name == "run":
        from lls.cli.run import run_command

        # What follows the program's name belongs to the program, with or without the two dashes before it.
        late.command("run", context_settings={"allow_interspersed_args": False})(run_command)
    else:
        from lls.cli.demo import demo_command

        late.command("demo")(demo_command)
    return typer.main.get_command(late)


def noun(name: str | None, about: str, *, cls: type[TyperGroup] = TyperGroup) -> typer.Typer:
    """A group of commands."""
    return typer.Typer(
        name=name,
        help=about,
        cls=cls,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
    )


def settings(ctx: typer.Context) -> Config:
    """The settings that this call runs with. Raises :class:`~lls.faults.SetupFault`."""
    path, environ = given(ctx)
    return load(path, environ)


def given(ctx: typer.Context) -> tuple[Path | None, Mapping[str, str]]:
    """What ``--config`` named, and the environment."""
    path, environ = ctx.obj
    return path, environ


def complain(sentence: str, problems: Iterable[str] = ()) -> None:
    """One line on standard error, and one for each problem. Names may come from anybody: no control characters."""
    sys.stderr.write(f"lls: {printable(sentence)}\n")
    sys.stderr.writelines(f"  {printable(problem)}\n" for problem in problems)
    sys.stderr.flush()


def printable(text: str) -> str:
    """``text`` without what could steer a terminal: holders choose their own names."""
    return (
        text
        if text.isprintable()
        else "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
    )
