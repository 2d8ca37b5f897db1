"""How the server stands with its vendor, its clock and its machine: judged from a ledger, running or looked at.

The ledger of a daemon and the one that is built from a resting store are asked alike, so an examination says the same
before a start and after it. Nothing here changes anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from lls.care.findings import Finding, State, days_until, doubtful, good, wrong
from lls.faults import RefusedDocument
from lls.licensing.entitlement import Standing
from lls.licensing.instant import ClockState, Now
from lls.licensing.journal import Gap, Head, follow, parse_line
from lls.licensing.ledger import Ledger
from lls.licensing.retention import count_of_ours
from lls.licensing.terms import License
from lls.signed.keys import KeySet
from lls.store import Store

WARN_BEFORE_DAYS: Final = 30
REPORT_BEFORE_DAYS: Final = 14
QUICK_LINES: Final = 1_000
_MOST_NAMED: Final = 5
_REQUEST: Final = "`lls server request -o FILE`, send it to your vendor, and `lls bundle import FILE` what comes back."
_EXPORT: Final = "`lls report export -o FILE`, send it to your vendor, and `lls receipt import FILE` the answer."


def examine_standing(
    ledger: Ledger, *, now: Now, raw: datetime, keys: KeySet, host: Mapping[str, str]
) -> Iterator[Finding]:
    """Clock, licence, report, machine, entitlements and vendor keys. ``raw`` is what the machine's clock says."""
    yield _clock(now, raw)
    yield _license(ledger, now)
    yield _report(ledger, now)
    yield _binding(ledger, host)
    yield from _entitlements(ledger, now)
    if ledger.server.forked:
        yield wrong(
            "journal",
            "The vendor has acknowledged a line that is not in this server's journal.",
            "Was this machine cloned, or set back? Stop the copy and tell your vendor.",
        )
    elif ledger.server.restored:
        yield doubtful(
            "restored",
            "A backup was put back and the vendor has not answered: what is counted by use is refused, and whoever was"
            " removed since may administer again.",
            f"{_REQUEST} Look at `lls user list` and `lls key list`.",
        )
    yield _vendor_keys(keys, now)


def _clock(now: Now, raw: datetime) -> Finding:
    said = f"The machine says {raw:%Y-%m-%d %H:%M:%SZ}, the server goes by {now.wall:%Y-%m-%d %H:%M:%SZ}."
    match now.state:
        case ClockState.BEHIND:
            return wrong(
                "clock",
                f"{said} It is {now.behind_seconds} s behind, and nothing new is granted.",
                "Set this machine's clock right (timedatectl).",
            )
        case ClockState.JUMPED:
            return doubtful(
                "clock", f"{said} It jumped ahead.", "`lls clock accept` if the machine is right, else set it right."
            )
    return good("clock", said)


def _license(ledger: Ledger, now: Now) -> Finding:
    terms = ledger.server.terms
    match ledger.server.license(now):
        case License.UNLICENSED:
            return doubtful("licence", "No bundle was imported yet.", _REQUEST)
        case License.EXPIRED:
            return wrong("licence", "This server's licence has ended, and nothing new is granted.", _REQUEST)
    if terms is None:
        return doubtful("licence", "No bundle was imported yet.", _REQUEST)
    left = days_until(terms.ends_at, now.wall)
    said = f"This server is licensed until {terms.ends_at:%Y-%m-%d}."
    if left < WARN_BEFORE_DAYS:
        return doubtful("licence", f"{said} {left} days are left.", "Ask your vendor for a renewed bundle.")
    return good("licence", said)


def _report(ledger: Ledger, now: Now) -> Finding:
    server = ledger.server
    due = None if server.terms is None else server.terms.sync_due_at(server.sync_from)
    waiting = ledger.batch.before.seq - server.acknowledged.seq
    if due is None:
        return good("report", f"No report is due; {waiting} journal lines are not acknowledged.")
    left = days_until(due, now.strict)
    said = f"{waiting} journal lines are not acknowledged; a receipt is due by {due:%Y-%m-%d}."
    if now.strict >= due:
        return wrong("report", f"{said} It is overdue, and nothing new is granted.", _EXPORT)
    if left < REPORT_BEFORE_DAYS:
        return doubtful("report", f"{said} {left} days are left.", _EXPORT)
    return good("report", said)


def _binding(ledger: Ledger, host: Mapping[str, str]) -> Finding:
    terms = ledger.server.terms
    if terms is None or terms.binding is None:
        return good("machine", "The licence is not bound to a machine.")
    binding = terms.binding
    changed = sorted(binding.changed(host))
    fitting = len(binding.components) - len(changed)
    of = f"{fitting} of {len(binding.components)} components"
    said = f"{of} are those of the licensed machine; {binding.required} are needed."
    if fitting < binding.required:
        return wrong("machine", f"{said} Changed: {', '.join(changed)}.", _REQUEST)
    if fitting == binding.required and changed:
        return doubtful(
            "machine", f"{said} Changed: {', '.join(changed)}; one more change unbinds the licence.", _REQUEST
        )
    return good("machine", said)


def _entitlements(ledger: Ledger, now: Now) -> Iterator[Finding]:
    if ledger.problems:
        yield wrong(
            "bundles",
            f"The bundle of {_named(sorted(ledger.problems))} did not verify again, so it is out of force.",
            "Import that bundle again: `lls bundle import FILE`. Then ask who changed the database.",
        )
    terms = [pool.entitlement for pool in ledger.pools.values()]
    ended = sorted(one.entitlement_id for one in terms if one.standing(now.wall) in (Standing.GRACE, Standing.EXPIRED))
    near = sorted(
        one.entitlement_id
        for one in terms
        if one.expires_at is not None and 0 <= days_until(one.expires_at, now.wall) < WARN_BEFORE_DAYS
    )
    if ended:
        yield doubtful(
            "entitlements",
            f"{_named(ended)} has ended or is in its grace.",
            "`lls entitlement list` shows them; ask your vendor for a renewed bundle.",
        )
    if near:
        yield doubtful(
            "entitlements",
            f"{_named(near)} ends within {WARN_BEFORE_DAYS} days.",
            "`lls entitlement list` shows them; ask your vendor for a renewed bundle.",
        )
    if not ended and not near and not ledger.problems:
        yield good("entitlements", f"{len(terms)} hosted; none ends within {WARN_BEFORE_DAYS} days.")


def _vendor_keys(keys: KeySet, now: Now) -> Finding:
    left = days_until(keys.expires_at, now.wall)
    said = f"Version {keys.version} of the vendor's key set is good until {keys.expires_at:%Y-%m-%d}."
    if left < 0:
        return doubtful(
            "vendor keys", f"{said} It has ended: new bundles are refused until a newer one comes.", _REQUEST
        )
    if left < WARN_BEFORE_DAYS:
        return doubtful("vendor keys", said, "Ask your vendor for a bundle with a newer key set.")
    return good("vendor keys", said)


def _named(ids: list[str]) -> str:
    more = len(ids) - _MOST_NAMED
    return ", ".join(ids[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


# ---------------------------------------------------------------- the chain


async def examine_chain(store: Store, *, upto: Head, first: int = 1, gaps: Sequence[Gap] = (), full: bool) -> Finding:
    """Whether the last thousand lines, or all from ``first`` on, lead to the head. Raises StoreDown."""
    after = first - 1 if full else max(first - 1, upto.seq - QUICK_LINES)
    expected = 0 if upto.seq == 0 else count_of_ours(after + 1, upto.seq, gaps)
    head: Head | None = None
    count = 0
    try:
        async for chunk in store.lines(after=after, upto=upto.seq):
            for line in chunk:
                head = _next(line, head)
                count += 1
    except RefusedDocument as fault:
        return _broken(fault.detail)
    if (head or Head()) != upto or count != expected:
        return _broken(f"{count} lines end at {head.seq if head else 0}, and the head says {upto.seq}.")
    return Finding(
        check="journal",
        state=State.OK,
        said=f"{count} lines hold together, up to {upto.seq}."
        + ("" if full or after == first - 1 else " `lls doctor --full` checks all."),
    )


def _next(line: bytes, head: Head | None) -> Head:
    if head is None:
        read = parse_line(line)
        head = Head(seq=read["seq"] - 1, hash=read["prev"])
    return follow(line, head=head)


def _broken(why: str) -> Finding:
    return wrong(
        "journal",
        f"The journal does not hold together: {why.rstrip('.')}.",
        "Stop using this copy, keep it, and tell your vendor.",
    )
