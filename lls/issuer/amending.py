"""What changes of an entitlement that was sold: its status, its term, its seats, its edition, its counters.

Rules
1. Every change makes a new document with the next sequence (``changing``); the server takes it with the next bundle. A
   change that changes nothing (disabling what is disabled) leaves the sequence alone.
2. A renewal by another plan puts the entitlement on that plan. Where some of its seats were renewed already, as an
   entitlement of their own (``parting``), the whole cannot be.
3. A counter of the site begins anew by the vendor's command only. Renewal orders it for each consumed feature that is
   reset on renewal. A command has an id and is carried out once; every bundle carries it until a report shows that it
   was carried out, because any bundle may be lost.
4. A reference of the vendor's own (``ref``) makes a change once (``acts``).
5. The document is read back with the appliance's own reader before it is stored.

It refuses to own the documents themselves (``changing``, ``upgrading``), grants (``balances``), parts of the seats
(``parting``), and where an entitlement is hosted (``hosting``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from lls.issuer.acts import once
from lls.issuer.catalog import Catalog, Offering, Plan
from lls.issuer.changing import following, on_plan, read_back, renewed, with_seats
from lls.issuer.consumption import anew
from lls.issuer.history import Deed
from lls.issuer.ids import Random, new_id
from lls.issuer.lookup import customer_in, entitlement_in
from lls.issuer.parting import check_renewed_whole, parts_of
from lls.issuer.refusals import Conflict
from lls.issuer.register import Command, Customer, Json, Register, Sold
from lls.issuer.upgrading import upgraded
from lls.licensing.entitlement import (
    Reset,
    Status,
)
from lls.licensing.fields import Fields, write_instant
from lls.licensing.terms import RESET_USAGE

_SALES: Final = frozenset({Deed.RENEWED, Deed.SEATS_ADDED, Deed.UPGRADED})
"""What sells something: refused while the customer is disabled."""
_DATES: Final = ("expires_at", "maintenance_expires_on")
_CHAIN: Final = "origin of grace_seconds"
_PARTS: Final = "parts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """An entitlement as it is now; ``again`` when there was nothing to change.

    ``outcome`` says what the change made, such as ``expires_at`` and ``command_ids``, or ``grant_id``.
    """

    sold: Sold
    again: bool
    outcome: Json


class Amending:
    """See the module. Each method is one transaction."""

    def __init__(self, register: Register, *, random: Random) -> None:
        self._register = register
        self._random = random

    def disable(self, entitlement_id: str, *, now: datetime) -> Changed:
        """Its leases end with the next bundle, but for borrowed ones; ``enable`` takes it back."""
        return self._switch(entitlement_id, Status.DISABLED, now=now)

    def enable(self, entitlement_id: str, *, now: datetime) -> Changed:
        """Take ``disable`` back. Raises Conflict while its customer is disabled."""
        return self._switch(entitlement_id, Status.ACTIVE, now=now)

    def follow_customer(self, customer: Customer, *, now: datetime) -> tuple[Sold, ...]:
        """What a customer bought rests while it is disabled; what was disabled by itself stays so. What changed."""
        off = customer.disabled_at is not None
        before, after = Status.ACTIVE, Status.CUSTOMER_DISABLED
        before, after, deed = (before, after, Deed.CUSTOMER_DISABLED) if off else (after, before, Deed.CUSTOMER_ENABLED)
        changed: list[Sold] = []
        with self._register.transaction():
            for sold in self._register.entitlements(customer_id=customer.customer_id):
                if sold.document["status"] == before.value:
                    became = replace(sold, document={**following(sold.document), "status": after.value})
                    self._put(became)
                    self._register.note_change(deed, was=sold, became=became, at=now)
                    changed.append(became)
        return tuple(changed)

    def renew(self, entitlement_id: str, *, plan: Plan | None = None, ref: str | None = None, now: datetime) -> Changed:
        """One more term, of its own plan or of another; ``outcome`` is ``{expires_at, command_ids, begins}``.

        Raises Conflict where there is nothing to renew.
        """

        def renewal(sold: Sold) -> tuple[Sold, Json]:
            check_renewed_whole(self._register, sold)
            document, begins = renewed(sold.document, plan, now=now)
            origins = sold.origins
            if plan is not None and plan.term is not None:
                document, origins = on_plan(document, origins, plan)
            reset = [
                feature.key
                for feature in read_back(document).features
                if feature.consumed and feature.reset is Reset.ON_RENEWAL
            ]
            commands = self._begin_anew(sold, reset, now=now)
            outcome = {
                "expires_at": document["expires_at"],
                "maintenance_expires_on": document["maintenance_expires_on"],
                "begins": write_instant(begins),
                "command_ids": commands,
            }
            return replace(sold, document=document, carried=anew(sold.carried, reset), origins=origins), outcome

        content = {"act": "renew", **({"plan": plan.key} if plan else {})}
        return self._once(entitlement_id, renewal, deed=Deed.RENEWED, content=content, ref=ref, now=now)

    def take_back_renewal(self, entitlement_id: str, *, was: Json, became: Json, now: datetime) -> Changed:
        """The terms as they were before the newest renewal, both by :meth:`moved_by_renewal`.

        Raises Conflict where something else has moved them since, or some of the seats have gone on with
        them. Counters that began anew with it stay so.
        """
        with self._register.transaction():
            sold = entitlement_in(self._register, entitlement_id)
            now_is = self.moved_by_renewal(sold)
            if now_is[_PARTS] != became.get(_PARTS, 0):
                raise Conflict(
                    f"A renewal of {entitlement_id} is to be taken back, but some of its seats became an entitlement "
                    "of their own since, with the dates that it gave. Set right by hand what both should be, and drop "
                    "this event: lls-issuer inbox drop."
                )
            if any(now_is[name] != became[name] for name in _DATES):
                raise Conflict(
                    f"A renewal of {entitlement_id} is to be taken back, but its term was changed since. Set right by "
                    "hand what it should be; then there is nothing to take back."
                )
            document, origins = {**following(sold.document), **{name: was[name] for name in _DATES}}, dict(sold.origins)
            if was["plan"] != became["plan"] == now_is["plan"]:
                document |= {name: was[name] for name in ("plan", "grace_seconds")}
                origins = {**origins, "values": {**origins["values"], "grace_seconds": was[_CHAIN]}}
            changed = replace(sold, document=document, origins=origins)
            self._put(changed)
            self._register.note_change(Deed.RENEWAL_TAKEN_BACK, was=sold, became=changed, at=now)
        return Changed(sold=changed, again=False, outcome={"expires_at": was["expires_at"]})

    def moved_by_renewal(self, sold: Sold) -> dict[str, Any]:
        """The terms of an entitlement that a renewal moves, and how many parts it has: for what takes one back."""
        chains: Any = sold.origins.get("values", {})
        return {
            **{name: sold.document[name] for name in (*_DATES, "plan", "grace_seconds")},
            _CHAIN: chains.get("grace_seconds"),
            _PARTS: parts_of(self._register, sold.entitlement_id),
        }

    def switched_by(self, entitlement_id: str) -> str | None:
        """Who disabled or enabled it last, as far as the history says; None: nobody ever did."""
        found = self._register.select(
            dict,
            """SELECT json_extract(line, '$.data.by') AS switched_by FROM history
               WHERE entitlement_id = ? AND kind IN ('disabled', 'enabled') ORDER BY seq DESC LIMIT 1""",
            entitlement_id,
        )
        return str(found[0]["switched_by"]) if found else None

    def add_seats(
        self,
        entitlement_id: str,
        seats: int,
        *,
        named_users: Sequence[str] = (),
        ref: str | None = None,
        now: datetime,
    ) -> Changed:
        """More seats, or fewer where ``seats`` is below zero; ``outcome`` is ``{seats}``. Dates stay as they are.

        ``named_users`` come to those that are named already. Raises Conflict.
        """

        def adding(sold: Sold) -> tuple[Sold, Json]:
            document = with_seats(sold.document, seats, named_users)
            return replace(sold, document=document), {"seats": document["seats"]}

        content = {"act": "add_seats", "seats": seats, "named_users": list(named_users)}
        return self._once(entitlement_id, adding, deed=Deed.SEATS_ADDED, content=content, ref=ref, now=now)

    def upgrade(
        self,
        entitlement_id: str,
        offering: Offering,
        catalog: Catalog,
        *,
        version: int,
        ref: str | None = None,
        now: datetime,
    ) -> Changed:
        """Another edition by that offering; ``outcome`` is ``{edition, sku}``. Raises Conflict."""

        def upgrading(sold: Sold) -> tuple[Sold, Json]:
            changed = upgraded(sold, offering, catalog, version=version)
            sku = Fields(changed.document, place="entitlement").object("offering").word("sku")
            return changed, {"edition": offering.edition, "sku": sku}

        content = {"act": "upgrade", "sku": offering.sku}
        return self._once(entitlement_id, upgrading, deed=Deed.UPGRADED, content=content, ref=ref, now=now)

    def reset_usage(
        self, entitlement_id: str, *, feature: str | None = None, ref: str | None = None, now: datetime
    ) -> Changed:
        """Let one consumed feature, or all, begin anew at the site; ``outcome`` is ``{command_ids}``."""

        def reset(sold: Sold) -> tuple[Sold, Json]:
            terms = read_back(sold.document)
            consumed = [one.key for one in terms.features if one.consumed]
            if not consumed or (feature is not None and feature not in consumed):
                what = "no feature that is used up" if feature is None else f"no feature {feature} that is used up"
                raise Conflict(f"The entitlement {entitlement_id} has {what}, so nothing can begin anew.")
            kept = anew(sold.carried, [feature])
            # Other carried units are other terms; without any the command alone does it.
            document = following(sold.document) if kept != sold.carried else dict(sold.document)
            commands = self._begin_anew(sold, [feature], now=now)
            return replace(sold, document=document, carried=kept), {"command_ids": commands}

        content = {"act": "reset_usage", "feature": feature}
        return self._once(entitlement_id, reset, deed=Deed.USAGE_RESET, content=content, ref=ref, now=now)

    def _switch(self, entitlement_id: str, status: Status, *, now: datetime) -> Changed:
        with self._register.transaction():
            sold = entitlement_in(self._register, entitlement_id)
            again = sold.document["status"] == status.value
            if status is Status.ACTIVE and customer_in(self._register, sold.customer_id).disabled_at is not None:
                raise Conflict(
                    f"The entitlement {entitlement_id} stays disabled while its customer is; enable that first: "
                    f"lls-issuer customer enable {sold.customer_id}."
                )
            was = sold
            if not again:
                sold = replace(sold, document={**following(sold.document), "status": status.value})
                self._put(sold)
            # Disabled by a second one, too, it stays so when the first takes it back: so the history must say it.
            if not again or (status is Status.DISABLED and self.switched_by(entitlement_id) != self._register.who.by):
                deed = Deed.ENABLED if status is Status.ACTIVE else Deed.DISABLED
                self._register.note_change(deed, was=was, became=sold, at=now)
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
        deed: Deed,
        content: Json,
        ref: str | None,
        now: datetime,
    ) -> Changed:
        """Rule 4."""

        def make() -> Json:
            sold = entitlement_in(self._register, entitlement_id)
            if deed in _SALES:
                self._refuse_disabled(sold)
            changed, outcome = change(sold)
            self._put(changed)
            self._register.note_change(deed, was=sold, became=changed, at=now, what={"ref": ref, **outcome})
            return outcome

        with self._register.transaction():
            entitlement_in(self._register, entitlement_id)
            asked = {**content, "entitlement_id": entitlement_id}
            outcome, again = once(self._register, make, content=asked, ref=ref, now=now)
            return Changed(sold=entitlement_in(self._register, entitlement_id), again=again, outcome=outcome)

    def _refuse_disabled(self, sold: Sold) -> None:
        customer = customer_in(self._register, sold.customer_id)
        if customer.disabled_at is not None:
            raise Conflict(
                f"The customer {customer.account_ref} is disabled, so nothing is sold to it; "
                f"enable it first: lls-issuer customer enable {customer.account_ref}."
            )

    def _put(self, sold: Sold) -> None:
        read_back(sold.document)  # rule 5
        self._register.put_entitlement(sold)
