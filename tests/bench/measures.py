"""One function per promise: what is run, with what it is compared, and what was promised.

Each takes a :class:`Bench` and gives the rows of the table. Ratios are medians over pairs: subject and yardstick one
after the other, within seconds, on the same core.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.bench.load import Beats, Mixed, Script, Seats, Tally, Units, Uses, drive, each_once
from tests.bench.machine import Broken, Child, run_alone, started

CONNECTIONS: Final = 64
MORE_CONNECTIONS: Final = 128
HERD, HERD_SEATS = 3_000, 2_000
LIVE_LEASES: Final = 100_000
SLOW_COMMIT_SECONDS: Final = 0.002
BARE_BEAT: Final = "/v1/leases/00000000-0000-4000-8000-000000000000/heartbeat"
BARE_CHECKOUT: Final = "/v1/leases"
BARE_CHECKIN: Final = "/v1/leases/00000000-0000-4000-8000-000000000000"
SATURATED: Final = 0.9
ALONE: Final = 0.85
UNIQUE: Final = 1_000_000
"""Above the numbers of the connections, so that no two scripts use one lease id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of the table; ``spread`` is the least and the most of the runs."""

    name: str
    goal: str
    reached: str
    passed: bool
    value: float
    spread: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class Bench:
    """How long, how often, where."""

    folder: Path
    runs: int
    seconds: float
    large: float = 1.0
    say: Callable[[str], None]
    _count: int = field(default=0)

    def state_dir(self) -> Path:
        """A new one."""
        self._count += 1
        return self.folder / f"state-{self._count}"

    @contextmanager
    def subject(self, *, task: str = "serve", state_dir: Path | None = None, **order: object) -> Iterator[Server]:
        """The real daemon in a process of its own."""
        place = {"task": task, "state_dir": str(state_dir or self.state_dir())}
        with started("subject", {**place, **order}, log=self.folder / "subject.log") as (child, ready):
            yield Server(child=child, port=ready.get("port", 0), ready=ready)

    @contextmanager
    def bare(self, *routes: tuple[str, str, int, int]) -> Iterator[Server]:
        """The yardstick: method, path, status, size of the answer's body."""
        with started("bare", {"routes": routes}, log=self.folder / "bare.log") as (child, ready):
            yield Server(child=child, port=ready["port"], ready=ready)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A process with a port."""

    child: Child
    port: int
    ready: dict[str, Any]

    async def drive(self, scripts: Sequence[Script], seconds: float) -> Tally:
        """Put load on it."""
        return await drive(self.port, scripts, seconds=seconds, pid=self.child.pid)


# -------------------------------------------------------------------- rates


async def heartbeats(bench: Bench) -> list[Row]:
    """Signed heartbeats of 64 leases against the bare handler."""
    return [await _heartbeats(bench, "heartbeats", least=0.50)]


async def heartbeats_unsigned(bench: Bench) -> list[Row]:
    """The same with a key that does not sign: what everything else costs."""
    return [await _heartbeats(bench, "heartbeats-unsigned", least=0.75, unsigned=True)]


async def _heartbeats(bench: Bench, name: str, *, least: float, unsigned: bool = False) -> Row:
    with bench.subject(unsigned=unsigned) as subject:
        scripts, size = await _leased(subject, CONNECTIONS)
        with bench.bare(("POST", BARE_BEAT, 200, size)) as bare:
            bare_scripts = _bare_beats(CONNECTIONS)
            pairs = await _in_turns(bench, (subject, scripts), (bare, bare_scripts))
    return _ratio_row(name, pairs, least=least, expected={200}, bare="bare handler")


async def durable(bench: Bench) -> list[Row]:
    """Half checkouts, half checkins, every one on the disk before its answer."""
    with bench.subject() as subject:
        scripts = [Seats(number) for number in range(CONNECTIONS)]
        probe = await each_once(subject.port, [Seats(UNIQUE, checkins=False)()])
        routes = (
            ("POST", BARE_CHECKOUT, 201, _size(probe, expected=201)),
            ("DELETE", BARE_CHECKIN, 204, 0),
        )
        with bench.bare(*routes) as bare:
            pairs = await _in_turns(bench, (subject, scripts), (bare, _bare_seats(CONNECTIONS)))
    return [_ratio_row("durable", pairs, least=0.33, expected={201, 204}, bare="bare handler")]


async def meters(bench: Bench) -> list[Row]:
    """Units used, and units taken and given back, each on the disk before its answer, against the same heartbeats."""
    with bench.subject() as subject:
        beats, _size_of_a_beat = await _leased(subject, CONNECTIONS)
        ids = [f"00000001-0000-4000-8000-{number:012x}" for number in range(UNIQUE // 2, UNIQUE // 2 + CONNECTIONS)]
        uses = [Uses(lease_id, number=number) for number, lease_id in enumerate(ids)]
        units = [Units(lease_id, number=number) for number, lease_id in enumerate(ids)]
        used = await _in_turns(bench, (subject, uses), (subject, beats))
        taken = await _in_turns(bench, (subject, units), (subject, beats))
    return [
        _ratio_row("meters, used", used, least=0.50, expected={200}, bare="heartbeats"),
        _ratio_row("meters, taken", taken, least=0.50, expected={200}, bare="heartbeats"),
    ]


async def group(bench: Bench) -> list[Row]:
    """With 2 ms added to every commit: what waits together is committed together."""
    with (
        bench.subject(commit_delay=SLOW_COMMIT_SECONDS) as subject,
        bench.subject(commit_delay=SLOW_COMMIT_SECONDS, most_in_group=1) as singly,
    ):
        grouped, alone = ([Seats(number) for number in range(CONNECTIONS)] for _ in range(2))
        pairs = await _in_turns(bench, (subject, grouped), (singly, alone))
    return [_ratio_row("group", pairs, least=10.0, expected={201, 204}, bare="groups of one")]


# -------------------------------------------------------------------- a herd


async def herd(bench: Bench) -> list[Row]:
    """3,000 clients at once for 2,000 seats from one address; a new daemon with default settings each time."""
    seen: list[Counter[int]] = []
    seconds: list[float] = []
    unanswered = 0
    for _run in range(bench.runs):
        with bench.subject(seats=HERD_SEATS) as subject:
            requests = [Seats(number, checkins=False)() for number in range(HERD)]
            tally = await each_once(subject.port, requests, at_once=True)
            codes = Counter(b'"code":"no_seat"' in body for body in tally.bodies)
            seen.append(tally.statuses)
            seconds.append(tally.seconds)
            unanswered += tally.unanswered + HERD - HERD_SEATS - codes[True]
            bench.say(f"  herd: {dict(tally.statuses)} in {tally.seconds:.2f} s, unanswered {tally.unanswered}")
    right = Counter({201: HERD_SEATS, 409: HERD - HERD_SEATS})
    good = sum(1 for one in seen if one == right)
    took = statistics.median(seconds)
    return [
        Row(
            name="herd",
            goal="2,000 granted, 1,000 no_seat, nothing else",
            reached=f"exactly so in {good} of {len(seen)} runs, {took:.2f} s each",
            passed=good == len(seen) and unanswered == 0,
            value=took,
            spread=(min(seconds), max(seconds)),
        )
    ]


# -------------------------------------------------------------------- latency


async def p99(bench: Bench) -> list[Row]:
    """Heartbeats at 128 connections: alone, with a tenth of checkouts, and while a commit hangs."""
    with bench.subject() as subject:
        beats, size = await _leased(subject, MORE_CONNECTIONS)
        mixed = [Mixed(beat, Seats(UNIQUE + number, checkins=False)) for number, beat in enumerate(beats)]
        with bench.bare(("POST", BARE_BEAT, 200, size)) as bare:
            plain = _bare_beats(MORE_CONNECTIONS)
            rows = [
                _p99_row("p99", await _in_turns(bench, (subject, beats), (bare, plain)), {200}),
                _p99_row("p99 with checkouts", await _in_turns(bench, (subject, mixed), (bare, plain)), {200, 201}),
            ]
            pairs = []
            for run in range(bench.runs):
                stalled = await _stalled(subject, beats, number=2 * UNIQUE + run)
                pairs.append(_noted(bench, stalled, await bare.drive(plain, bench.seconds)))
            rows.append(_p99_row("p99 while stalled", pairs, {200}))
    return rows


async def _stalled(subject: Server, beats: Sequence[Script], *, number: int) -> Tally:
    """Heartbeats for as long as one checkout's commit hangs."""
    hangs = float(subject.child.ask("stall")["stalls"])
    checkout = asyncio.create_task(each_once(subject.port, [Seats(number, checkins=False)()]))
    await asyncio.sleep(0.1)  # the checkout is in its commit now; the heartbeats end before it does
    tally = await subject.drive(beats, hangs - 0.3)
    if checkout.done():
        raise Broken("The commit did not hang while heartbeats were measured.")
    _size(await checkout, expected=201)
    return tally


# -------------------------------------------------------------------- start, memory, journal


async def start(bench: Bench) -> list[Row]:
    """A start with 100,000 live leases against a SELECT of their rows, each in a process of its own."""
    state_dir, leases = bench.state_dir(), int(LIVE_LEASES * bench.large)
    with bench.subject(state_dir=state_dir) as empty:
        without = empty.ready["rss_kb"]
    with bench.subject(task="fill", state_dir=state_dir, leases=leases) as filler:
        bench.say(f"  {leases:,} leases in {filler.ready['seconds']:.1f} s")
    ratios, kilobytes = [], []
    for _run in range(bench.runs):
        with bench.subject(task="select", state_dir=state_dir) as plain:
            selected = plain.ready
        with bench.subject(state_dir=state_dir) as subject:
            began = subject.ready
        if not leases == selected["rows"] == began["leases"]:
            raise Broken(f"{leases} leases were filled in, {selected['rows']} and {began['leases']} came back.")
        ratios.append(began["start_seconds"] / selected["seconds"])
        kilobytes.append((began["rss_kb"] - without) / leases)
        seconds = f"start {began['start_seconds']:.3f} s, SELECT {selected['seconds']:.3f} s"
        bench.say(f"  {seconds}, {kilobytes[-1]:.2f} KB each")
    ratio, memory = statistics.median(ratios), statistics.median(kilobytes)
    return [
        Row(
            name="start",
            goal=f"{leases:,} leases within 5 × their SELECT",
            reached=f"{ratio:.2f} ×",
            passed=ratio <= 5,
            value=ratio,
            spread=(min(ratios), max(ratios)),
        ),
        Row(
            name="memory",
            goal="at most 1.2 KB a lease",
            reached=f"{memory:.2f} KB",
            passed=memory <= 1.2,
            value=memory,
            spread=(min(kilobytes), max(kilobytes)),
        ),
    ]


async def journal(bench: Bench) -> list[Row]:
    """A million lines exported, verified, and read as the vendor does. Bounded: ten times the lines, no more memory."""
    state_dir, lines = bench.state_dir(), int(1_000_000 * bench.large)
    rises: list[float] = []
    said: dict[str, Any] = {}
    for upto in (lines // 10, lines):
        with bench.subject(task="fill", state_dir=state_dir, lines=upto) as filler:
            bench.say(f"  {filler.ready['lines']:,} lines after {filler.ready['seconds']:.1f} s")
        with bench.subject(task="journal", state_dir=state_dir) as reader:
            said = reader.ready
        rises.append(max(said[f"{step}_rise_mb"] for step in ("export", "verify", "ingest")))
        steps = ", ".join(
            f"{step} {said[f'{step}_seconds']:.1f} s, {said[f'{step}_rise_mb']:+.0f} MB"
            for step in ("export", "verify", "ingest")
        )
        bench.say(f"  {said['lines']:,} lines, {said['megabytes']:.0f} MB: {steps}")
    return [
        Row(
            name="journal",
            goal=f"{lines:,} lines in bounded memory",
            reached=f"peak {rises[1]:+.0f} MB; a tenth of them {rises[0]:+.0f} MB",
            passed=rises[1] <= rises[0] + 32,
            value=rises[1],
            notes=(f"export {said['export_seconds']:.1f} s, verify {said['verify_seconds']:.1f} s",),
        )
    ]


async def ingest(bench: Bench) -> list[Row]:
    """A report of a million lines, taken in by the vendor's own command on one core. Bounded as `journal` is."""
    lines = int(1_000_000 * bench.large)
    spent: list[tuple[float, float]] = []
    for upto in (lines // 10, lines):
        folder = bench.state_dir()
        folder.mkdir()
        log = bench.folder / "ingest.log"
        with started("ingest", {"folder": str(folder), "lines": upto}, log=log) as (_, made):
            bench.say(f"  {upto:,} lines, {made['megabytes']:.0f} MB, made in {made['seconds']:.1f} s")
        spent.append(run_alone("lls.issuer", "--home", made["home"], "report", "ingest", made["report"], log=log))
        bench.say(f"  ingested in {spent[-1][0]:.1f} s, peak {spent[-1][1]:.0f} MB")
    (_, tenth), (seconds, peak) = spent
    return [
        Row(
            name="ingest",
            goal=f"{lines:,} lines within {60 * bench.large:.0f} s",
            reached=f"{seconds:.1f} s",
            passed=seconds <= 60 * bench.large,
            value=seconds,
        ),
        Row(
            name="ingest-memory",
            goal="bounded, at most 128 MB",
            reached=f"peak {peak:.0f} MB; a tenth of them {tenth:.0f} MB",
            passed=peak <= min(128, tenth + 16),
            value=peak,
        ),
    ]


MEASURES: Final[dict[str, Callable[[Bench], Awaitable[list[Row]]]]] = {
    "heartbeats": heartbeats,
    "heartbeats-unsigned": heartbeats_unsigned,
    "durable": durable,
    "meters": meters,
    "group": group,
    "herd": herd,
    "p99": p99,
    "start": start,
    "journal": journal,
    "ingest": ingest,
}


# -------------------------------------------------------------------- what helps

Pair = tuple[Tally, Tally]
Loaded = tuple[Server, Sequence[Script]]


async def _leased(subject: Server, count: int) -> tuple[list[Beats], int]:
    """A lease for each connection, and the size of an answer to a heartbeat."""
    checkouts = [Seats(number, checkins=False) for number in range(UNIQUE // 2, UNIQUE // 2 + count)]
    taken = await each_once(subject.port, [checkout() for checkout in checkouts])
    _size(taken, expected=201)
    beats = [Beats(f"00000001-0000-4000-8000-{number:012x}") for number in range(UNIQUE // 2, UNIQUE // 2 + count)]
    return beats, _size(await each_once(subject.port, [beats[0]()]), expected=200)


def _size(tally: Tally, *, expected: int) -> int:
    """The size of the answers. Raises Broken when one is not the expected."""
    if set(tally.statuses) != {expected}:
        raise Broken(f"Expected {expected}, got {dict(tally.statuses)}: {tally.bodies[:1]!r}")
    return len(tally.bodies[0])


def _bare_beats(count: int) -> list[Beats]:
    return [Beats("", path=BARE_BEAT) for _ in range(count)]


def _bare_seats(count: int) -> list[Seats]:
    return [Seats(number, checkin_path=BARE_CHECKIN) for number in range(count)]


async def _in_turns(bench: Bench, subject: Loaded, yardstick: Loaded) -> list[Pair]:
    for server, scripts in (subject, yardstick):
        await server.drive(scripts, bench.seconds / 4)  # warm: caches, the database's pages, the interpreter
    pairs = []
    for _run in range(bench.runs):
        first = await subject[0].drive(subject[1], bench.seconds)
        pairs.append(_noted(bench, first, await yardstick[0].drive(yardstick[1], bench.seconds)))
    return pairs


def _noted(bench: Bench, subject: Tally, yardstick: Tally) -> Pair:
    def side(tally: Tally) -> str:
        cores = f"server {tally.their_cpu:4.0%}, load {tally.own_cpu:4.0%}"
        return f"{tally.rate:8,.0f}/s, p99 {tally.p99 * 1000:6.2f} ms ({cores})"

    bench.say(f"  subject {side(subject)}   yardstick {side(yardstick)}   {subject.rate / yardstick.rate:.2f}")
    return subject, yardstick


def _ratio_row(name: str, pairs: Sequence[Pair], *, least: float, expected: set[int], bare: str) -> Row:
    ratios = [subject.rate / yardstick.rate for subject, yardstick in pairs]
    ratio, rate = statistics.median(ratios), statistics.median(subject.rate for subject, _ in pairs)
    wrong = _wrong(pairs, expected)
    # A neighbour on the same core takes time from both sides, seldom alike. Work per processor second does not see it.
    noise = () if least > 1 else _shared(pairs)  # groups of one wait for the disk, not for the processor
    efforts = [subject.effort / yardstick.effort for subject, yardstick in pairs]
    return Row(
        name=name,
        goal=f"at least {least:.2f} of the {bare}" if least < 1 else f"at least {least:.0f} × {bare}",
        reached=f"{ratio:.2f} ({rate:,.0f}/s)",
        passed=ratio >= least and not wrong,
        value=ratio,
        spread=(min(ratios), max(ratios)),
        notes=(*wrong, *noise, f"per second of processor time: {statistics.median(efforts):.2f}"),
    )


def _p99_row(name: str, pairs: Sequence[Pair], expected: set[int]) -> Row:
    ratios = [subject.p99 / yardstick.p99 for subject, yardstick in pairs]
    ratio, ours = statistics.median(ratios), statistics.median(subject.p99 for subject, _ in pairs)
    wrong = _wrong(pairs, expected)
    return Row(
        name=name,
        goal="within 3 × the bare handler's",
        reached=f"{ratio:.2f} × ({ours * 1000:.1f} ms)",
        passed=ratio <= 3 and not wrong,
        value=ratio,
        spread=(min(ratios), max(ratios)),
        notes=(*wrong, *_shared(pairs)),
    )


def _wrong(pairs: Sequence[Pair], expected: set[int]) -> tuple[str, ...]:
    """Answers that nobody expected, and a generator that measured itself."""
    notes = []
    if (busiest := max(tally.own_cpu for pair in pairs for tally in pair)) > SATURATED:
        notes.append(f"the generator was {busiest:.0%} busy: the ratio flatters")
    statuses = sum((subject.statuses for subject, _ in pairs), Counter[int]())
    if unexpected := {status: count for status, count in statuses.items() if status not in expected}:
        notes.append(f"unexpected answers {unexpected}")
    if unanswered := sum(subject.unanswered for subject, _ in pairs):
        notes.append(f"{unanswered} unanswered")
    return tuple(notes)


def _shared(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Both sides take all of their core when nobody else is there; when they did not get it, the rates say little."""
    had = statistics.median(tally.their_cpu for pair in pairs for tally in pair)
    return () if had > ALONE else (f"noisy: the servers had {had:.0%} of their core, others the rest; repeat",)
