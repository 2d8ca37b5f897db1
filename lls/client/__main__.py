"""``python -m lls.client``: borrow by file, see what is borrowed, extend it, give it back. For people and for scripts.

Exit status: 0 done; 1 refused or failed, with one sentence on standard error; 2 wrong usage. What was asked for goes to
standard output, and nothing else does.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TextIO

from .borrowing import Found, borrowed_leases, give_back, route_of, wire_end, wire_instant
from .carried import BorrowRequest, accept_grant, discard, make_return
from .environment import code_in, read_vendor_keys
from .errors import BadSetup, ClockSetBack, LlsError, NotBorrowed
from .keeping import State, Store
from .requesting import require_day, require_feature, require_product

_FAILED = 1
_AMOUNT = re.compile("[0-9]{1,7}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status; ``SystemExit`` (2) for wrong usage, as argparse does it."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if "usage" in options:
        options.usage(options)
    try:
        status: int = options.run(options)
    except LlsError as error:
        return _complain(str(error))
    except OSError as error:
        return _complain(f"{error.filename or 'The disk'}: {error.strerror or error}.")
    return status


def _request(options: argparse.Namespace) -> int:
    """The file is free before a request is made: one that cannot be written would leave a key behind."""
    if options.output.exists() and not options.force:
        return _complain(f"{options.output} exists; name another file, or add --force.")
    until = options.until or datetime.now(UTC) + timedelta(days=options.days)
    if options.extend is not None:
        return _extend(options, until)
    request = BorrowRequest.make(
        options.product,
        until=until,
        folder=options.folder,
        activation_code=code_in(options.code_file),
        features=dict(options.feature),
        edition=options.edition,
        version=options.version,
        released_on=options.released_on,
    )
    try:
        request.write(options.output)
    except OSError:
        Store(options.folder).remove(request.lease_id)
        raise
    _say(f"{options.output}: a seat of {request.product} until {_day(request.until)}, lease {request.lease_id}.")
    _say("Carry it to the license server's administrator, and bring the grant back to: python -m lls.client accept")
    return 0


def _extend(options: argparse.Namespace, until: datetime) -> int:
    lease_id = _lease_id(options.extend, Store(options.folder))
    request = BorrowRequest.extend(
        lease_id, until=until, folder=options.folder, activation_code=code_in(options.code_file)
    )
    request.write(options.output)
    _say(f"{options.output}: lease {lease_id} of {request.product}, longer: until {_day(request.until)}.")
    _say("Carry it to the license server's administrator, and bring the grant back to: python -m lls.client accept")
    return 0


def _accept(options: argparse.Namespace) -> int:
    borrowed = accept_grant(options.file, vendor_keys=options.vendor_keys, folder=options.folder)
    _say(f"{borrowed.product} is borrowed until {_day(borrowed.until)}, lease {borrowed.lease_id}.")
    # Accepted it is; but whoever is told “done” must be able to work.
    borrowed.check()
    return 0


def _list(options: argparse.Namespace) -> int:
    found = borrowed_leases(vendor_keys=options.vendor_keys, folder=options.folder)
    if options.json:
        _say(json.dumps([_as_json(one) for one in found], indent=2))
        return 0
    for one in found:
        until = _day(one.until) if one.until else "-"
        _say(f"{one.lease_id}  {one.product or '-'}  {until}  {one.problem or 'counts'}")
    if not found:
        _say(f"Nothing is borrowed: {Store(options.folder).folder} holds no lease.")
    return 0


def _return(options: argparse.Namespace) -> int:
    store = Store(options.folder)
    kept = store.read(_lease_id(options.lease, store))
    if kept.key:
        if options.output is None:
            return _complain("That lease was granted by file: name the file for the return with -o FILE.")
        if options.output.exists() and not options.force:
            return _complain(f"{options.output} exists; name another file, or add --force.")
        make_return(options.output, lease_id=kept.lease_id, folder=options.folder)
        _say(f"{options.output}: {kept.product} is given back and counts here no more.")
        _say("Carry it to the license server's administrator; the seat is free when it was read there.")
        return 0
    if options.output is not None:
        return _complain("That lease was borrowed over the network and is given back over it: leave -o FILE out.")
    route = route_of(read_vendor_keys(options.vendor_keys), options.server)(kept)()
    if not give_back(kept, store=store, route=route):
        return _complain("No license server answered; nothing is given back yet. Try again when one can be reached.")
    _say(f"{kept.product} is given back.")
    return 0


def _discard(options: argparse.Namespace) -> int:
    discard(options.lease, folder=options.folder)
    _say(f"{options.lease} is discarded. If a license server lent a seat for it, that stays counted until its end.")
    return 0


def _lease_id(named: str, store: Store) -> str:
    """The lease of that id, or the one lease of that product that can be given back."""
    kept = {lease_id: one for lease_id, one in store.all() if not isinstance(one, LlsError)}
    if named.lower() in kept:
        return named.lower()
    granted = [one for one in kept.values() if one.product == named and one.state is not State.REQUESTED]
    living = [one for one in granted if one.state is not State.RETURNED]
    of_it = [one.lease_id for one in living or granted]
    if len(of_it) > 1:
        raise NotBorrowed(f"More than one lease of {named} is kept here; name one of: {', '.join(sorted(of_it))}.")
    if not of_it:
        raise NotBorrowed(f"No lease or product {named} is borrowed on this machine; see: python -m lls.client list")
    return of_it[0]


def _as_json(one: Found) -> dict[str, object]:
    return {
        "lease_id": one.lease_id,
        "product": one.product or None,
        "until": wire_instant(one.until) if one.until else None,
        "state": one.state,
        "by_file": one.by_file,
        "counts": one.problem is None,
        "clock_set_back": isinstance(one.problem, ClockSetBack),
        "problem": str(one.problem) if one.problem else None,
    }


# -- words ---------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lls.client", description="Seats for the road.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    request = commands.add_parser("request", help="ask for a seat by file, on a machine without the network")
    request.add_argument("product", nargs="?", type=_product, help="the product key")
    request.add_argument(
        "--extend", metavar="LEASE", help="a later end for this lease (its id, or the product where it is the only one)"
    )
    end = request.add_mutually_exclusive_group(required=True)
    end.add_argument("--until", type=_instant, metavar="TIME", help="such as 2026-12-01 or 2026-12-01T18:00:00Z")
    end.add_argument("--days", type=_days, metavar="N", help="from now")
    request.add_argument(
        "--code-file", type=Path, metavar="FILE", help="the activation code, as its first line; default: LLS_CODE"
    )
    request.add_argument(
        "--feature", type=_feature, action="append", default=[], metavar="KEY=N", help="may be repeated"
    )
    request.add_argument("--edition")
    request.add_argument("--version", help="of the application")
    request.add_argument("--released-on", type=_build_day, metavar="DAY", help="of the application's build")
    _output(request, required=True)
    request.set_defaults(run=_request, usage=partial(_require_usage, request))

    accept = commands.add_parser("accept", help="prove and keep the grant that came back")
    accept.add_argument("file", type=Path)
    _keys(accept)
    accept.set_defaults(run=_accept)

    listed = commands.add_parser("list", help="what is borrowed on this machine, and whether it counts")
    listed.add_argument("--json", action="store_true")
    _keys(listed)
    listed.set_defaults(run=_list)

    back = commands.add_parser("return", help="give a seat back before its end, by file or over the network")
    back.add_argument("lease", help="lease id, or the product key where it is the only one")
    back.add_argument("--server", help="URLs, comma-separated; default: LLS_SERVER, else those it came from")
    _output(back, required=False)
    _keys(back)
    back.set_defaults(run=_return)

    discarded = commands.add_parser("discard", help="forget a request without its grant, or a damaged file")
    discarded.add_argument("lease", help="lease id, as `list` shows it")
    discarded.set_defaults(run=_discard)

    for command in (request, accept, listed, back, discarded):
        command.add_argument("--folder", type=Path, help="where borrowed seats are kept")
    return parser


def _require_usage(request: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """What argparse has no words for."""
    wishes = (options.product, options.edition, options.version, options.released_on, *options.feature)
    if options.extend is None and options.product is None:
        request.error("name a product, or the lease to --extend")
    if options.extend is not None and any(wish is not None for wish in wishes):
        request.error("--extend repeats what was requested first: only --until or --days, and --code-file, go with it")


def _output(command: argparse.ArgumentParser, *, required: bool) -> None:
    command.add_argument("-o", "--output", type=Path, required=required, metavar="FILE", help="the file to carry")
    command.add_argument("--force", action="store_true", help="replace FILE if it exists")


def _keys(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--vendor-keys", type=Path, metavar="FILE", help="the vendor's key set; default: LLS_VENDOR_KEYS"
    )


def _instant(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is not a time such as 2026-12-01T18:00:00Z") from error
    try:
        # Without a zone it is what the clock on this desk will show.
        aware = found if found.tzinfo else found.astimezone()
        wire_end(aware)
    except (OverflowError, ValueError, OSError) as error:
        raise argparse.ArgumentTypeError(f"{text} is no sensible end; name a day such as 2026-12-01") from error
    return aware


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is not a number of days") from error
    if not 0 < days <= 36_500:  # noqa: PLR2004  (a hundred years: what a date can hold)
        raise argparse.ArgumentTypeError(f"{text} is not a sensible number of days")
    return days


def _feature(text: str) -> tuple[str, int]:
    key, _, amount = text.partition("=")
    if not _AMOUNT.fullmatch(amount or "1"):
        raise argparse.ArgumentTypeError(f"{text} is not of the form KEY=N, with a whole number of at most 7 digits")
    try:
        require_feature(key, int(amount or 1))
    except BadSetup as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return key, int(amount or 1)


def _product(text: str) -> str:
    try:
        require_product(text)
    except BadSetup as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _build_day(text: str) -> str:
    try:
        require_day(text)
    except BadSetup as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _day(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _say(sentence: str) -> None:
    _write(sys.stdout, sentence)


def _complain(sentence: str) -> int:
    _write(sys.stderr, sentence)
    return _FAILED


def _write(stream: TextIO, sentence: str) -> None:
    """What the terminal's encoding does not have is written as an escape: the work is done, and must be told."""
    encoding = stream.encoding or "utf-8"
    stream.write(f"{sentence}\n".encode(encoding, "backslashreplace").decode(encoding))


if __name__ == "__main__":
    sys.exit(main())
