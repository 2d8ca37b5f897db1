"""The application on a laptop: ``borrow`` takes its seat away from the network, ``work`` works with it anywhere.

``work`` is given no address and no environment that names one: what it proves, it proves from the file.

Uses ``lls.client`` and nothing else of the house, as an application would. Giving back has a command already:
``python -m lls.client return``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from lls.client import Borrowed, Holder, LicenseServers, LlsError, machine_fingerprint

PRODUCT = "cad"


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 with a sentence on standard output, 1 with one on standard error."""
    parser = argparse.ArgumentParser(prog="python -m lls.demo.laptop")
    commands = parser.add_subparsers(required=True)
    borrow, work = commands.add_parser("borrow"), commands.add_parser("work")
    for command, run in ((borrow, _borrow), (work, _work)):
        command.add_argument("--folder", required=True)
        command.add_argument("--vendor-keys", required=True)
        command.set_defaults(run=run)
    borrow.add_argument("--server", required=True)
    borrow.add_argument("--hours", type=float, required=True)
    options = parser.parse_args(arguments)
    try:
        sentence = options.run(options)
    except LlsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{sentence}\n")
    return 0


def _borrow(options: argparse.Namespace) -> str:
    holder = Holder(seat_id=machine_fingerprint(), user="marie", host="laptop")
    until = datetime.now(UTC) + timedelta(hours=options.hours)
    keys, folder = options.vendor_keys, options.folder
    with (
        LicenseServers(options.server, vendor_keys=keys, borrowed_folder=folder) as servers,
        servers.checkout(PRODUCT, holder=holder) as seat,
    ):
        borrowed = seat.borrow(until)
    return f"A seat of {borrowed.product} is borrowed until {_day(borrowed.until)}, lease {borrowed.lease_id}."


def _work(options: argparse.Namespace) -> str:
    with Borrowed.load(PRODUCT, vendor_keys=options.vendor_keys, folder=options.folder) as seat:
        seat.check()
        return f"{seat.product} works without a server, until {_day(seat.until)}."


def _day(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
