"""Which conditions hold at this server now. Reads the ledger in the loop, as of the last commit; changes nothing.

Each function is one :data:`Look` for the herald: the ledger, the certificate, the disks, the backups.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final, TypeAlias

from lls.backup import Backups
from lls.care.disk import DiskWatch, Room
from lls.events.condition import Condition, Severity
from lls.licensing.instant import ClockState, Now
from lls.licensing.ledger import Ledger
from lls.tls import Doors
from lls.writer import Writer

Look: TypeAlias = Callable[[], Iterable[Condition]]

WARN_BEFORE_DAYS: Final = (30, 7, 1)
FULL_PERCENT: Final = 100
_BREATH: Final = timedelta(minutes=10)
"""A pool at its limit would be told of each time that somebody leaves and comes back."""
_HOUR_SECONDS: Final = 3600.0
_MIB: Final = 1024 * 1024


class Looking:
    """What the ledger and the writer say of themselves. ``denied`` counts denials by product since the start."""

    def __init__(
        self,
        writer: Writer,
        *,
        denied: Callable[[], Mapping[str, int]],
        seats_percent: int,
        denials_per_hour: int,
    ) -> None:
        self._writer, self._denied = writer, denied
        self._seats_percent, self._denials_per_hour = seats_percent, denials_per_hour
        self._hour: deque[tuple[float, dict[str, int]]] = deque()

    def __call__(self) -> Iterator[Condition]:
        """Everything that holds now."""
        ledger, now = self._writer.ledger, self._writer.now()
        yield from self._store()
        yield from _endings(ledger, now.wall)
        yield from _silence(ledger, now.wall)
        yield from _machine(ledger)
        yield from _clock(now)
        yield from self._seats(ledger)
        yield from self._denials(now.elapsed)

    def _store(self) -> Iterator[Condition]:
        if self._writer.down is not None:
            text = "The store takes no changes: nothing is granted or taken back. Look at its disk; lls doctor helps."
            yield Condition(type="store_down", severity=Severity.CRITICAL, text=text)

    def _seats(self, ledger: Ledger) -> Iterator[Condition]:
        for pool in ledger.pools.values():
            terms, seats = pool.entitlement, pool.entitlement.seats
            in_use = ledger.in_use(terms.entitlement_id)
            if not seats or not self._seats_percent or in_use * 100 < seats * self._seats_percent:
                continue
            full = in_use >= seats
            percent = in_use * 100 // seats
            yield Condition(
                type="seats_high",
                key=terms.entitlement_id,
                level=2 if full else 1,
                severity=Severity.WARNING if full else Severity.INFO,
                text=f"{in_use} of the {seats} seats of {terms.product} are in use ({percent} %)."
                + (" Who asks now is refused or waits; lls lease list shows who holds them." if full else ""),
                data={
                    "entitlement_id": terms.entitlement_id,
                    "product": terms.product,
                    "in_use": in_use,
                    "seats": seats,
                    "percent": percent,
                },
                lasts=_BREATH,
            )

    def _denials(self, elapsed: float) -> Iterator[Condition]:
        self._hour.append((elapsed, dict(self._denied())))
        while len(self._hour) > 1 and self._hour[1][0] <= elapsed - _HOUR_SECONDS:
            self._hour.popleft()
        if not self._denials_per_hour:
            return
        (_, first), (_, last) = self._hour[0], self._hour[-1]
        for product, count in last.items():
            denials = count - first.get(product, 0)
            if denials >= self._denials_per_hour:
                yield Condition(
                    type="denials_high",
                    key=product,
                    text=f"{denials} requests for {product} were refused within an hour; lls denials says why.",
                    data={"product": product, "denials": denials, "within_seconds": int(_HOUR_SECONDS)},
                    lasts=_BREATH,
                )


def certificate_conditions(doors: Doors | None, now: Callable[[], datetime]) -> Iterator[Condition]:
    """What is to be told of the TLS certificate. One that is made here renews itself and is told of when it cannot."""
    if doors is None:
        return
    if doors.trouble:
        yield Condition(
            type="tls_refused",
            severity=Severity.CRITICAL,
            text=f"The TLS certificate's files cannot be used, and the one of before is shown. {doors.trouble}",
        )
    level = _urgency(left := doors.ends_at - now())
    if level:
        when = "has expired" if left <= timedelta(0) else f"expires in {_days(left)}"
        how = "lls tls renew" if doors.self_made else "put another into its place, then lls reload"
        yield Condition(
            type="tls_ends",
            level=level,
            severity=Severity.WARNING if left > timedelta(0) else Severity.CRITICAL,
            text=f"The TLS certificate {when}: {how}.",
            data={"ends_at": doors.ends_at.isoformat(), "days_left": left.days},
        )


def disk_conditions(disk: DiskWatch) -> Iterator[Condition]:
    """Places that run out of room, as of the disk watch's last look."""
    for place, (room, free) in disk.rooms.items():
        if room is Room.OK:
            continue
        full = room is Room.FULL
        yield Condition(
            type="disk_low",
            key=place,
            level=2 if full else 1,
            severity=Severity.CRITICAL if full else Severity.WARNING,
            text=f"The disk for {place} has {free // _MIB} MiB left"
            + ("; nothing new is granted until there is room." if full else ". Make room, or move what is not ours."),
            data={"place": place, "free_mib": free // _MIB},
            lasts=_BREATH,
        )


def backup_conditions(backups: Backups) -> Iterator[Condition]:
    """The last scheduled backup failed; over when one succeeds."""
    if backups.last is not None and backups.last.problem is not None:
        text = f"The scheduled backup failed, so the last good one grows old. {backups.last.problem}"
        yield Condition(type="backup_failed", severity=Severity.CRITICAL, text=text)


def _endings(ledger: Ledger, now: datetime) -> Iterator[Condition]:
    for pool in ledger.pools.values():
        terms = pool.entitlement
        if terms.expires_at is None:
            continue
        level = _urgency(left := terms.expires_at - now)
        if not level:
            continue
        over = left <= timedelta(0)
        when = "has ended" if over else f"ends in {_days(left)}"
        yield Condition(
            type="entitlement_ends",
            key=terms.entitlement_id,
            level=level,
            severity=Severity.CRITICAL if over else Severity.WARNING,
            text=f"The entitlement {terms.entitlement_id} to {terms.product} {when}; ask your vendor for its renewal.",
            data={
                "entitlement_id": terms.entitlement_id,
                "product": terms.product,
                "expires_at": terms.expires_at.isoformat(),
                "days_left": left.days,
            },
        )


def _silence(ledger: Ledger, now: datetime) -> Iterator[Condition]:
    due = None if ledger.server.terms is None else ledger.server.terms.sync_due_at(ledger.server.sync_from)
    if due is None:
        return
    level = _urgency(left := due - now)
    if level:
        over = left <= timedelta(0)
        when = "is overdue: nothing new is granted" if over else f"is due in {_days(left)}"
        yield Condition(
            type="report_due",
            level=level,
            severity=Severity.CRITICAL if over else Severity.WARNING,
            text=f"The usage report {when}; lls report export -o FILE, send it, and import the receipt.",
            data={"days_left": left.days},
        )


def _machine(ledger: Ledger) -> Iterator[Condition]:
    server = ledger.server
    if server.unbound_since is not None:
        ends = server.unbound_ends_at
        yield Condition(
            type="unbound",
            severity=Severity.CRITICAL,
            text="This is not the machine that was licensed; lls server request -o FILE, send it to your vendor.",
            data={
                "since": server.unbound_since.isoformat(),
                "ends_at": None if ends is None else ends.isoformat(),
                "changed": ",".join(server.changed_parts),
            },
        )
    if server.restored:
        yield Condition(
            type="restored",
            text="This server was restored from a backup, and what is counted cannot be used until the vendor answers;"
            " lls server request -o FILE, send it, and import the bundle.",
        )
    if server.forked:
        yield Condition(
            type="chain_forked",
            severity=Severity.CRITICAL,
            text="The vendor's record of this journal is another one: was this machine cloned or set back? Tell them.",
        )


def _clock(now: Now) -> Iterator[Condition]:
    match now.state:
        case ClockState.BEHIND:
            yield Condition(
                type="clock_behind",
                severity=Severity.CRITICAL,
                text="The machine's clock is behind the time already seen: nothing new is granted. Set it right.",
                data={"behind_seconds": now.behind_seconds},
            )
        case ClockState.JUMPED:
            text = "The machine's clock has jumped ahead. If it is right now: lls clock accept; if not, set it right."
            yield Condition(type="clock_jumped", text=text)
        case ClockState.OK:
            pass


def _urgency(left: timedelta) -> int:
    """0: far away; 1, 2, 3: within 30, 7, 1 days; 4: over."""
    if left <= timedelta(0):
        return len(WARN_BEFORE_DAYS) + 1
    return sum(left <= timedelta(days=days) for days in WARN_BEFORE_DAYS)


def _days(left: timedelta) -> str:
    return "less than a day" if left.days < 1 else f"{left.days} day{'s' * (left.days > 1)}"
