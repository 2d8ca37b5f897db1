"""What changes of an entitlement that was sold: its status, its term, its grants, its counters.

Rules
1. Every change makes a new document with the next sequence; the server takes it with the next bundle. A change that
   changes nothing (disabling what is disabled) leaves the sequence alone.
2. Renewal (contract §3): unexpired or in grace, the old end and a term; else from now a term. The maintenance day moves
   by the same rule. It is refused where there is no end to move.
3. A counter of the site begins anew by the vendor's command only. Renewal orders it for each consumed feature that is
   reset on renewal. A command has an id and is carried out once; every bundle carries it until a report shows that it
   was carried out, because any bundle may be lost.
4. A reference of the vendor's own (``ref``) makes a change once: the same again changes nothing and gives the first
   outcome, other content under it is refused.
5. The document is read back with the appliance's own reader before it is stored.

It refuses to own where an entitlement is hosted (``hosting``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from typing import Any, Final

from lls.faults import RefusedDocument
from lls.issuer.catalog import GrantTerms, read_term
from lls.issuer.consumption import anew
from lls.issuer.ids import Random, new_id
from lls.issuer.lookup import entitlement_in
from lls.issuer.refusals import Conflict, NotKnown
from lls.issuer.register import Act, Command, Json, Register, Sold
from lls.licensing import calendar
from lls.licensing.calendar import Term
from lls.licensing.entitlement import Entitlement, Reset, Start, Status, read_entitlement
from lls.licensing.fields import Fields, write_instant
from lls.licensing.terms import RESET_USAGE

LONGEST_REF: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """An entitlement as it is now; ``again`` when there was nothing to change.

    ``outcome`` says what the change made: ``expires_at`` and ``command_ids``, or ``grant_id``.
    """

    sold: Sold
    again: bool
    outcome: Json


class Amending:
    """See the module. Each method is one transaction."""

    def __init__(self, register: Register, *, random: Random) -> None:
        self._register = register
        self._random = random

    def disable(self, entitlement_id: str) -> Changed:
        """Its leases end with the next bundle, but for borrowed ones; ``enable`` takes it back."""
        return self._switch(entitlement_id, Status.DISABLED)

    def enable(self, entitlement_id: str) -> Changed:
        """Take ``disable`` back."""
        return self._switch(entitlement_id, Status.ACTIVE)

    def renew(self, entitlement_id: str, *, ref: str | None = None, now: datetime) -> Changed:
        """One more term; ``outcome`` is ``{expires_at, command_ids}``. Raises Conflict where there is none."""

        def renewal(sold: Sold) -> tuple[Sold, Json]:
            document = _renewed(sold.document, now=now)
            reset = [
                feature.key
                for feature in read_entitlement(document).features
                if feature.consumed and feature.reset is Reset.ON_RENEWAL
            ]
            commands = self._begin_anew(sold, reset, now=now)
            outcome = {"expires_at": document["expires_at"], "command_ids": commands}
            return replace(sold, document=document, carried=anew(sold.carried, reset)), outcome

        return self._once(entitlement_id, renewal, act="renew", content={}, ref=ref, now=now)

    def reset_usage(
        self, entitlement_id: str, *, feature: str | None = None, ref: str | None = None, now: datetime
    ) -> Changed:
        """Let one consumed feature, or all, begin anew at the site; ``outcome`` is ``{command_ids}``."""

        def reset(sold: Sold) -> tuple[Sold, Json]:
            terms = _read(sold.document)
            consumed = [one.key for one in terms.features if one.consumed]
            if not consumed or (feature is not None and feature not in consumed):
                what = "no feature that is used up" if feature is None else f"no feature {feature} that is used up"
                raise Conflict(f"The entitlement {entitlement_id} has {what}, so nothing can begin anew.")
            kept = anew(sold.carried, [feature])
            # Other carried units are other terms; without any the command alone does it.
            document = _next(sold.document) if kept != sold.carried else dict(sold.document)
            commands = self._begin_anew(sold, [feature], now=now)
            return replace(sold, document=document, carried=kept), {"command_ids": commands}

        return self._once(entitlement_id, reset, act="reset_usage", content={"feature": feature}, ref=ref, now=now)

    def add_grant(self, entitlement_id: str, grant: GrantTerms, *, ref: str | None = None, now: datetime) -> Changed:
        """Give units of a counted feature; ``outcome`` is ``{grant_id}``."""
        begins = now.astimezone(UTC).replace(microsecond=0)

        def given(sold: Sold) -> tuple[Sold, Json]:
            known = _read(sold.document).feature(grant.feature)
            if known is None or not known.counted:
                raise Conflict(
                    f"The entitlement {entitlement_id} has no counted feature {grant.feature}; "
                    f"see lls-issuer entitlement show {entitlement_id}."
                )
            grant_id = new_id("grt", self._random)
            made = grant.document(grant_id=grant_id, amount=grant.amount, otherwise_from=begins)
            document = _with_grants(sold.document, grant.feature, lambda grants: [*grants, made])
            return replace(sold, document=document), {"grant_id": grant_id}

        asked = grant.document(grant_id="", amount=grant.amount, otherwise_from=begins)
        if grant.active_from is None:
            asked["active_from"] = None  # the same order an hour later is the same order
        content = {"feature": grant.feature, **asked}
        return self._once(entitlement_id, given, act="grant", content=content, ref=ref, now=now)

    def revoke_grant(self, grant_id: str) -> Changed:
        """Take a grant back: what is left of it is lost with the next bundle. Raises NotKnown, also the second time."""
        with self._register.transaction():
            sold = self._register.entitlement_of_grant(grant_id)
            if sold is None:
                raise NotKnown(f"There is no grant {grant_id}; see lls-issuer entitlement show ENTITLEMENT.")
            feature = next(
                one.key
                for one in _read(sold.document).features
                if any(grant.grant_id == grant_id for grant in one.grants)
            )
            document = _with_grants(
                sold.document, feature, lambda grants: [one for one in grants if one["grant_id"] != grant_id]
            )
            changed = replace(sold, document=document)
            self._put(changed)
        return Changed(sold=changed, again=False, outcome={"grant_id": grant_id})

    def _switch(self, entitlement_id: str, status: Status) -> Changed:
        with self._register.transaction():
            sold = entitlement_in(self._register, entitlement_id)
            again = sold.document["status"] == status.value
            if not again:
                sold = replace(sold, document={**_next(sold.document), "status": status.value})
                self._put(sold)
        return Changed(sold=sold, again=again, outcome={"status": status.value})

    def _begin_anew(self, sold: Sold, features: list[str] | list[str | None], *, now: datetime) -> list[str]:
        """Order it of the server that hosts; where none does, there is no counter."""
        if sold.server_id is None:
            return []
        commands: list[str] = []
        for feature in features:
            command_id = new_id("cmd", self._random)
            document = {
                "command_id": command_id,
                "type": RESET_USAGE,
                "entitlement_id": sold.entitlement_id,
                "feature": feature,
            }
            self._register.add_command(
                Command(command_id=command_id, session_id=sold.session_id, document=document, ordered_at=now)
            )
            commands.append(command_id)
        return commands

    def _once(
        self,
        entitlement_id: str,
        change: Callable[[Sold], tuple[Sold, Json]],
        *,
        act: str,
        content: Json,
        ref: str | None,
        now: datetime,
    ) -> Changed:
        """Rule 4."""
        content = {"act": act, "entitlement_id": entitlement_id, **content}
        if ref is not None and not (1 <= len(ref) <= LONGEST_REF and ref.isprintable()):
            raise Conflict(f"A reference is a printable text of 1 to {LONGEST_REF} characters.")
        with self._register.transaction():
            sold = entitlement_in(self._register, entitlement_id)
            before = None if ref is None else self._register.act(ref)
            if before is not None:
                if before.content != content:
                    raise Conflict(
                        f"Under the reference {ref} something else was done at {write_instant(before.done_at)}; "
                        "give this its own."
                    )
                return Changed(sold=sold, again=True, outcome=before.outcome)
            changed, outcome = change(sold)
            self._put(changed)
            if ref is not None:
                self._register.add_act(Act(ref=ref, content=content, outcome=outcome, done_at=now))
        return Changed(sold=changed, again=False, outcome=outcome)

    def _put(self, sold: Sold) -> None:
        _read(sold.document)  # rule 5
        self._register.put_entitlement(sold)


def has_not_begun(document: Json) -> bool:
    """Whether its first lease is still to set its dates."""
    fields = Fields(document, place="entitlement")
    return not fields.has("starts_at") and fields.object("plan").kind("start", Start) is Start.ON_FIRST_LEASE


def begun(document: Json, at: datetime) -> dict[str, object]:
    """The terms of an entitlement whose first lease was granted at ``at``. Raises Conflict beyond the calendar."""
    term = _term(document)
    ends = document["expires_at"] if term is None else write_instant(_after(at, term, document))
    return {**_next(document), "starts_at": write_instant(at), "expires_at": ends}


def _renewed(document: Json, *, now: datetime) -> dict[str, object]:
    terms, term = _read(document), _term(document)
    if has_not_begun(document):
        raise Conflict(
            f"The entitlement {terms.entitlement_id} has not begun, as far as its server has reported: its first lease "
            "starts the term. Ingest the newest report of its server first, or wait with the renewal."
        )
    if term is None or terms.expires_at is None or terms.ends_at is None:
        raise Conflict(f"The entitlement {terms.entitlement_id} has no end that a term could move: nothing to renew.")
    now = now.astimezone(UTC).replace(microsecond=0)
    expires_at = _after(terms.expires_at if now < terms.ends_at else now, term, document)
    renewed = {**_next(document), "expires_at": write_instant(expires_at)}
    if terms.maintenance_expires_on is not None:
        day = max(now.date(), terms.maintenance_expires_on)
        until = _after(datetime.combine(day, time(), tzinfo=UTC), term, document)
        renewed["maintenance_expires_on"] = until.date().isoformat()
    return renewed


def _after(at: datetime, term: Term, document: Json) -> datetime:
    grace = timedelta(seconds=Fields(document, place="entitlement").integer("grace_seconds"))
    try:
        end = calendar.add(at, term)
        return end + grace - grace  # the grace must fit, too
    except OverflowError as failure:
        raise Conflict(
            f"The entitlement {document['entitlement_id']} cannot last so long: the term goes beyond the calendar."
        ) from failure


def _term(document: Json) -> Term | None:
    plan = Fields(document, place="entitlement").object("plan")
    return read_term(plan.object("term")) if plan.has("term") else None


def _next(document: Json) -> dict[str, object]:
    sequence = Fields(document, place="entitlement").integer("sequence")
    return {**document, "sequence": sequence + 1}


def in_new_session(document: Json, session_id: str) -> dict[str, object]:
    """The same terms for another hosting session; the sequence goes on."""
    return {**_next(document), "session_id": session_id}


def _with_grants(
    document: Json, feature: str, change: Callable[[list[Mapping[str, Any]]], list[Mapping[str, Any]]]
) -> dict[str, object]:
    features: Any = document["features"]
    changed = [{**one, "grants": change(one["grants"])} if one["key"] == feature else one for one in features]
    return {**_next(document), "features": changed}


def _read(document: Json) -> Entitlement:
    try:
        return read_entitlement(document, place="entitlement")
    except RefusedDocument as refused:
        raise Conflict(f"That was refused: {refused.detail}") from refused
