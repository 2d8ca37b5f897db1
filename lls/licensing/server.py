"""Whether this server may grant at all: its licence, its reports, its clock, its machine.

Rules (design §3, §4)
1. Everything here refuses *new* leases only; what is held goes on.
2. Each state is a fact of the store and a line of the journal, posted once when it changes.
3. After a restore from a backup only what is consumed is refused, until the vendor has answered that very restore
   (decision 0021); seats go on.
4. The highest bundle sequence ever seen is remembered even of bundles that were refused for their dates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from lls.faults import ClockBehind, StoreDown, Unbound
from lls.licensing.changes import Fact
from lls.licensing.fields import read_instant, write_instant
from lls.licensing.instant import ClockState, Now
from lls.licensing.journal import FIRST_PREV, Gap, Head, Kind
from lls.licensing.lease import Checkout
from lls.licensing.posting import Posting
from lls.licensing.seating import Denial
from lls.licensing.terms import License, ServerTerms

MOST_RESTORES: Final = 50
"""Restores that are remembered: an administrator who tries it out does so a few times."""
_STRAY: Final = timedelta(minutes=5)
_NOT_LICENSED: Final = "The server's own licence does not cover {} now; import a newer bundle."
_NO_ROOM: Final = "The license server's disk is nearly full, so nothing new is granted; what is held goes on."
_RESTORED: Final = (
    "The server was restored from a backup and does not know how much of {} ({}) was used since, so nothing more of it"
    " can be used."
)
_ASK_THE_VENDOR: Final = "Carry a request to the vendor (`lls server request`) and import the bundle that answers it."
_OVERDUE: Final = "The vendor has had no usage report for too long; export one and import its receipt."


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePoint:
    """A restore: ``seq`` and ``head`` are the end of the backup that was put back."""

    restore_id: str
    seq: int
    head: str


class Server:
    """This server's own standing. ``host`` are the machine's hashed components, ``terms`` the newest bundle's word.

    ``host`` may be set anew at any time (parts are exchanged while we run); ``note_binding`` says what that means.
    """

    def __init__(self, posting: Posting, *, terms: ServerTerms | None, host: Mapping[str, str]) -> None:
        self._posting = posting
        self.terms = terms
        self.host = host
        self.no_room = False
        """The disk is nearly full: what is left is for what gives seats back. Lives in memory only."""

    # ---------------------------------------------------------------- what refuses

    def refuse_new(self, now: Now) -> None:
        """Raise ClockBehind, Unbound or StoreDown when nothing new may be granted."""
        if now.state is ClockState.BEHIND:
            raise ClockBehind(behind_seconds=now.behind_seconds)
        ends = self.unbound_ends_at
        if ends is not None and now.strict >= ends:
            raise Unbound
        if self.no_room:
            raise StoreDown(_NO_ROOM)

    def may_grant(self, now: Now) -> bool:
        """Whether nothing of the server's own refuses: a waiter is not seated where a newcomer would not be."""
        try:
            self.refuse_new(now)
        except (ClockBehind, Unbound, StoreDown):
            return False
        return True

    def refusal(self, request: Checkout, now: Now) -> Denial | None:
        """The denial when the server's licence does not cover this product, or a report is overdue."""
        product, state = request.product, self.license(now)
        if state is License.REPORT_OVERDUE:
            return Denial(code="report_overdue", rule="sync", detail=_OVERDUE, product=product, asked=request.seats)
        if state is License.ACTIVE and self.terms is not None and product in self.terms.products:
            return None
        detail = _NOT_LICENSED.format(product)
        return Denial(code="server_not_licensed", rule="server", detail=detail, product=product, asked=request.seats)

    def consuming(self, *, product: str, feature: str, entitlement_id: str | None, asked: int) -> Denial | None:
        """The denial of a use while nobody here knows what was used since the backup."""
        if not self.restored:
            return None
        return Denial(
            code="restored",
            rule="restored",
            detail=_RESTORED.format(feature, product),
            remedy=_ASK_THE_VENDOR,
            product=product,
            entitlement_id=entitlement_id,
            feature=feature,
            asked=asked,
        )

    def license(self, now: Now) -> License:
        """Whether new leases may be granted at all."""
        return License.UNLICENSED if self.terms is None else self.terms.license(now, sync_from=self.sync_from)

    # ---------------------------------------------------------------- facts

    @property
    def sync_from(self) -> datetime | None:
        """From when the time without a report counts."""
        return self._instant(Fact.SYNC_FROM)

    @property
    def unbound_since(self) -> datetime | None:
        """Since when the machine is not the licensed one; None while it is."""
        return self._instant(Fact.UNBOUND_SINCE)

    @property
    def unbound_ends_at(self) -> datetime | None:
        """When the grace of a changed machine ends; None while it is bound."""
        since = self.unbound_since
        if since is None or self.terms is None or self.terms.binding is None:
            return None
        return since + self.terms.binding.grace

    @property
    def sequence_seen(self) -> int:
        """The highest bundle sequence ever seen, refused ones included."""
        return int(self._posting.facts.get(Fact.SEQUENCE_SEEN, "0"))

    @property
    def acknowledged(self) -> Head:
        """The last line that the vendor has acknowledged."""
        facts = self._posting.facts
        return Head(seq=int(facts.get(Fact.ACKNOWLEDGED, "0")), hash=facts.get(Fact.ACKNOWLEDGED_HEAD, FIRST_PREV))

    @property
    def forked(self) -> bool:
        """Whether the vendor acknowledged a line that is not in our chain."""
        return self._posting.facts.get(Fact.CHAIN_FORKED) == "1"

    @property
    def restoring(self) -> Mapping[str, str] | None:
        """``{restore_id, made_at}`` of a database that was put back and has not been started since."""
        text = self._posting.facts.get(Fact.RESTORING)
        return json.loads(text) if text else None

    @property
    def restores(self) -> tuple[RestorePoint, ...]:
        """The restores after which the vendor's word is awaited, in their order; the last one is the present one."""
        text = self._posting.facts.get(Fact.RESTORED)
        return tuple(RestorePoint(**point) for point in json.loads(text)) if text else ()

    @property
    def restored(self) -> bool:
        """Whether what was consumed is not known for sure, so that nothing more may be."""
        return bool(self._posting.facts.get(Fact.RESTORED))

    @property
    def lost_times(self) -> tuple[tuple[datetime, datetime], ...]:
        """Between which instants nobody here knows what was lent; a little wider, because clocks are."""
        text = self._posting.facts.get(Fact.LOST_TIMES)
        times = [[read_instant(at, place="lost_times") for at in pair] for pair in (json.loads(text) if text else ())]
        return tuple((begin - _STRAY, end + _STRAY) for begin, end in times)

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """The ranges of the chain whose lines only the vendor has."""
        text = self._posting.facts.get(Fact.GAPS)
        return tuple(Gap(**gap) for gap in json.loads(text)) if text else ()

    @property
    def changed_parts(self) -> list[str]:
        """The parts of the machine that are not the enrolled ones; none where no machine is asked for."""
        binding = None if self.terms is None else self.terms.binding
        return [] if binding is None else binding.changed(self.host)

    def _instant(self, fact: Fact) -> datetime | None:
        text = self._posting.facts.get(fact)
        return _read(text) if text else None

    # ---------------------------------------------------------------- what changes

    def remember_sequence(self, sequence: int) -> None:
        """A genuine bundle was refused for its dates: older ones must not come after it (python-tuf does the same)."""
        if sequence > self.sequence_seen:
            self._posting.set_facts({Fact.SEQUENCE_SEEN: str(sequence)})

    def keep_id(self, server_id: str) -> None:
        """Whose history this is, kept with it: another identity must not go on with it."""
        if self._posting.facts.get(Fact.SERVER_ID) != server_id:
            self._posting.set_facts({Fact.SERVER_ID: server_id})

    def mark_forked(self) -> None:
        """The vendor acknowledged a line that is not in our chain."""
        self._posting.set_facts({Fact.CHAIN_FORKED: "1"})

    def note_restore(self, point: RestorePoint, *, since: datetime, now: Now) -> None:
        """Nothing is consumed any more until the vendor has answered this restore."""
        points = [asdict(one) for one in (*self.restores, point)]
        known = self._posting.facts.get(Fact.LOST_TIMES)
        lost = [*(json.loads(known) if known else ()), [write_instant(since), write_instant(now.wall)]]
        self._posting.set_facts(
            {
                Fact.RESTORING: "",
                Fact.RESTORED: json.dumps(points[-MOST_RESTORES:]),
                Fact.LOST_TIMES: json.dumps(lost[-MOST_RESTORES:]),
            }
        )

    def note_adopted(self, gap: Gap | None) -> None:
        """The vendor has answered: the restores are over, and so is what made the chains differ."""
        facts = {Fact.RESTORED: "", Fact.CHAIN_FORKED: ""}
        if gap is not None:
            facts[Fact.GAPS] = json.dumps([asdict(one) for one in (*self.gaps, gap)])
        self._posting.set_facts(facts)

    def note_binding(self, *, now: Now) -> None:
        """Post when this machine stopped being the one that was licensed, and when it is again."""
        binding = None if self.terms is None else self.terms.binding
        holds = binding is None or binding.holds(self.host)
        if holds and self.unbound_since is not None:
            self._posting.post(Kind.REBOUND, {}, now)
            self._posting.set_facts({Fact.UNBOUND_SINCE: ""})
        elif binding is not None and not holds and self.unbound_since is None:
            told = {"required": binding.required, "changed": binding.changed(self.host)}
            self._posting.post(Kind.UNBOUND, told, now)
            self._posting.set_facts({Fact.UNBOUND_SINCE: write_instant(now.wall)})

    def note_clock(self, *, now: Now) -> None:
        """Post a change of the clock's state, once."""
        was = ClockState(self._posting.facts.get(Fact.CLOCK_STATE, ClockState.OK))
        if was is now.state:
            return
        match now.state:
            case ClockState.BEHIND:
                self._posting.post(Kind.CLOCK_BEHIND, {"behind_seconds": now.behind_seconds}, now)
            case ClockState.JUMPED:
                ahead = int((now.strict - now.wall).total_seconds())
                self._posting.post(Kind.CLOCK_JUMPED, {"ahead_seconds": ahead}, now)
            case ClockState.OK:
                self._posting.post(Kind.CLOCK_HEALED, {}, now)
        self._posting.set_facts({Fact.CLOCK_STATE: now.state.value})


@lru_cache(16)
def _read(text: str) -> datetime:
    """A fact's instant; every checkout asks for the same ones."""
    return read_instant(text, place="fact")
