"""What is shown: on a terminal a picture that moves, into a pipe or a file one line every two seconds.

The numbers are the daemon's (``watch``), the sentences are the story's and the rooms'.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lls.demo.watch import Sight

LINE_SECONDS: Final = 2.0
MOST_EVENTS: Final = 10
_MOST_OUTPUT: Final = 3
_COLOUR: Final = {"vendor": "magenta", "site": "cyan", "laptop": "green", "island": "green"}
_WALKS: Final = {
    "vendor": ("◄── ", "out to the vendor"),
    "site": ("──► ", "in to the site"),
    "island": ("──► ", "on to the machine without a network"),
}


@dataclass(slots=True)
class Show:
    """What the picture is made of; the story changes it, the screen draws it."""

    url: str
    seconds: int | None
    begun: float = field(default_factory=time.monotonic)
    sight: Sight | None = None
    down_since: float | None = None
    events: deque[tuple[float, str, str]] = field(default_factory=lambda: deque(maxlen=MOST_EVENTS))

    @property
    def elapsed(self) -> float:
        """Seconds since the doors opened."""
        return time.monotonic() - self.begun


class Screen:
    """The terminal, or whatever standard output is."""

    def __init__(self) -> None:
        self._console = Console(markup=False, highlight=False, emoji=False, soft_wrap=True)
        self.live = self._console.is_terminal
        self._picture: Live | None = None
        self._said_at = float("-inf")

    # ---------------------------------------------------------------- before and after the show

    def title(self, text: str) -> None:
        """A new chapter."""
        self._print(Text(f"\n{text}", style="bold"))

    def say(self, sentence: str, *, style: str = "") -> None:
        """A sentence for the person who watches."""
        self._print(Text(sentence, style=style))

    def command(self, side: str, words: str) -> None:
        """A command as it is typed."""
        self._print(Text.assemble((f"{side:>6} ", _COLOUR[side]), ("$ ", "dim"), words))

    def output(self, *streams: str) -> None:
        """The sentences that a command answered; tables and blank lines would only scroll by."""
        lines = [line for stream in streams for line in stream.splitlines() if _is_sentence(line)]
        for line in lines[:_MOST_OUTPUT]:
            self._print(Text(f"         {line.strip()}", style="dim"))

    def written(self, side: str, path: Path) -> None:
        """A file that somebody wrote by hand."""
        self._print(Text.assemble((f"{side:>6} ", _COLOUR[side]), ("✎ ", "dim"), str(path)))

    def carried(self, name: str, *, to: str, size: int) -> None:
        """A walk with a stick."""
        arrow, where = _WALKS[to]
        there = Text("        ").append(f"{arrow}stick/{name}", "yellow").append(f" is carried {where}")
        self._print(there.append(f" ({size:,} bytes)", "dim"))

    def trouble(self, sentence: str) -> None:
        """Why it did not work out."""
        self._print(Text(f"lls demo: {sentence}", style="bold red"))

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A small table; the last column holds numbers."""
        made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            made.add_column(column, justify="right" if column == columns[-1] else "left", no_wrap=True)
        for row in rows:
            made.add_row(*row)
        self._print(Padding(made, (1, 0, 0, 2)))

    # ---------------------------------------------------------------- the show

    def __enter__(self) -> Self:
        if self.live:
            self._picture = Live(console=self._console, auto_refresh=False, transient=False)
            self._picture.start()
        return self

    def __exit__(self, *_: object) -> None:
        picture, self._picture = self._picture, None
        if picture is not None:
            picture.stop()

    def draw(self, show: Show) -> None:
        """Bring the picture, or the log, up to date."""
        if self._picture is not None:
            self._picture.update(_picture(show), refresh=True)
        elif time.monotonic() - self._said_at >= LINE_SECONDS:
            self._said_at = time.monotonic()
            self._print(Text(_line(show)))

    def event(self, show: Show, sentence: str, *, style: str = "", loud: bool = False) -> None:
        """Something happened. What is ``loud`` stays on the screen; the rest passes by: a hundred people do a lot."""
        if loud:
            self._print(Text(f"{_clock(show.elapsed)}  {sentence}", style=style))
        else:
            show.events.append((show.elapsed, sentence, style))

    def _print(self, what: RenderableType) -> None:
        (self._picture.console if self._picture else self._console).print(what)


def _picture(show: Show) -> RenderableType:
    left = "until Ctrl-C" if show.seconds is None else f"of {_clock(show.seconds)}"
    head = Text.assemble(("Local License Server", "bold"), f"  {show.url}  ", (f"{_clock(show.elapsed)} {left}", "dim"))
    parts: list[RenderableType] = []
    if show.down_since is not None:
        away = time.monotonic() - show.down_since
        parts.append(Text(f"The license server is down ({away:.1f} s). Seats stay valid at the clients.", "bold red"))
    if show.sight is not None:
        parts += [_bars(show.sight), Text(), Text(_meters(show.sight)), Text(_counts(show.sight))]
    parts += [Text(), *(_told(*event) for event in show.events)]
    parts += [Text()] * (MOST_EVENTS - len(show.events))
    return Panel(Group(*parts), title=head, title_align="left", border_style="dim", padding=(1, 2))


def _bars(sight: Sight) -> Table:
    bars = Table.grid(padding=(0, 2))
    bars.add_column(no_wrap=True)
    bars.add_column(ratio=1, min_width=20)
    bars.add_column(justify="right", no_wrap=True)
    bars.add_column(no_wrap=True, min_width=12)
    for pool in sight.pools:
        full = pool.seats and pool.in_use >= pool.seats
        bar = ProgressBar(
            total=pool.seats or max(pool.in_use, 1),
            completed=pool.in_use,
            complete_style="yellow" if full else "green",
            finished_style="yellow",
        )
        waiting = Text(f"{pool.waiting} waiting" if pool.waiting else "", style="yellow")
        bars.add_row(pool.name, bar, _in_use(pool.in_use, pool.seats), waiting)
    return bars


def _meters(sight: Sight) -> str:
    meters = [
        f"{meter.key} {meter.used:,} of {meter.granted:,} {'in use' if meter.pool else 'used'}"
        for pool in sight.pools
        for meter in pool.meters
    ]
    return "   ".join([*meters, f"seats away {sum(pool.away for pool in sight.pools)}"])


def _counts(sight: Sight) -> str:
    kinds = sight.kinds
    return (
        f"granted {kinds['Granted']:,}   returned {kinds['Returned']:,}   denied {kinds['Denied']:,}   "
        f"expired after a crash {kinds['Expired']:,}   heartbeats {sight.heartbeats:,}"
    )


def _line(show: Show) -> str:
    if show.down_since is not None or show.sight is None:
        return f"{_clock(show.elapsed)}  the license server does not answer"
    pools = "   ".join(
        f"{pool.product} {_in_use(pool.in_use, pool.seats)}" + (f" ({pool.waiting} wait)" if pool.waiting else "")
        for pool in show.sight.pools
    )
    meters = "   ".join(f"{one.key} {one.used:,}/{one.granted:,}" for pool in show.sight.pools for one in pool.meters)
    return f"{_clock(show.elapsed)}  {pools}   {meters}   {_counts(show.sight)}"


def _told(at: float, sentence: str, style: str) -> Text:
    line = Text.assemble((f"{_clock(at)}  ", "dim"), (sentence, style))
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _in_use(in_use: int, seats: int) -> str:
    return f"{in_use}/{seats}" if seats else f"{in_use}"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def _is_sentence(line: str) -> bool:
    text = line.strip()
    return text.endswith((".", "!")) and not text.startswith(("│", "┃", "Next:"))
