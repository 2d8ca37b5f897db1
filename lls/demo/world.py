"""The world of the demonstration: two folders with a gap between, the commands of each side, the daemon's process.

Rules
1. What stands on the screen after ``$`` is what is run, in the folder that the demonstration names: anybody can type
   it again.
2. Nothing crosses the gap but by ``carry``: vendor → stick → site, or back.
3. Every process has a session of its own, so that a Ctrl-C reaches this program alone, which then ends them in order.
4. Leaving the world ends every process in it, however it is left.

    DIR/vendor   keys, register, catalogue, orders       DIR/site     settings, vendor's key set, the server's state
    DIR/stick    what is carried by hand                 DIR/laptop   seats borrowed over the network
                                                         DIR/island   the same of a machine that never sees it
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

import lls
from lls.demo.interrupts import Interrupts
from lls.demo.screen import Screen
from lls.demo.watch import Watch

LEASE_SECONDS: Final = 8
GRACE_SECONDS: Final = 3
FRAMES_A_SEAT: Final = 500
CORES_A_SEAT: Final = 3
COMMAND_SECONDS: Final = 60.0
START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 20.0
_LONGEST_SOCKET_PATH: Final = 100  # of 108 bytes, sockaddr_un
_POLL_SECONDS: Final = 0.05

CATALOG: Final = f"""\
# What the demonstration's vendor sells. Real leases take ten minutes; these are short, so that one can watch them end.
format = 1

[products.cad]
name = "CAD Professional"

# Frames are used up, and a spoilt one may be taken back; beyond what was bought the work goes on and is billed.
[products.cad.features.frames]
name = "Rendered frames"
type = "usage_count"
unit = "frame"
undo_seconds = 60
overdraft = {{ type = "unlimited" }}

# Cores are held while one works, and come back with the seat.
[products.cad.features.cores]
name = "Cores for rendering"
type = "element_pool"
unit = "core"

[products.sim]
name = "Flow Simulation"

[plans.year]
name = "One year"
license_type = "subscription"
term = {{ unit = "year", count = 1 }}

[offerings.CAD-1Y]
name = "CAD Professional, floating seat, one year"
product = "cad"
plan = "year"
lease_seconds = {LEASE_SECONDS}
borrow = {{ max_seconds = 604800, max_seats = 2 }}
grants = [                                          # with each seat
  {{ feature = "frames", amount = {FRAMES_A_SEAT} }},
  {{ feature = "cores", amount = {CORES_A_SEAT} }},
]

[offerings.SIM-1Y]
name = "Flow Simulation, floating seat, one year"
product = "sim"
plan = "year"
lease_seconds = {LEASE_SECONDS}
"""


class Trouble(Exception):
    """The demonstration cannot go on; the text is a sentence for the person who watches."""


class World:
    """Everything that exists in one demonstration. A context manager."""

    def __init__(self, folder: Path, *, port: int | None, screen: Screen, interrupts: Interrupts) -> None:
        self.folder = folder
        self._interrupts = interrupts
        self.vendor, self.site, self.stick = (folder / name for name in ("vendor", "site", "stick"))
        self.url = f"https://127.0.0.1:{port or _free_port()}"
        self.laptop_seats = folder / "laptop" / "seats"
        self._screen = screen
        self._short: Path | None = None
        socket_path = self.site / "admin.sock"
        if len(os.fsencode(socket_path)) > _LONGEST_SOCKET_PATH:
            self._short = Path(tempfile.mkdtemp(prefix="lls-"))
            socket_path = self._short / "admin.sock"
        self.watch = Watch(socket_path)
        self._socket_path = socket_path
        self._begun: list[subprocess.Popen[bytes]] = []
        self._daemon: subprocess.Popen[bytes] | None = None
        self._rooms: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        for folder in (self.site, self.stick, self.laptop_seats.parent, self.folder / "island"):
            folder.mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._interrupts.held():  # a second Ctrl-C in the middle of this would leave a daemon behind
            for process in self._begun:
                _end(process)
            if self._short is not None:
                shutil.rmtree(self._short)

    # ---------------------------------------------------------------- commands

    def issuer(self, *words: str) -> str:
        """A command of the vendor's; its standard output."""
        return self._typed("vendor", "lls-issuer", "lls.issuer", ["--home", "vendor", *words])

    def lls(self, *words: str) -> str:
        """A command of the site's; its standard output."""
        return self._typed("site", "lls", "lls", ["--config", "site/lls.toml", *words])

    def client(self, side: str, *words: str) -> str:
        """A command of a machine that borrows; its standard output."""
        return self._typed(side, "python -m lls.client", "lls.client", words)

    def laptop(self, *words: str) -> str:
        """The application on the laptop, see :mod:`lls.demo.laptop`; its standard output."""
        return self._typed("laptop", "python -m lls.demo.laptop", "lls.demo.laptop", words)

    def _typed(self, side: str, name: str, module: str, words: Sequence[str]) -> str:
        self._screen.command(side, f"{name} {shlex.join(words)}")
        typed = self._begin([sys.executable, "-m", module, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            said, complained = (text.decode("utf-8", "replace") for text in typed.communicate(timeout=COMMAND_SECONDS))
        except subprocess.TimeoutExpired:
            raise Trouble(f"`{name} {shlex.join(words)}` did not end within {COMMAND_SECONDS:.0f} seconds.") from None
        if typed.returncode:
            why = complained.strip().splitlines()[-1:] or [f"exit status {typed.returncode}"]
            raise Trouble(f"`{name} {shlex.join(words)}` failed: {why[0]}")
        self._screen.output(said, complained)
        return said + complained

    def _begin(
        self,
        words: Sequence[str],
        *,
        stdin: int = subprocess.DEVNULL,
        stdout: int | BinaryIO | None = None,
        stderr: int | BinaryIO | None = None,
    ) -> subprocess.Popen[bytes]:
        with self._interrupts.held():
            begun = subprocess.Popen(  # noqa: S603 - our own programs with our own words
                words,
                cwd=self.folder,
                env=_environment(),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
            self._begun.append(begun)
        return begun

    def carry(self, name: str, *, to: str) -> None:
        """Somebody walks from one side to the other with a stick in the pocket."""
        self._screen.carried(name, to=to, size=(self.stick / name).stat().st_size)

    def write(self, side: str, path: Path, text: str) -> None:
        """A file that a person writes with an editor."""
        path.write_text(text, "utf-8")
        self._screen.written(side, path.relative_to(self.folder))

    def write_order(self, server_id: str, seats: Mapping[str, int]) -> None:
        """The order of ``seats`` by SKU."""
        lines = [
            {"line": number, "action": "new", "sku": sku, "quantity": quantity}
            for number, (sku, quantity) in enumerate(seats.items(), start=1)
        ]
        order = {"order_ref": "SO-1001", "account_ref": "ACME", "server_id": server_id, "lines": lines}
        self.write("vendor", self.vendor / "order.json", json.dumps(order, indent=2) + "\n")

    def write_settings(self) -> None:
        """The server's settings; JSON strings are TOML strings, too."""
        text = "\n".join(
            [
                "[server]",
                'name = "demo"',
                f"listen = [{json.dumps(self.url.removeprefix('https://'))}]",
                f"state_dir = {json.dumps(str(self.site / 'state'))}",
                f"admin_socket = {json.dumps(str(self._socket_path))}",
                "[trust]",
                f"keys = {json.dumps(str(self.site / 'vendor.llskeys'))}",
                "[lease]",
                f"grace_seconds = {GRACE_SECONDS}",
                "proof_seconds = 2",
                "",
            ]
        )
        self.write("site", self.site / "lls.toml", text)

    # ---------------------------------------------------------------- the daemon

    def start_daemon(self) -> float:
        """Start the daemon and wait until it serves; the seconds that took."""
        begun = time.monotonic()
        self._screen.command("site", "lls --config site/lls.toml serve &")
        with (self.site / "daemon.log").open("ab") as log:
            words = [sys.executable, "-m", "lls", "--config", "site/lls.toml", "serve"]
            self._daemon = self._begin(words, stdout=log, stderr=log)
        self._await_daemon(begun)
        return time.monotonic() - begun

    def _await_daemon(self, begun: float) -> None:
        while not self.watch.ready():
            if self._daemon is None or self._daemon.poll() is not None:
                raise Trouble(f"The license server did not start: {self._last_words()}")
            if time.monotonic() - begun > START_SECONDS:
                raise Trouble(f"The license server is not ready after {START_SECONDS:.0f} s: {self._last_words()}")
            time.sleep(_POLL_SECONDS)

    def kill_daemon(self) -> None:
        """``kill -9``: no goodbye, no flush, nothing."""
        if self._daemon is not None:
            self._screen.command("site", f"kill -9 {self._daemon.pid}")
            self._daemon.kill()
            self._daemon.wait()

    def revive_daemon(self) -> None:
        """See to it that a daemon serves, whatever was being done to it."""
        if self._daemon is None or self._daemon.poll() is not None:
            self.start_daemon()
        else:
            self._await_daemon(time.monotonic())

    def check_daemon(self) -> None:
        """Raise when the daemon has ended by itself."""
        if self._daemon is not None and self._daemon.poll() is not None:
            raise Trouble(f"The license server ended by itself: {self._last_words()}")

    def stop_daemon(self) -> None:
        """SIGTERM, as systemd stops it."""
        daemon, self._daemon = self._daemon, None
        if daemon is None:
            return
        self._screen.command("site", f"kill -TERM {daemon.pid}")
        daemon.terminate()
        try:
            status = daemon.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
            raise Trouble(f"The license server did not stop within {STOP_SECONDS:.0f} seconds.") from None
        if status:
            raise Trouble(f"The license server stopped with status {status}: {self._last_words()}")

    def _last_words(self) -> str:
        lines = (self.site / "daemon.log").read_text("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    # ---------------------------------------------------------------- rooms

    def open_room(self, argument: str) -> subprocess.Popen[bytes]:
        """A process full of clients; see :mod:`lls.demo.room`."""
        room = self._begin(
            [sys.executable, "-m", "lls.demo.room", argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if self._screen.live else None,
        )
        self._rooms.append(room)
        return room

    def cut_power(self, room: subprocess.Popen[bytes]) -> None:
        """Nobody in the room gets to say goodbye."""
        self._rooms.remove(room)
        _end(room)

    def close_rooms(self, *, seconds: float) -> int:
        """Everybody goes home and gives back what they hold; how many rooms did not manage in time."""
        for room in self._rooms:
            if room.stdin is not None:
                with suppress(BrokenPipeError):
                    room.stdin.close()
        until = time.monotonic() + seconds
        late = 0
        for room in self._rooms:
            try:
                late += bool(room.wait(max(0.1, until - time.monotonic())))
            except subprocess.TimeoutExpired:
                late += 1
        return late


def found(pattern: re.Pattern[str], text: str, what: str) -> str:
    """What a command named in its answer; Trouble when it named none."""
    match = pattern.search(text)
    if match is None:
        raise Trouble(f"The command named no {what}.")
    return match[0]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Without asking; nothing of it stays, and nothing happens to one that has ended."""
    process.kill()
    process.wait()
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()


def _environment() -> dict[str, str]:
    """This program's, without settings of a real installation, and with this very version of the house."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LLS_")}
    here = str(Path(lls.__file__).resolve().parents[1])
    paths = [here, *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
