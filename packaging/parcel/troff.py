r"""Manual pages in man(7), the form that every ``man`` reads: groff's, mandoc's and the old ones.

Text goes in as it is meant and comes out so that no letter of it commands: a dot or an apostrophe at the beginning of a
line, quotes, a backslash. A minus is ``\-``: an option that was copied from a page must be one. What is not ASCII is
written by its code point, so that a page does not depend on the encoding that its reader guesses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

_SPOKEN: Final = {
    "\\": r"\e",
    "-": r"\-",
    "'": r"\(aq",
    '"': r"\(dq",
    "`": r"\(ga",
    "^": r"\(ha",
    "~": r"\(ti",
}
_SENTENCE: Final = re.compile(r"(?<=[a-z0-9)][.:?]) (?=[A-Z])")
_TYPED: Final = re.compile(r"`([^`]+)`|(?<![\w-])(--[a-z][a-z-]*)|([a-z][\w.-]*)(?=\(\d\))")


def plain(text: str) -> str:
    """One line of text, with nothing in it that troff obeys."""
    spoken = "".join(_spoken(letter) for letter in " ".join(text.split()))
    return rf"\&{spoken}" if spoken.startswith(".") else spoken


def bold(text: str) -> str:
    """What is typed as it stands."""
    return rf"\fB{plain(text)}\fR"


def italic(text: str) -> str:
    """What is put in its place."""
    return rf"\fI{plain(text)}\fR"


def prose(text: str) -> str:
    """Sentences, a line each, as troff wants them; options, other pages and what stands in backticks are bold."""
    return "\n".join(_sentence(one) for one in _SENTENCE.split(" ".join(text.split())))


class Page:
    """A page that is being written, from top to bottom."""

    def __init__(self, name: str, section: int, *, about: str, version: str, time: int) -> None:
        """``about`` is the one line of NAME, which ``apropos`` shows; ``time`` is that of the package."""
        self.name, self.section, self.about = name, section, about
        day = datetime.fromtimestamp(time, UTC).date().isoformat()
        title = f'{plain(name.upper())} {section} {day} "{plain(version)}" "Local License Server"'
        self._lines = [f".TH {title}", ".ad l"]
        self.heading("NAME")
        self._lines.append(rf"{plain(name)} \- {plain(about)}")

    def heading(self, text: str) -> None:
        """A section."""
        self._lines.append(f".SH {plain(text)}")

    def subheading(self, text: str) -> None:
        """A part of a section."""
        self._lines.append(f'.SS "{plain(text)}"')

    def paragraph(self, *made: str) -> None:
        """Of lines that were made by :func:`prose`, :func:`bold` and :func:`italic`."""
        self._lines += [".PP", *made] if self._in_text() else made

    def entry(self, tag: str, *made: str) -> None:
        """A hanging paragraph below its tag."""
        self._lines += [".TP", tag, *(made or (r"\&",))]

    def synopsis(self, usages: Iterable[tuple[str, str]]) -> None:
        """Commands and what follows each; further lines of one begin below its arguments."""
        self.heading("SYNOPSIS")
        self._lines.append(".PD 0")
        for command, rest in usages:
            self._lines += [f'.SY "{plain(command)}"', *([rest] if rest else []), ".YS"]
        self._lines.append(".PD")

    def verbatim(self, lines: Iterable[str]) -> None:
        """As it stands, line by line."""
        self._lines += [*([".PP"] if self._in_text() else []), ".EX", *(_kept(line) for line in lines), ".EE"]

    def source(self) -> bytes:
        """The page's file."""
        return ("\n".join(self._lines) + "\n").encode("ascii")

    def _in_text(self) -> bool:
        return not self._lines[-1].startswith((".SH", ".SS"))


def _sentence(text: str) -> str:
    at, made = 0, []
    for found in _TYPED.finditer(text):
        made += [*map(_spoken, text[at : found.start()]), _whole(found[1] or found[2] or found[3])]
        at = found.end()
    line = "".join([*made, *map(_spoken, text[at:])])
    return rf"\&{line}" if line.startswith(".") else line


def _whole(text: str) -> str:
    """Bold words that are not divided at a line's end."""
    return bold(text).replace(r"\fB", r"\fB\%").replace(" ", r" \%")


def _kept(line: str) -> str:
    """Blank lines would be told to troff as an order to leave space."""
    spoken = "".join(map(_spoken, line.rstrip()))
    return rf"\&{spoken}" if not spoken or spoken.startswith(".") else spoken


def _spoken(letter: str) -> str:
    return _SPOKEN.get(letter) or (letter if letter.isascii() else rf"\[u{ord(letter):04X}]")
