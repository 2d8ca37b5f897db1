"""What the lines of a report tell the register, beside what they say of usage.

Rules
1. ``Started``: the first lease began a term. The vendor's own end is reckoned from the plan; the one in the line is not
   believed. A beginning that lies after its own line is refused.
2. ``Installed``: which of the vendor's commands a server carried out, so that bundles need not carry them any more.
3. ``Used``, ``Undone``, ``GrantEnded`` and ``resets``: the shape of what ``consumption`` reads, should the server ever
   be lost. Whoever needs it then must not find that it cannot be read.
4. Only what belongs to a session of this very server is noticed: a server says nothing of another's entitlements.
5. ``Denied``: how often somebody was refused, by day, product, feature and code; new lines come once, so each refusal
   is counted once. What may be asked for is free, so each day keeps at most 1,000 of them; the rest of a day is
   counted under ``…``.
6. Nothing else is kept of what is not already known here, so memory does not grow with the report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from lls.issuer.changing import begun, has_not_begun
from lls.issuer.history import Deed
from lls.issuer.refusals import ReportProblem, ReportRefused
from lls.issuer.register import Register, Sold
from lls.licensing.fields import Fields, malformed, write_instant
from lls.licensing.journal import Kind

_MOST_DRAWS: Final = 10_000
_MOST_REASONS: Final = 1_000
_OTHERS: Final = ("…", "", "…")
_TELLING: Final = frozenset({
    Kind.USED, Kind.UNDONE, Kind.GRANT_ENDED, Kind.STARTED, Kind.INSTALLED, Kind.DENIED,
})  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Noticed:
    """Step it with every new line; then :meth:`keep`."""

    waiting: Mapping[str, Sold]
    """Entitlements of this server, by id, whose first lease is still to set their dates."""
    pending: frozenset[str]
    """Ids of commands that this server was ordered and has not shown applied."""
    starts: dict[str, datetime] = field(default_factory=dict)
    applied: list[str] = field(default_factory=list)
    refused: dict[str, Counter[tuple[str, str, str]]] = field(default_factory=dict)
    """By day: how often, by product, feature (empty: a seat) and code."""

    @classmethod
    def of(cls, register: Register, server_id: str) -> Noticed:
        """What there is to be noticed of that server."""
        own = {session.entitlement_id for session in register.sessions(server_id=server_id)}
        known = [register.entitlement(entitlement_id) for entitlement_id in sorted(own)]
        return cls(
            waiting={sold.entitlement_id: sold for sold in known if sold is not None and has_not_begun(sold.document)},
            pending=frozenset(command.command_id for command in register.pending_commands(server_id)),
        )

    def step(self, line: Mapping[str, Any]) -> None:
        """The next new line, with ``at`` as an instant. Raises ReportRefused and RefusedDocument."""
        kind, data = line["kind"], line["data"]
        if kind not in _TELLING:
            return
        if kind == Kind.DENIED:
            self._denied(Fields(data, place="data"), line["at"])
        elif kind == Kind.GRANT_ENDED:
            Fields(data, place="data").text("lot")
        elif kind == Kind.STARTED:
            self._started(Fields(data, place="data"), line["at"], seq=line["seq"])
        elif kind == Kind.INSTALLED:
            self._installed(Fields(data, place="data"))
        else:
            _check_draws(data)

    def _denied(self, data: Fields, at: datetime) -> None:
        refused = self.refused.setdefault(at.date().isoformat(), Counter())
        what = data.text("product"), data.optional_text("feature") or "", data.text("code", most=50)
        refused[what if what in refused or len(refused) < _MOST_REASONS else _OTHERS] += data.integer("count", least=1)

    def _installed(self, data: Fields) -> None:
        for item in data.objects("entitlements"):
            item.text("session_id")
        for reset in data.objects("resets"):
            reset.text("entitlement_id")
            reset.word("feature")
        # Whatever else the list holds says nothing to us.
        self.applied += [one for one in data.list("commands") if isinstance(one, str) and one in self.pending]

    def _started(self, data: Fields, at: datetime, *, seq: object) -> None:
        entitlement_id, starts_at = data.text("entitlement_id"), data.instant("starts_at")
        if starts_at > at:
            raise ReportRefused(
                ReportProblem.IMPLAUSIBLE,
                f"Line {seq} of the journal begins the term of {entitlement_id} at {write_instant(starts_at)}, after "
                "itself. Nothing was counted; talk to the site.",
            )
        if entitlement_id in self.waiting:
            self.starts.setdefault(entitlement_id, starts_at)

    def keep(self, register: Register, *, server_id: str, now: datetime) -> tuple[tuple[Sold, ...], tuple[str, ...]]:
        """Into the register: the entitlements that have begun, and the commands that were carried out."""
        started = []
        for entitlement_id, starts_at in self.starts.items():
            sold = self.waiting[entitlement_id]
            changed = replace(sold, document=begun(sold.document, starts_at))
            register.put_entitlement(changed)
            register.note_change(Deed.BEGUN, was=sold, became=changed, at=now)
            started.append(changed)
        applied = tuple(dict.fromkeys(self.applied))
        for command_id in applied:
            register.note_applied(command_id, server_id=server_id, at=now)
        for day, refused in self.refused.items():
            for (product, feature, code), count in refused.items():
                register.change(
                    """INSERT INTO refusal (server_id, day, product, feature, code, count) VALUES (?, ?, ?, ?, ?, ?)
                       ON CONFLICT (server_id, day, product, feature, code)
                       DO UPDATE SET count = count + excluded.count""",
                    server_id, day, product, feature, code, count,
                )  # fmt: skip
        return tuple(started), applied


def _check_draws(data: Any) -> None:
    fields, draws = Fields(data, place="data"), data.get("draws")
    fields.text("entitlement_id")
    fields.word("feature")
    if not isinstance(draws, Mapping) or len(draws) > _MOST_DRAWS:
        raise malformed("data.draws", f"must be an object of at most {_MOST_DRAWS} lots")
    drawn = Fields(draws, place="data.draws")
    if sum(drawn.integer(lot) for lot in draws) != fields.integer("amount", least=1):
        raise malformed("data.draws", "must add up to the amount")
