"""What happens when, and what has to hold: the demonstration from the first key to the bill.

What has to hold, or the exit status is 1
1. Every command succeeds; the daemon never ends by itself and stops with status 0 when asked.
2. Never are more seats in use, nor more cores held, than were bought.
3. Every lease that the daemon named before it was killed is there after it, unless its own holder has returned it
   since.
4. No client lost a seat while it was working.
5. The frames that clients were told used, those in the journal and those on the bill are the same, also over the kill:
   an answered use is never lost (``meter``).
6. What was borrowed counts: on the laptop while no server lives, and at the server whatever happens to it (``road``).
7. The chain verifies at the site and at the vendor, and the receipt is accepted.
"""

from __future__ import annotations

import json
import queue
import random
import subprocess
import threading
import time
from typing import Any, Final

from lls.demo import papers
from lls.demo.meter import Act, Frames
from lls.demo.road import AWAY, Road, away_of
from lls.demo.room import FRAMES, Room
from lls.demo.screen import Screen, Show
from lls.demo.world import GRACE_SECONDS, LEASE_SECONDS, Trouble, World

BILLED: Final = ("customer", "sku", "feature", "meter", "unit", "quantity")
METER: Final = (FRAMES, "consumed")
"""Feature and meter of the line that bills the frames."""
PEOPLE_IN_A_ROOM: Final = 20
LEAST_ROOMS: Final = 3
"""So that a power cut never takes everybody."""
MOST_ROOMS: Final = 12
"""Each is a process; beyond this the rooms are larger."""
SHORT_SECONDS: Final = 20
"""A shorter show has no time for seats to expire before the daemon is killed."""
DARK_SECONDS: Final = 4.0
DOWN_SECONDS: Final = 1.0
LEAVE_SECONDS: Final = 15.0
PATIENCE_SECONDS: Final = 15.0
LOOK_SECONDS: Final = 0.25
SHARE_OF_CAD: Final = 85
EVERY_SECONDS: Final = 20.0
"""How often a room loses power when the show has no end; the daemon is killed once, half-way to the second time."""


class Story:
    """One demonstration, told once."""

    def __init__(self, world: World, screen: Screen, *, clients: int, seconds: int | None, kept: bool) -> None:
        self._world = world
        self._screen = screen
        self._clients = clients
        self._seconds = seconds
        self._kept = kept
        self._luck = random.Random(clients)  # noqa: S311 - which room goes dark is no secret
        self._heard: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._hearing: list[threading.Thread] = []
        self._frames = Frames()
        self._road = Road(world, screen)
        self._bill: list[dict[str, str]] = []
        self._cad, self._sim = max(1, clients * 6 // 10), max(1, clients * 8 // 100)
        self._show = Show(url=world.url, seconds=seconds)
        self._problems: list[str] = []
        self._dark: list[tuple[float, Room]] = []
        self._lit: list[tuple[Room, subprocess.Popen[bytes]]] = []
        self._generation = 0
        self._ended_early = False
        self._lost = self._waited = self._power_cuts = self._kills = self._saved = 0

    def tell(self) -> int:
        """The exit status."""
        self._open()
        try:
            with self._screen:
                self._perform()
        except KeyboardInterrupt:
            self._ended_early = True
            self._screen.say("\nCtrl-C: the show ends, the books are closed.")
        self._close()
        return self._sum_up()

    # ---------------------------------------------------------------- 1. before

    def _open(self) -> None:
        screen, world = self._screen, self._world
        screen.say("A license server for a network without a way out, from the first key to the bill.", style="bold")
        screen.say(f"Everything happens in {world.folder}; type the commands there and they do the same.")
        papers.open_shop(world, screen)
        papers.license_site(world, screen, {"CAD-1Y": self._cad + AWAY, "SIM-1Y": self._sim})
        self._road.leave()

    # ---------------------------------------------------------------- 2. the show

    def _perform(self) -> None:
        screen = self._screen
        screen.title(
            f"{self._clients} clients, {self._cad} seats of CAD Professional beside the {AWAY} that are away, "
            f"{self._sim} of Flow Simulation; leases of {LEASE_SECONDS} s"
        )
        self._show.begun = time.monotonic()
        rooms = min(self._clients, MOST_ROOMS, max(LEAST_ROOMS, -(-self._clients // PEOPLE_IN_A_ROOM)))
        for number in range(1, rooms + 1):
            people = self._clients // rooms + (number <= self._clients % rooms)
            self._light(self._room(number, people))
        cuts, kill_at = self._plan()
        # On a slow machine the first seat may be late, and without one the kill would prove nothing.
        while self._seconds is None or self._show.elapsed < self._seconds + (PATIENCE_SECONDS if kill_at else 0):
            if self._seconds is None and not cuts:
                cuts = [self._show.elapsed + EVERY_SECONDS]
            if cuts and self._show.elapsed >= cuts[0]:
                cuts.pop(0)
                self._cut_power()
            if kill_at is not None and self._show.elapsed >= kill_at and self._seats_in_use():
                kill_at = None
                self._kill()
            self._relight()
            self._look()
            time.sleep(LOOK_SECONDS)

    def _plan(self) -> tuple[list[float], float | None]:
        """When rooms lose power, and when the daemon is killed."""
        if self._seconds is None:
            return [EVERY_SECONDS / 2], EVERY_SECONDS
        if self._seconds < SHORT_SECONDS:
            return [0.75 * self._seconds], 0.6 * self._seconds
        return [0.12 * self._seconds, 0.6 * self._seconds], 0.48 * self._seconds

    def _seats_in_use(self) -> int:
        """Without those that are away: they would survive any kill."""
        return sum(pool.in_use - pool.away for pool in self._show.sight.pools) if self._show.sight else 0

    def _look(self) -> None:
        """Bring what is shown up to date, and check rule 2."""
        self._world.check_daemon()
        self._listen()
        sight = self._world.watch.look()
        if sight is not None:
            expired = sight.kinds["Expired"] - (self._show.sight.kinds["Expired"] if self._show.sight else 0)
            if expired:
                self._say(f"{_seats(expired)} without a heartbeat expired: free for others again", "yellow", loud=True)
            for pool in sight.pools:
                if pool.seats and pool.in_use > pool.seats:
                    self._problem(f"{pool.in_use} seats of {pool.product} were in use, {pool.seats} were bought.")
                for meter in pool.meters:
                    if meter.pool and meter.used > meter.granted:
                        self._problem(f"{meter.used} {meter.key} were held, {meter.granted} were bought.")
            self._show.sight = sight
        self._reckon()
        self._screen.draw(self._show)

    def _reckon(self) -> None:
        """Rule 5, as far as the journal was read."""
        written, self._world.watch.frames = self._world.watch.frames, []
        for act, request_id, frames in written:
            self._frames.write(act, request_id, frames)

    def _listen(self) -> None:
        """What the people in the rooms told since the last time."""
        while not self._heard.empty():
            told = self._heard.get()
            who = f"{told['user']}@{told['host']}"
            self._listen_for_features(who, told)
            match told["what"]:
                case "seated" if told["seconds"] >= 1:
                    self._waited += 1
                    self._say(f"{who} waited {told['seconds']} s for a seat of {told['product']} and got it", "green")
                case "seated":
                    self._say(f"{who} works with {told['product']}")
                case "left":
                    self._say(f"{who} gave the seat of {told['product']} back")
                case "refused" if told["waited"]:
                    self._say(f"{who} waited for a seat of {told['product']} in vain ({told['code']})", "yellow")
                case "refused":
                    self._say(f"{who} does not wait: {told['product']} is refused ({told['code']})", "yellow")
                case "unanswered":
                    self._say(f"{who} got no answer ({told['code']}) and will ask again", "dim")
                case "lost":
                    self._lost += 1
                    self._say(f"{who} lost the seat while working ({told['code']})", "bold red", loud=True)

    def _listen_for_features(self, who: str, told: dict[str, Any]) -> None:
        match told["what"]:
            case "asks":
                self._frames.ask(Act(told["act"]), told["request_id"], told["frames"])
            case "told":
                self._frames.tell(Act(told["act"]), told["request_id"], again=told["again"])
                if told["again"]:
                    self._say(f"{who} asked again for {_count(told['frames'], 'frame')}: counted once", "green")
                elif told["act"] == Act.UNDO:
                    self._say(f"{who} takes {_count(told['frames'], 'spoilt frame')} back")
            case "no_cores":
                self._say(f"{who} goes on without {_count(told['cores'], 'core')} more ({told['code']})", "yellow")
            case "no_frames":
                self._say(f"{who} may not render {_count(told['frames'], 'frame')} ({told['code']})", "yellow")

    # ---------------------------------------------------------------- 3. what goes wrong on purpose

    def _cut_power(self) -> None:
        if not self._lit:
            return
        room, process = self._lit.pop(self._luck.randrange(len(self._lit)))
        self._world.cut_power(process)
        self._power_cuts += 1
        self._say(f"Room {room.number} loses power: {room.people} computers fall silent", "red", loud=True)
        self._dark.append((self._show.elapsed + DARK_SECONDS, room))

    def _relight(self) -> None:
        back = [room for at, room in self._dark if self._show.elapsed >= at]
        self._dark = [(at, room) for at, room in self._dark if self._show.elapsed < at]
        for room in back:
            left = LEASE_SECONDS + GRACE_SECONDS - DARK_SECONDS
            self._say(
                f"Room {room.number} has power again and asks for seats; its old ones expire in about {left:.0f} s",
                "yellow",
                loud=True,
            )
            self._light(self._room(room.number, room.people))

    def _kill(self) -> None:
        """Rule 3, the heart of it."""
        world, watch = self._world, self._world.watch
        self._look()
        held = self._held_here()
        world.kill_daemon()
        self._kills += 1
        self._show.down_since = time.monotonic()
        self._say(f"kill -9: the license server is dead, {_seats(len(held))} were held", "bold red", loud=True)
        self._screen.draw(self._show)
        self._road.work()
        self._say("The laptop is on the road and works on: its seat needs no server", "bold green", loud=True)
        while time.monotonic() < self._show.down_since + DOWN_SECONDS:
            self._listen()
            self._screen.draw(self._show)
            time.sleep(LOOK_SECONDS)
        world.start_daemon()
        away = time.monotonic() - self._show.down_since
        self._show.down_since = None
        after = self._held_here()
        watch.read_journal()
        missing = held - after - watch.ended
        self._saved += len(held) - len(missing)
        if missing:
            self._problem(f"{len(missing)} of {_seats(len(held))} were gone after the restart.")
            self._say(self._problems[-1], "bold red", loud=True)
        else:
            sentence = f"Back after {away:.1f} s: all {_seats(len(held))} still held, nobody lost a seat"
            self._say(sentence, "bold green", loud=True)
        self._say(f"{_seats(self._road.counted())} still away: counted, and lent to nobody else", "green", loud=True)

    def _held_here(self) -> set[str]:
        leases = self._world.watch.leases()
        return leases.keys() - away_of(leases).keys()

    # ---------------------------------------------------------------- 4. after

    def _close(self) -> None:
        screen, world = self._screen, self._world
        screen.title("Everybody goes home")
        world.revive_daemon()  # Ctrl-C may have come while it was down
        late = world.close_rooms(seconds=LEAVE_SECONDS)
        for thread in self._hearing:  # each ends with its room's last line
            thread.join(LEAVE_SECONDS)
        self._listen()
        left = len(self._held_here())
        silent = f"{_seats(left)} of computers without power will expire" if left else "no seat is held any more"
        screen.say(f"         Everybody gave back what they held; {silent}.", style="dim")
        if late:
            self._problem(f"{late} rooms full of clients did not end within {LEAVE_SECONDS:.0f} seconds.")
        if self._lost:
            self._problem(f"{self._lost} clients lost a seat while they were working.")
        self._road.come_home()
        screen.say(
            "         The laptop is back early, its seat is free again; the other machine stays away.", style="dim"
        )
        self._bill = papers.report(world, screen)
        self._show.sight = world.watch.look() or self._show.sight
        world.stop_daemon()

    def _sum_up(self) -> int:
        screen, frames = self._screen, self._frames
        rows = [[line[name] for name in BILLED] for line in self._bill if float(line["quantity"])]
        screen.table("What the vendor bills", BILLED, rows)
        if self._show.sight is None:
            raise Trouble("The license server was never seen at work.")
        kinds = self._show.sight.kinds
        cuts = _count(self._power_cuts, "power cut")
        if kinds["Granted"] <= AWAY and not self._ended_early:
            self._problem("No client got a seat.")
        billed = self._compare()
        told = f"{frames.told:,} frames by the clients"
        if frames.unheard:
            told += f" and {frames.unheard:,} that nobody lived to hear"
        laptop = "worked on without a server and came back early" if self._road.worked else "came back early"
        screen.title("What happened")
        for fact in (
            f"{kinds['Granted']:,} seats granted, {self._waited:,} of them after waiting; {kinds['Denied']:,} denied",
            f"{kinds['Returned']:,} seats returned; {cuts}, {kinds['Expired']:,} seats expired",
            f"{self._kills} kill -9 of the license server; {_seats(self._saved)} held then and held after it",
            f"{told}, {frames.written:,} by the journal, {billed:,} by the bill",
            f"{frames.undone:,} spoilt frames taken back; {_count(frames.repeated, 'call')} repeated, counted once",
            f"{_seats(AWAY)} borrowed, one of them by stick; the laptop {laptop}",
            "the journal's chain holds at the site and at the vendor, and the receipt is in",
        ):
            screen.say(f"  · {fact}")
        screen.title("What to do next")
        for step in self._next_steps():
            screen.say(f"  {step}")
        for problem in self._problems:
            screen.trouble(problem)
        if not self._problems:
            screen.say("\nEverything was verified.", style="bold green")
        return int(bool(self._problems))

    def _compare(self) -> int:
        """The last of rule 5: the frames that are billed."""
        self._reckon()
        billed = sum(int(line["quantity"]) for line in self._bill if (line["feature"], line["meter"]) == METER)
        for problem in self._frames.problems(billed=billed):
            self._problem(problem)
        return billed

    def _next_steps(self) -> list[str]:
        folder = self._world.folder
        if not self._kept:
            return ["lls demo --dir my-world    the same, and the files stay: settings, keys, journal, report, bill"]
        return [
            f"cd {folder}",
            "lls --config site/lls.toml serve &                 the same server, with everything it knew",
            "lls --config site/lls.toml denials                 who was refused and why",
            "lls --config site/lls.toml usage                   peaks, seat-hours and frames",
            "lls --config site/lls.toml borrow list             what is still away",
            "lls-issuer --home vendor usage export              the bill",
            f"LLS_SERVER={self._world.url} LLS_VENDOR_KEYS=site/vendor.llskeys lls run --product cad -- sleep 60",
        ]

    # ---------------------------------------------------------------- helping

    def _room(self, number: int, people: int) -> Room:
        self._generation += 1
        return Room(
            number=number,
            people=people,
            seed=self._generation,
            server=self._world.url,
            vendor_keys=str(self._world.site / "vendor.llskeys"),
            products={"cad": SHARE_OF_CAD, "sim": 100 - SHARE_OF_CAD},
        )

    def _light(self, room: Room) -> None:
        process = self._world.open_room(room.argument())
        self._lit.append((room, process))
        thread = threading.Thread(target=self._hear, args=(process,), daemon=True)
        self._hearing = [known for known in self._hearing if known.is_alive()] + [thread]
        thread.start()

    def _hear(self, room: subprocess.Popen[bytes]) -> None:
        """One room's words, in a thread. A line that a power cut broke off is no line."""
        if room.stdout is not None:
            for line in room.stdout:
                if line.endswith(b"}\n"):
                    self._heard.put(json.loads(line))

    def _say(self, sentence: str, style: str = "", *, loud: bool = False) -> None:
        self._screen.event(self._show, sentence, style=style, loud=loud)

    def _problem(self, sentence: str) -> None:
        if sentence not in self._problems:
            self._problems.append(sentence)


def _seats(count: int) -> str:
    return _count(count, "seat")


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
