"""What is hosted here: bundles in, entitlements placed, changed and returned, reports out, receipts in.

Rules
1. A bundle is applied whole or not at all, in one verb, so in one transaction; what it ends ends there too.
2. An entitlement that is not active any more ends its leases, but for borrowed ones: what left with a laptop is counted
   until its date (``seats``).
3. A term that the first lease starts keeps its dates under later bundles that bring none. Another hosting session over
   the present one closes it: start, names and draining begin anew; what was counted goes on, as under every import.
4. A vendor's command (``reset_usage``) is applied before the terms that come with it, once, to the counters: also
   where no terms were in force so far. Nothing else lowers what was counted.
5. Returning drains: nothing new is granted, what is held goes on, and when the last lease has ended the entitlement
   goes, its session is closed for ever and its meters are told for the last time. ``force`` ends the leases at once.
   What was returned can be told again, word for word.
6. The named users of a site's choice fill the places that the vendor's own names leave; taking a name back is a change,
   of which the vendor allows some a month.

It refuses to own signatures (``signed``) and files (``airgap``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import Final

from lls.faults import Forbidden, LeaseEnd, NotFound, TooLarge
from lls.licensing.calendar import month_of
from lls.licensing.changes import Fact, KeptBundle, Loaded, Placed, Rebase, ReturnedEntitlement, SealedReport
from lls.licensing.entitlement import Concurrency, Entitlement, Status
from lls.licensing.fields import write_instant
from lls.licensing.installing import judge
from lls.licensing.instant import Now
from lls.licensing.journal import LONGEST_LINE, Kind
from lls.licensing.lease import Lease, LeaseState
from lls.licensing.leases import Setting
from lls.licensing.policy import Policy
from lls.licensing.restoring import Restoring
from lls.licensing.retention import ArchivedRange, prunable
from lls.licensing.seating import Pool, occupied
from lls.licensing.terms import RESET_USAGE, Acknowledgement, Adoption, Change, Installation, Outcome, ServerTerms

LONGEST_METERS: Final = LONGEST_LINE - 65_536
"""What is told of meters must leave room for the rest of its line."""
_FIRST_OF_A_MONTH: Final = datetime.fromisoformat("2000-01-01T00:00:00+00:00")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draining:
    """An entitlement that goes back when its last lease has ended; ``leases`` are still held."""

    leases: int


class Hosting(Restoring):
    """The seats of one server and what they were sold with; see the module."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        terms: ServerTerms | None,
        entitlements: Mapping[str, Entitlement],
        problems: Mapping[str, str],
        now: Now,
        commit_to: Callable[[str], str],
        setting: Setting,
        host: Mapping[str, str] = MappingProxyType({}),
        policy: Policy = Policy(),  # noqa: B008 - frozen
    ) -> None:
        """See :class:`~lls.licensing.seats.Seats`."""
        self.installing = False
        self.bundles: dict[str, KeptBundle] = {kept.bundle_id: replace(kept, jws="") for kept in loaded.bundles}
        self._key_sets = dict(loaded.key_sets)
        self.closed_sessions = set(loaded.closed_sessions)
        self.commands, self.receipts = set(loaded.commands), set(loaded.receipts)
        self.reports: dict[str, SealedReport] = {report.report_id: report for report in loaded.reports}
        self.archives: list[ArchivedRange] = list(loaded.archives)
        self.returns: dict[str, ReturnedEntitlement] = {one.entitlement_id: one for one in loaded.returns}
        self._returns_before: dict[str, ReturnedEntitlement | None] = {}
        self._reports_before: dict[str, SealedReport] = {}
        self._dropped: dict[str, Pool] = {}
        self._server_terms_before = terms
        super().__init__(
            loaded,
            terms=terms,
            entitlements=entitlements,
            problems=problems,
            now=now,
            commit_to=commit_to,
            setting=setting,
            host=host,
            policy=policy,
        )

    # ---------------------------------------------------------------- the group in flight

    @property
    def changing(self) -> bool:
        """Whether the group in flight changes what stands above the leases: terms, facts, reports. Reads of it wait."""
        batch = self.batch
        return self.installing or bool(batch.facts) or bool(batch.reports) or bool(batch.placed)

    def _held_up(self) -> Iterable[Lease]:
        """While an import is in flight every beat waits for it, not only those of the leases that it touches."""
        return self.leases.values() if self.installing else super()._held_up()

    def settle(self, *, now: Now | None = None) -> None:
        """See :meth:`Seats.settle`."""
        super().settle(now=now)
        self._server_terms_before = self.server.terms
        self._dropped.clear()
        self._returns_before.clear()
        self._reports_before.clear()
        self.installing = False

    def abandon(self) -> None:
        """See :meth:`Seats.abandon`."""
        for key, pool in self._dropped.items():
            if key in self.pools:
                self.pools.drop(self.pools[key])
            self.pools.take_back(pool)
        self.server.terms = self._server_terms_before
        for report in self.batch.reports:
            del self.reports[report.report_id]
        for _archive in self.batch.archives:
            self.archives.pop()
        self.reports.update(self._reports_before)
        self._reports_before.clear()
        for kept in self.batch.bundles:
            self.bundles.pop(kept.bundle_id, None)
        for entitlement_id, before in self._returns_before.items():
            self.returns.pop(entitlement_id)
            if before is not None:
                self.returns[entitlement_id] = before
        self.receipts -= self.batch.receipts
        self.commands -= self.batch.commands
        self.closed_sessions -= self.batch.closed_sessions
        super().abandon()
        self._posting.batch.reports.clear()
        self._posting.batch.archives.clear()
        self._posting.batch.placed.clear()
        self._dropped.clear()
        self.installing = False

    # ---------------------------------------------------------------- verbs: bundles

    def preview(self, installation: Installation, *, now: Now) -> Outcome:
        """What ``install`` would do; raises what it would raise."""
        return judge(self, installation, now=now)

    def install(self, installation: Installation, *, actor: str, now: Now) -> Outcome:
        """Apply a verified bundle, whole or not at all. Raises RefusedDocument."""
        outcome = judge(self, installation, now=now)
        if outcome.already_applied:
            return outcome
        if outcome.adoption is not None:
            self._adopt(outcome.adoption, installation, now)
        self.installing = True
        kept = installation.kept
        self.server.terms = installation.terms
        self.bundles[kept.bundle_id] = replace(kept, jws="")
        self.batch.bundles.append(kept)
        self.keep_key_sets(installation.key_sets)
        self._posting.set_facts({Fact.SEQUENCE_SEEN: str(outcome.sequence), Fact.TERMS_FROM: kept.bundle_id})
        if self.server.sync_from is None:
            self._posting.set_facts({Fact.SYNC_FROM: write_instant(kept.issued_at)})
        self.commands.update(outcome.commands)
        self.batch.commands.update(outcome.commands)
        changed = [step.entitlement for step in outcome.steps if step.change in (Change.NEW, Change.UPDATED)]
        in_use = {
            one.entitlement_id: occupied(one, self.pools.get(one.entitlement_id), self._orphans(one.entitlement_id))
            for one in changed
        }
        resets = self._reset(installation, outcome, changed, now)
        held = self.meters.held
        self._posting.installed(installation, outcome, now, actor=actor, in_use=in_use, held=held, resets=resets)
        ended = {one.entitlement_id: self._place(one, kept.bundle_id, now) for one in changed}
        for step in outcome.steps:
            if step.change is Change.UNCHANGED:
                self._place_anew(replace(self.placed[step.entitlement.entitlement_id], bundle_id=kept.bundle_id))
        if outcome.acknowledged is not None:
            self._acknowledge(outcome.acknowledged, installation.usage_carry, actor, now)
        if outcome.forked:
            self.server.mark_forked()
        self.server.note_binding(now=now)
        for product in self.waiting.products():
            self._serve(product, now)
        return replace(outcome, leases_ended=ended)

    def _adopt(self, adoption: Adoption, installation: Installation, now: Now) -> None:
        moved = self._go_on(adoption, installation)
        if moved is not None:
            self._renumber(moved)
        self._end_sessions(adoption.closed_sessions, now)
        if moved is not None:  # last: an entitlement whose old session has ended may be hosted in a new one
            self.meters.know(adoption.meters)

    def _renumber(self, moved: Rebase) -> None:
        """What was returned or sealed in lines that have moved: returns tell their new place, reports are void."""
        changed = [
            replace(one, up_to_seq=line.seq, head=line.hash)
            for one in self.returns.values()
            if one.up_to_seq > moved.keep
            for line in (moved.entries[one.up_to_seq - moved.keep - 1],)
        ]
        for one in changed:
            self._returns_before.setdefault(one.entitlement_id, self.returns[one.entitlement_id])
            self.returns[one.entitlement_id] = one
        self.batch.returns = changed
        gone = [report_id for report_id, report in self.reports.items() if report.to_seq > moved.keep]
        for report_id in gone:
            self._reports_before[report_id] = self.reports.pop(report_id)
        self.batch.reports.clear()

    def _end_sessions(self, sessions: Collection[str], now: Now) -> None:
        """Hosted by the backup only: the vendor has them back, and another server may have them."""
        for placed in [one for one in self.placed.values() if one.session_id in sessions]:
            pool = self.pools.get(placed.entitlement_id)
            if pool is None:
                continue
            held = [lease for lease in pool.leases.values() if lease.until is None]
            ended = self._end(held, now)
            self._give_back(pool, leases_ended=ended, forced=True, actor="vendor", now=now)

    def keep_key_sets(self, key_sets: Mapping[int, str]) -> None:
        """Have the vendor's key sets stored that are not yet."""
        for version, token in key_sets.items():
            if self._key_sets.get(version) != token:
                self._key_sets[version] = self.batch.key_sets[version] = token

    def _reset(
        self, installation: Installation, outcome: Outcome, changed: Iterable[Entitlement], now: Now
    ) -> list[dict[str, object]]:
        commands = [installation.commands[command_id] for command_id in outcome.commands]
        orders = [
            (one.entitlement_id, one.feature)
            for one in commands
            if one.type == RESET_USAGE and one.entitlement_id is not None
        ]
        return self.meters.reset(orders, coming={one.entitlement_id: self.dated(one) for one in changed}, now=now)

    def _place(self, entitlement: Entitlement, bundle_id: str, now: Now) -> int:
        """Put new terms in force; how many leases ended with the old ones."""
        key = entitlement.entitlement_id
        known = self.placed.get(key)
        same = known is not None and known.session_id == entitlement.session_id
        if known is not None and not same:
            self.closed_sessions.add(known.session_id)
            self.batch.closed_sessions.add(known.session_id)
        self._place_anew(
            Placed(
                entitlement_id=key,
                session_id=entitlement.session_id,
                sequence=entitlement.sequence,
                bundle_id=bundle_id,
                started_at=known.started_at if known is not None and same else None,
                returning=known is not None and same and known.returning,
                assigned=known.assigned if known is not None and same else (),
                renamed_at=known.renamed_at if known is not None and same else (),
            )
        )
        self._generation += 1
        dated, pool, orphans = self.dated(entitlement), self.pools.get(key), self._orphans(key)
        seated = orphans if pool is None else pool.leases
        begins = bool(seated) and dated.starts_on_first_lease and entitlement.status is Status.ACTIVE
        if begins:  # whoever sits there already is the first
            dated = self._begun(dated, now)
        if pool is None:
            if key not in self._dropped:  # it may have gone and come again within the group
                self._terms_before.setdefault(key, None)
            pool = self._open_pool(dated, now=now)
            for lease in orphans.values():
                pool.add(lease)
            self.problems.pop(key, None)
        else:
            self._keep_terms(pool)
            self._seats_before.setdefault(key, pool.in_use)
            self.pools.change(pool, dated)
            self.meters.open(dated, now=now)
            self._tell(pool, self.placed[key])
            self._rearm(pool, now)
        if begins:
            self._posting.started(dated, now)
        ended = 0
        if entitlement.status is not Status.ACTIVE:
            ended = self._end([lease for lease in pool.leases.values() if lease.until is None], now)
        self._note_overdraft(pool, now)
        self.meters.note_overdraft(key, now)
        return ended

    def _orphans(self, entitlement_id: str) -> Mapping[str, Lease]:
        """Leases without terms: these did not verify at the last start, or went back while a seat was borrowed."""
        if entitlement_id in self.pools:
            return {}
        return {key: lease for key, lease in self.leases.items() if lease.entitlement_id == entitlement_id}

    # ---------------------------------------------------------------- verbs: the end of an entitlement

    def return_entitlement(
        self, entitlement_id: str, *, force: bool, actor: str, now: Now
    ) -> Draining | ReturnedEntitlement:
        """Let an entitlement go back to the vendor: what its return says, or what still holds it. Raises NotFound."""
        pool = self.pools.get(entitlement_id)
        if pool is None:
            return self._returned(entitlement_id)
        _refuse_too_long(self.meters.final(entitlement_id, now=now))
        if not self.placed[entitlement_id].returning:
            self._place_anew(replace(self.placed[entitlement_id], returning=True))
            self._generation += 1
            self.note_act("entitlement_return_begun", actor=actor, now=now, entitlement_id=entitlement_id)
        held = [lease for lease in pool.leases.values() if lease.state is LeaseState.ACTIVE and lease.until is None]
        if held and not force:
            return Draining(leases=len(held))
        self.installing = True
        self._end([lease for lease in pool.leases.values() if lease.until is None], now)
        returned = self._give_back(pool, leases_ended=len(held), forced=force, actor=actor, now=now)
        self._serve(pool.entitlement.product, now)
        return returned

    def keep_entitlement(self, entitlement_id: str, *, actor: str, now: Now) -> None:
        """It stays after all. Raises NotFound when it is not being returned."""
        placed = self.placed.get(entitlement_id)
        if placed is None or not placed.returning:
            raise NotFound(f"The entitlement {entitlement_id} is not being returned.")
        self._place_anew(replace(placed, returning=False))
        self._generation += 1
        self.note_act("entitlement_kept", actor=actor, now=now, entitlement_id=entitlement_id)

    def _returned(self, entitlement_id: str) -> ReturnedEntitlement:
        known = self.returns.get(entitlement_id)
        if entitlement_id in self.problems:
            raise Forbidden(
                f"The stored terms of {entitlement_id} did not verify again; import a newer bundle, then return it."
            )
        if known is None:
            raise NotFound(f"No entitlement {entitlement_id} is hosted here; `lls entitlement list` shows them.")
        return known

    def _give_back(self, pool: Pool, *, leases_ended: int, forced: bool, actor: str, now: Now) -> ReturnedEntitlement:
        terms = pool.entitlement
        key = terms.entitlement_id
        away = max((lease.until for lease in pool.leases.values() if lease.until is not None), default=None)
        meters = self.meters.final(key, now=now)
        self._posting.returned_entitlement(
            terms, now, forced=forced, leases_ended=leases_ended, meters=meters, borrowed_until=away, actor=actor
        )
        returned = ReturnedEntitlement(
            entitlement_id=key,
            session_id=terms.session_id,
            up_to_seq=self.head.seq,
            head=self.head.hash,
            meters=json.dumps(meters, sort_keys=True, separators=(",", ":")),
            borrowed_until=away,
            made_at=now.wall.replace(microsecond=0),
        )
        self._returns_before.setdefault(key, self.returns.get(key))
        self.returns[key] = returned
        self.batch.returns.append(returned)
        self.closed_sessions.add(terms.session_id)
        self.batch.closed_sessions.add(terms.session_id)
        self._placed_before.setdefault(key, self.placed.get(key))
        del self.placed[key]
        self.batch.placed[key] = None
        self._seats_before.setdefault(key, pool.in_use)
        self._dropped.setdefault(key, pool)
        self.pools.drop(pool)
        self.meters.close(key)
        self._generation += 1
        return returned

    # ---------------------------------------------------------------- verbs: named users

    def assign_user(self, entitlement_id: str, user: str, *, actor: str, now: Now) -> None:
        """Give a free place to a user of the site's choice; again: changes nothing. Raises NotFound, Forbidden."""
        pool, placed = self._naming(entitlement_id)
        if not pool.entitlement.named_users.by_site:
            raise Forbidden(f"The vendor names the users of {entitlement_id}; ask for a bundle with other names.")
        if user.casefold() in pool.assigned | set(map(str.casefold, pool.entitlement.named_users.names)):
            return
        taken = len({*map(str.casefold, pool.entitlement.named_users.names), *pool.assigned})
        if pool.entitlement.seats is not None and taken >= pool.entitlement.seats:
            raise Forbidden(
                f"All {pool.entitlement.seats} places of {entitlement_id} have a name;"
                " take one back first (`lls entitlement unassign`)."
            )
        self._place_anew(replace(placed, assigned=(*placed.assigned, user)))
        self._note_name("named_user_assigned", entitlement_id, user, actor, now)

    def unassign_user(self, entitlement_id: str, user: str, *, actor: str, now: Now) -> None:
        """Take a place back; the user's leases end. Raises NotFound, Forbidden."""
        pool, placed = self._naming(entitlement_id)
        ours = user.casefold() in map(str.casefold, placed.assigned)
        theirs = user.casefold() in map(str.casefold, pool.entitlement.named_users.names)
        if theirs or not (ours or pool.entitlement.named_users.by_site):
            raise Forbidden(f"The vendor names the users of {entitlement_id}; ask for a bundle with other names.")
        if not ours:
            raise NotFound(f"{user} is not one of the users that this site has assigned to {entitlement_id}.")
        begin, end = month_of(_FIRST_OF_A_MONTH, now.wall)
        lately = tuple(at for at in placed.renamed_at if begin <= at < end)
        most = pool.entitlement.named_users.changes_per_month
        if len(lately) >= most and pool.entitlement.named_users.by_site:
            changes = "1 change" if most == 1 else f"{most} changes"
            raise Forbidden(
                f"The vendor allows {changes} of names a month for {entitlement_id};"
                f" the next one is possible from {end:%Y-%m-%d}."
            )
        left = tuple(one for one in placed.assigned if one.casefold() != user.casefold())
        self._place_anew(replace(placed, assigned=left, renamed_at=(*lately, now.wall)))
        self._note_name("named_user_removed", entitlement_id, user, actor, now)
        sitting = [one for one in pool.leases.values() if one.until is None and _is(one, user)]
        for lease in sitting:
            freed = self._unseat(lease, LeaseEnd.RELEASED, now)
            data = {"actor": self._posting.name("actor", actor), "reason": self._posting.name("reason", "unassigned")}
            self._post_end(Kind.RELEASED, lease, freed, now, **data)
        self._serve(pool.entitlement.product, now)

    def _naming(self, entitlement_id: str) -> tuple[Pool, Placed]:
        pool = self.pools.get(entitlement_id)
        if pool is None:
            raise NotFound(f"No entitlement {entitlement_id} is hosted here; `lls entitlement list` shows them.")
        if pool.entitlement.concurrency is not Concurrency.NAMED_USER:
            raise Forbidden(f"The seats of {entitlement_id} have no names: anybody may take one.")
        return pool, self.placed[entitlement_id]

    def _note_name(self, act: str, entitlement_id: str, user: str, actor: str, now: Now) -> None:
        named = self._posting.name("user", user)
        self.note_act(act, actor=actor, now=now, entitlement_id=entitlement_id, user=named)

    # ---------------------------------------------------------------- verbs: reports

    def seal(self, report_id: str, *, pseudonymised: bool, actor: str, now: Now) -> SealedReport:
        """Close the range after the last acknowledged line with a line of its own; the report ends with that line."""
        self.post_folded(now)
        before = self.server.acknowledged
        data = {"report_id": report_id, "from_seq": before.seq + 1, "actor": self._posting.name("actor", actor)}
        self._posting.post(Kind.REPORT_SEALED, data, now)
        report = SealedReport(
            report_id=report_id,
            from_seq=before.seq + 1,
            to_seq=self.head.seq,
            prev_head=before.hash,
            head=self.head.hash,
            made_at=now.wall,
            pseudonymised=pseudonymised,
        )
        self.reports[report_id] = report
        self.batch.reports.append(report)
        return report

    def acknowledge(self, receipt: Acknowledgement, *, usage_carry: str, actor: str, now: Now) -> bool:
        """Take in a receipt whose head was found in our chain; False when it was known already."""
        if receipt.receipt_id in self.receipts or receipt.up_to_seq <= self.server.acknowledged.seq:
            return False
        self._acknowledge(receipt, usage_carry, actor, now)
        return True

    def _acknowledge(self, receipt: Acknowledgement, usage_carry: str | None, actor: str, now: Now) -> None:
        report = self.reports.get(receipt.report_id)
        self.receipts.add(receipt.receipt_id)
        self.batch.receipts.add(receipt.receipt_id)
        self._posting.acknowledged(receipt, now, actor=actor)
        made_at = report.made_at if report is not None else receipt.made_at
        self._posting.set_facts({Fact.SYNC_FROM: write_instant(made_at)})
        if receipt.up_to_seq > self.server.acknowledged.seq:  # a chain_adopt beside it may have gone further
            self._posting.set_facts(
                {
                    Fact.ACKNOWLEDGED: str(receipt.up_to_seq),
                    Fact.ACKNOWLEDGED_HEAD: receipt.head,
                    Fact.USAGE_CARRY: usage_carry or "",
                }
            )

    # ---------------------------------------------------------------- verbs: what leaves the journal

    def archived(self, archive: ArchivedRange, *, actor: str, now: Now) -> None:
        """Note that a range is in an archive that was read back. Raises Forbidden where it may not leave."""
        last = self.archives[-1].end.seq if self.archives else 0
        if archive.from_seq != last + 1 or archive.end.seq > self._may_leave():
            raise Forbidden(
                "These lines must stay in the journal: they are not acknowledged, or not the next to leave."
            )
        lines = {"from_seq": str(archive.from_seq), "to_seq": str(archive.end.seq), "head": archive.end.hash}
        self.note_act("journal_archived", actor=actor, now=now, **lines)
        self.archives.append(archive)
        self.batch.archives.append(archive)

    def prune(self, upto: int) -> None:
        """Let lines up to this one go from the store. Raises Forbidden where they are not archived."""
        if not self.archives or upto > min(self.archives[-1].end.seq, self._may_leave()):
            raise Forbidden("These lines must stay in the journal: they are in no archive yet.")
        self.batch.prune_upto = upto

    def _may_leave(self) -> int:
        acknowledged, head = self.server.acknowledged.seq, self.head.seq
        return prunable(head=head, acknowledged=acknowledged, older_than=head, gaps=self.server.gaps)

    def watch_names(self) -> None:
        """Begin to look for names that nobody needs: those that lines are given from now on are needed."""
        self._posting.watch_names()

    def end_watch(self) -> None:
        """Enough was looked for."""
        self._posting.end_watch()

    def forget_names(self, commitments: AbstractSet[str]) -> int:
        """Drop the names behind these commitments, but for those that came again since the watch began; how many."""
        return self._posting.forget_names(commitments)

    def note_act(self, act: str, *, actor: str, now: Now, **ids: str) -> None:
        """Journal what an administrator did where no other line says it."""
        self._posting.post(Kind.ADMIN_ACTED, {"act": act, "actor": self._posting.name("actor", actor), **ids}, now)


def _is(lease: Lease, user: str) -> bool:
    return lease.holder.user is not None and lease.holder.user.casefold() == user.casefold()


def _refuse_too_long(meters: list[dict[str, object]]) -> None:
    """Judged before anything is posted. Raises TooLarge."""
    if len(json.dumps(meters)) > LONGEST_METERS:
        raise TooLarge(
            "The meters of this entitlement have more grants than a line of the journal can tell;"
            " ask the vendor for a bundle without the grants that are over, import it, then return the entitlement."
        )
