"""What a person sees: tables, facts, instants and durations.

Rules
1. On a terminal a table is Rich's, as wide as the terminal; where it would not fit without cutting an id, each row
   becomes a block of lines. Colour follows ``NO_COLOR``.
2. Into a pipe a table is aligned columns, uncut and without colour, and costs no import of Rich.
3. Instants are UTC and end in ``Z``; durations are two units, ``9 min 40 s``. What is absent is a dash.
4. Names come from holders and vendors: nothing that is shown can steer the terminal, and nothing is read as markup.
5. ``--json`` is what the daemon answered, in ASCII, so that no locale can spoil it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from lls.cli.frame import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, TaskID

NOTHING: Final = "–"
_PATIENCE_SECONDS: Final = 1.0
_ANY_WIDTH: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column: its heading, and the cell that it makes of a row."""

    title: str
    cell: Callable[[Mapping[str, Any]], object]
    number: bool = False
    whole: bool = False
    """Never broken over two lines: somebody will copy it."""


def column(
    title: str, source: str | Callable[[Mapping[str, Any]], object], *, number: bool = False, whole: bool = False
) -> Column:
    """A column of a field, or of what a function says of the row."""
    return Column(
        title=title, cell=source if callable(source) else lambda row: row.get(source), number=number, whole=whole
    )


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[Column], *, empty: str) -> None:
    """Rows for a person; ``empty`` is the sentence when there are none."""
    cells = [[said(one.cell(row)) for one in columns] for row in rows]
    if not cells:
        say(empty)
    elif sys.stdout.isatty():
        _rich_table(cells, columns)
    else:
        _plain_table(cells, columns)


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """Names and what stands behind each, one a line."""
    known = [(name, said(value)) for name, value in pairs]
    width = max(len(name) for name, _ in known)
    for name, value in known:
        say(f"{name:<{width}}  {value}")


def say(sentence: str = "") -> None:
    """A line of the result."""
    sys.stdout.write(f"{printable(sentence)}\n")


def document(answer: object) -> None:
    """The result for programs."""
    sys.stdout.write(f"{json.dumps(answer, indent=2)}\n")


def said(value: object) -> str:
    """A value as a cell."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(str(value))


def instant(text: object) -> str:
    """An instant of the wire as ``2026-11-21 10:32:07Z``."""
    at = moment(text)
    return said(text) if at is None else f"{at:%Y-%m-%d %H:%M:%S}Z"


def moment(text: object) -> datetime | None:
    """An instant of the wire; None when it is none."""
    try:
        at = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return at.astimezone(UTC) if at.tzinfo else None


def duration(seconds: float) -> str:
    """``9 min 40 s``: two units are as exact as anybody reads."""
    left = round(abs(seconds))
    parts = []
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        parts.append((count, unit))
    first = next((place for place, (count, _) in enumerate(parts) if count), len(parts) - 1)
    told = [f"{count} {unit}" for count, unit in parts[first : first + 2] if count]
    return " ".join(told) or "0 s"


def ahead(seconds: object) -> str:
    """``in 9 min 40 s`` or ``9 min 40 s ago``."""
    if not isinstance(seconds, int | float):
        return NOTHING
    return f"in {duration(seconds)}" if seconds >= 0 else f"{duration(seconds)} ago"


def until(text: object, now: object) -> str:
    """An instant, and how far it is from ``now`` (the server's, where it says it)."""
    at, today = moment(text), moment(now)
    return instant(text) if at is None or today is None else f"{instant(text)} ({ahead((at - today).total_seconds())})"


def count(amount: object, one: str, many: str = "") -> str:
    """``1 seat``, ``2 seats``."""
    return f"{amount} {one if amount == 1 else many or f'{one}s'}"


def holder(who: object) -> str:
    """``alice@ws-17``, else the seat's name, else its id."""
    if not isinstance(who, Mapping):
        return said(who)
    user, host = who.get("user"), who.get("host")
    return said(f"{user}@{host}" if user and host else user or who.get("seat_name") or host or who.get("seat_id"))


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, if that is a terminal and the transfer takes longer than a second."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    bar = _Bar(what, total)
    try:
        yield bar.advance
    finally:
        bar.close()


class _Bar:
    """Appears when it has been worth it for a second; a quick transfer never loads Rich."""

    def __init__(self, what: str, total: int | None) -> None:
        self._what = what
        self._total = total
        self._done = 0
        self._since = time.monotonic()
        self._shown: tuple[Progress, TaskID] | None = None

    def advance(self, amount: int) -> None:
        self._done += amount
        if self._shown is None and time.monotonic() - self._since > _PATIENCE_SECONDS:
            self._shown = self._started()
        if self._shown is not None:
            bar, task = self._shown
            bar.update(task, completed=self._done)

    def close(self) -> None:
        if self._shown is not None:
            self._shown[0].stop()

    def _started(self) -> tuple[Progress, TaskID]:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        bar = Progress(*columns, console=Console(stderr=True), transient=True)
        task = bar.add_task(self._what, total=self._total)
        bar.start()
        return bar, task


def _plain_table(cells: Sequence[Sequence[str]], columns: Sequence[Column]) -> None:
    rows = [[one.title for one in columns], *cells]
    widths = [max(len(row[place]) for row in rows) for place in range(len(columns))]
    for row in rows:
        placed = (
            f"{cell:>{width}}" if one.number else f"{cell:<{width}}"
            for cell, width, one in zip(row, widths, columns, strict=True)
        )
        say("  ".join(placed).rstrip())


def archived(answer: Mapping[str, Any]) -> None:
    """Say what an answer does not reach any more."""
    note = answer.get("archived")
    if isinstance(note, Mapping):
        say()
        say(f"Lines up to {instant(note.get('last_at'))} are archived and not counted here.")


def _rich_table(cells: Sequence[Sequence[str]], columns: Sequence[Column]) -> None:
    from rich import box
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    console = Console(markup=False, highlight=False, emoji=False)
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for one in columns:
        justify: Any = "right" if one.number else "left"
        made.add_column(Text(one.title), justify=justify, no_wrap=one.whole or one.number, overflow="fold")
    for row in cells:
        made.add_row(*(Text(cell) for cell in row))
    # Asked within the terminal's width, a table answers that it fits: it would cut.
    wanted = Measurement.get(console, console.options.update(max_width=_ANY_WIDTH), made).minimum
    if wanted <= console.width:
        _put(console, made)
    else:
        for row in cells:
            _block(console, row, columns)


def _block(console: Console, row: Sequence[str], columns: Sequence[Column]) -> None:
    from rich.text import Text

    width = max(len(one.title) for one in columns)
    for one, cell in zip(columns, row, strict=True):
        _put(console, Text.assemble((f"{one.title:<{width}}", "bold"), f"  {cell}", overflow="fold"))
    _put(console, Text())


def _put(console: Console, what: RenderableType) -> None:
    console.print(what, soft_wrap=False)
