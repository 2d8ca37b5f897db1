"""A room full of clients: one process, the real SDK, people who come, work, wait and go.

Who works with CAD holds cores and uses frames. Of each use the room tells twice: before it is asked for and when it is
answered, so that whoever reckons afterwards knows also of the answers that nobody lived to hear.

Each person has a computer of their own: its connection, its TLS handshake, its holder. The room tells what happens in
lines of JSON on standard output, and ends in good order, every seat given back, when its standard input is closed.
Killing the process is a power cut: nobody gives anything back.

Uses ``lls.client`` and nothing else of the house, as an application would.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final, TypeVar

from lls.client import Event, EventKind, Holder, LicenseServers, LlsError, NoAnswer, Refused, Seat, Use

NAMES: Final = (
    "ada", "alan", "annie", "barbara", "claude", "dennis", "donald", "dorothy", "edsger", "emmy", "ernst", "fei",
    "frances", "george", "grace", "gottlob", "hedy", "ida", "jean", "john", "karen", "katherine", "konrad", "lynn",
    "mary", "niklaus", "radia", "rosa", "sofia", "tony",
)  # fmt: skip

METERED: Final = "cad"
FRAMES: Final = "frames"
CORES: Final = "cores"

WORK_SECONDS: Final = (5.0, 13.0)
PAUSE_SECONDS: Final = (2.0, 6.0)
ARRIVAL_SECONDS: Final = (0.0, 3.0)
WAIT_SECONDS: Final = 12.0
SHARE_WHO_WAIT: Final = 0.7
LEAVE_SECONDS: Final = 10.0
RENDER_SECONDS: Final = (0.8, 3.0)
MOST_FRAMES: Final = 12
MOST_MORE_CORES: Final = 4
SHARE_WHO_NEED_MORE_CORES: Final = 0.5
SHARE_OF_SPOILT: Final = 0.1
AGAIN_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a room is told at its start, as JSON in its first argument. ``products`` are keys with weights."""

    number: int
    people: int
    seed: int
    server: str
    vendor_keys: str
    products: dict[str, int]

    def argument(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))


T = TypeVar("T")


class Person:
    """One person at one computer, in a thread."""

    def __init__(self, room: Room, number: int, stop: threading.Event) -> None:
        # Repeatable, so that a demonstration can be shown twice; nothing secret comes from it.
        self._luck = random.Random(f"{room.seed} {room.number} {number}")  # noqa: S311
        self._user = NAMES[(room.number * 7 + number) % len(NAMES)]
        self._host = f"ws-{room.number}{number:02}"
        self._room = room
        self._stop = stop
        self._seat: Seat | None = None
        self.thread = threading.Thread(target=self._live, daemon=True)

    def leave(self) -> None:
        """Give back what is held, and the place in the queue."""
        seat = self._seat
        if seat is not None:
            seat.release()

    def _live(self) -> None:
        servers = LicenseServers(self._room.server, vendor_keys=self._room.vendor_keys)
        self._stop.wait(self._luck.uniform(*ARRIVAL_SECONDS))
        while not self._stop.is_set():
            self._session(servers)
            self._stop.wait(self._luck.uniform(*PAUSE_SECONDS))

    def _session(self, servers: LicenseServers) -> None:
        keys, weights = zip(*self._room.products.items(), strict=True)
        product = self._luck.choices(keys, weights)[0]
        wait = WAIT_SECONDS if self._luck.random() < SHARE_WHO_WAIT else 0.0
        begun = time.monotonic()
        holder = Holder(seat_id=self._host, user=self._user, host=self._host, process=str(self._room.seed))
        cores = {CORES: 1} if product == METERED else None
        self._seat = seat = servers.prepare(product, features=cores, holder=holder, wait=wait, on_event=self._heard)
        if self._stop.is_set():  # nobody will come to release what is asked for after the last round
            return
        try:
            seat.enter()
        except Refused as refused:
            self._tell("refused", product=product, code=refused.code, waited=wait > 0)
            return
        except NoAnswer as silence:
            self._tell("unanswered", product=product, code=silence.code)
            return
        except LlsError:
            if not self._stop.is_set():
                raise
            return
        self._tell("seated", product=product, seconds=round(time.monotonic() - begun, 1))
        with seat:
            until = time.monotonic() + self._luck.uniform(*WORK_SECONDS)
            if product == METERED:
                self._render(seat, until)
            self._stop.wait(max(0.0, until - time.monotonic()))
        self._tell("left", product=product)

    def _render(self, seat: Seat, until: float) -> None:
        if self._luck.random() < SHARE_WHO_NEED_MORE_CORES:
            self._take_cores(seat, self._luck.randint(1, MOST_MORE_CORES))
        while not self._stop.is_set() and time.monotonic() + RENDER_SECONDS[1] < until:
            self._stop.wait(self._luck.uniform(*RENDER_SECONDS))
            use = self._use(seat, self._luck.randint(1, MOST_FRAMES))
            if use is not None and self._luck.random() < SHARE_OF_SPOILT:
                self._undo(seat, use)

    def _take_cores(self, seat: Seat, cores: int) -> None:
        try:
            seat.checkout_feature(CORES, cores)
        except Refused as refused:
            self._tell("no_cores", cores=cores, code=refused.code)
        except NoAnswer as silence:  # they would make it faster; without them it goes on
            self._tell("no_cores", cores=cores, code=silence.code)

    def _use(self, seat: Seat, frames: int) -> Use | None:
        request_id = str(uuid.UUID(int=self._luck.getrandbits(128), version=4))
        return self._insist(seat, "use", request_id, frames, lambda: seat.use(FRAMES, frames, request_id=request_id))

    def _undo(self, seat: Seat, use: Use) -> None:
        self._insist(seat, "undo", use.request_id, use.amount, lambda: seat.undo(use))

    def _insist(self, seat: Seat, act: str, request_id: str, frames: int, ask: Callable[[], T]) -> T | None:
        """Asked until it is answered, by one request id: however often that is, it counts once."""
        if self._stop.is_set():
            return None
        self._tell("asks", act=act, request_id=request_id, frames=frames)
        again = False
        while seat.valid:
            try:
                answer = ask()
            except NoAnswer:
                again = True
                if self._stop.wait(AGAIN_SECONDS):
                    break
            except Refused as refused:
                self._tell("no_frames", frames=frames, code=refused.code)
                break
            else:
                self._tell("told", act=act, request_id=request_id, frames=frames, again=again)
                return answer
        return None

    def _heard(self, event: Event) -> None:
        if event.kind in (EventKind.LEASE_ENDED, EventKind.CLONED, EventKind.TAKEN_BACK):
            self._tell("lost", code=event.code)

    def _tell(self, what: str, **facts: object) -> None:
        line = json.dumps({"what": what, "user": self._user, "host": self._host, **facts})
        with _speaking:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


_speaking = threading.Lock()


def main(arguments: Sequence[str]) -> int:
    """Live until standard input ends; that is also how a room notices that its demonstration has died."""
    room = Room(**json.loads(arguments[0]))
    stop = threading.Event()
    people = [Person(room, number, stop) for number in range(1, room.people + 1)]
    for person in people:
        person.thread.start()
    sys.stdin.read()
    stop.set()
    for person in people:
        person.leave()
    until = time.monotonic() + LEAVE_SECONDS
    for person in people:
        person.thread.join(max(0.0, until - time.monotonic()))
    return int(any(person.thread.is_alive() for person in people))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
