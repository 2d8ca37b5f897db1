"""``lls run``: hold a seat while another program runs, for programs that know nothing of licences.

Rules
1. The program gets its seat first and starts second; without a seat it does not start.
2. Its exit status is ours, ``128 + n`` when signal n ended it (the shell's convention); signals that we get, it gets.
3. When the seat is lost, standard error says so. What happens then is ``--on-loss``: ``ttl`` (the default) lets the
   program go on for as long as the last proof would have held, and ends it with SIGTERM unless the seat came back
   meanwhile; ``continue`` never touches it; ``terminate`` ends it at once. A network outage alone is no loss until
   that time is over.
4. An activation code comes from ``LLS_CODE`` or a file, never as an argument: it would stand in every list of
   processes for as long as the program runs.
5. SIGTERM is all the force there is: a program that saves its work must not be killed over a licence.

Exit status of our own: 1 refused, 2 wrong usage, 3 no server can be reached, 126 and 127 as a shell says them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from lls.client import BadSetup, ClientCertificate, Event, EventKind, LicenseServers, LlsError, NoAnswer, Refused
from lls.client.environment import code_in

_FORWARDED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
_FROM_THE_KEYBOARD = ("SIGINT", "SIGQUIT")
_OPTIONS = {
    "`servers`": "give --server URL",
    "`vendor_keys`": "give --vendor-keys",
    "`client_certificate`": "give --client-cert and --client-key",
}


class OnLoss(StrEnum):
    """What becomes of the program when its seat is lost."""

    TTL = "ttl"
    CONTINUE = "continue"
    TERMINATE = "terminate"


def run_command(  # noqa: PLR0917  (Typer makes options out of parameters)
    command: Annotated[list[str], typer.Argument(metavar="-- CMD …", help="The program and its arguments.")],
    product: Annotated[str, typer.Option(help="The product key to hold a seat of.")],
    server: Annotated[
        list[str] | None, typer.Option(help="A server's URL; may be given several times. Default: LLS_SERVER.")
    ] = None,
    vendor_keys: Annotated[
        Path | None, typer.Option(help="The vendor's key set (.llskeys). Default: LLS_VENDOR_KEYS.")
    ] = None,
    activation_code_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The activation code, as its first line; -: standard input. Default: LLS_CODE."
        ),
    ] = None,
    client_cert: Annotated[
        Path | None,
        typer.Option(help="What to show where the server asks for a certificate (PEM). Default: LLS_CLIENT_CERT."),
    ] = None,
    client_key: Annotated[Path | None, typer.Option(help="Its key (PEM), where it is a file of its own.")] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to queue when all seats are taken.")] = 0.0,
    on_loss: Annotated[OnLoss, typer.Option(help="What becomes of CMD when its seat is lost.")] = OnLoss.TTL,
) -> None:
    """Hold a seat while CMD runs; its exit status and signals are passed through."""
    status = run(
        command,
        product=product,
        servers=server,
        vendor_keys=vendor_keys,
        activation_code_file=activation_code_file,
        client_certificate=_certificate(client_cert, client_key),
        wait=wait,
        on_loss=on_loss,
    )
    raise typer.Exit(status)


def run(
    command: Sequence[str],
    *,
    product: str,
    servers: Sequence[str] | None = None,
    vendor_keys: str | bytes | Path | None = None,
    activation_code_file: Path | None = None,
    client_certificate: ClientCertificate | None = None,
    wait: float = 0.0,
    on_loss: OnLoss = OnLoss.TTL,
) -> int:
    """The exit status. Call it from the main thread: only there Python lets signals be received."""
    watch = _Watch(on_loss)
    try:
        code = code_in(activation_code_file)
        known = LicenseServers(servers or None, vendor_keys=vendor_keys, client_certificate=client_certificate)
        seat = known.checkout(product, activation_code=code, wait=wait, on_event=watch.hear)
    except BadSetup as error:
        return _sorry(_in_options(error), 2)
    except Refused as error:
        return _sorry(error, 1)
    except NoAnswer as error:
        return _sorry(_in_options(error), 3)
    except LlsError as error:
        return _sorry(error, 1)
    with known, seat:
        return watch.attend(command)


class _Watch:
    """The program, and the one decision about it: may it go on."""

    def __init__(self, on_loss: OnLoss) -> None:
        self._on_loss = on_loss
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._timer: threading.Timer | None = None
        self._verdict = False

    def hear(self, event: Event) -> None:
        """Called by the seat's renewal thread."""
        _say(event.detail)
        with self._lock:
            if event.held:
                self._stay()
            elif event.kind in (EventKind.LEASE_ENDED, EventKind.TAKEN_BACK, EventKind.CLONED):
                self._end_after(event.ttl_left_seconds)

    def attend(self, command: Sequence[str]) -> int:
        """Runs the program to its end; its exit status."""
        with _passing_signals(self._pass_on):
            try:
                with self._lock:
                    self._child = subprocess.Popen(list(command))  # noqa: S603  (running the user's program is the task)
            except FileNotFoundError as error:
                return _sorry(error, 127)
            except OSError as error:
                return _sorry(error, 126)
            with self._lock:
                # The seat may have been lost before there was a program to end.
                if self._verdict:
                    self._child.terminate()
            status = self._child.wait()
        with self._lock:
            self._stay()
        return status if status >= 0 else 128 - status

    def _end_after(self, seconds: float) -> None:
        if self._on_loss is OnLoss.CONTINUE or self._timer is not None:
            return
        pause = seconds if self._on_loss is OnLoss.TTL else 0.0
        if pause > 0:
            _say(f"the program goes on for {pause:.0f} seconds; it is ended then unless the seat comes back")
        self._timer = threading.Timer(pause, self._end)
        self._timer.daemon = True
        self._timer.start()

    def _stay(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        _say("the seat is lost: the program is asked to end (SIGTERM)")
        with self._lock:
            self._verdict = True
            if self._child is not None and self._child.poll() is None:
                self._child.terminate()

    def _pass_on(self, number: int) -> None:
        # No lock: this runs in the main thread, perhaps inside `hear`'s critical section.
        child = self._child
        if child is not None and child.returncode is None:
            child.send_signal(number)


@contextmanager
def _passing_signals(pass_on: Callable[[int], None]) -> Iterator[None]:
    """The terminal itself sends Ctrl-C to the whole foreground group: passing that on would make it two."""
    shared = _in_foreground()

    def receive(number: int, _frame: FrameType | None) -> None:
        if not (shared and signal.Signals(number).name in _FROM_THE_KEYBOARD):
            pass_on(number)

    numbers = [getattr(signal, name) for name in _FORWARDED if hasattr(signal, name)]
    before = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_foreground() -> bool:
    try:
        return os.tcgetpgrp(sys.__stdin__.fileno() if sys.__stdin__ else 0) == os.getpgrp()
    except (OSError, ValueError):
        return False


def _certificate(certificate: Path | None, key: Path | None) -> ClientCertificate | None:
    if certificate is None and key is not None:
        raise typer.BadParameter(
            "there is no certificate for that key: give --client-cert, too.", param_hint="--client-key"
        )
    return None if certificate is None else ClientCertificate(certificate, key)


def _in_options(error: LlsError) -> str:
    """The library speaks of its parameters; who types a command knows options."""
    words = str(error)
    for parameter, option in _OPTIONS.items():
        words = words.replace(f"pass {parameter}", option)
    return words


def _sorry(error: Exception | str, status: int) -> int:
    _say(str(error))
    return status


def _say(words: str) -> None:
    sys.stderr.write(f"lls run: {words}\n")
    sys.stderr.flush()
