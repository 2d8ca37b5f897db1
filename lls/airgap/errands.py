"""The errands over the air gap: bundles in, reports out, receipts in, and what the administrator asks of the journal.

Rules
1. One errand at a time: an import, an export and a receipt each see the ledger that the one before left. An errand
   runs to its end whatever becomes of who asked: a commit cannot be called back, so what follows it must happen too.
2. A document is verified whole (``signed``) before the ledger is asked; the ledger judges and applies in one verb, so
   in one transaction. A dry run is the same without the last step.
3. Every start verifies the stored bundles again, against the key set that was in force at their import. One that fails
   takes out its own entitlements only. The history is one identity's: with other keys there is no start.
4. A report is sealed in the journal first and written to its file afterwards. If the file is lost in between, it is
   made again from the journal: the same lines, the same signature (RFC 6979).
5. Long work over the journal runs in a thread, line by line, in bounded memory.
6. An import is never refused because this server's clock is wrong, as far as we can know that it is (design §3).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

from lls.airgap.reports import Reports
from lls.airgap.starting import chain_of_key_sets, check_head, check_identity, in_force, server_terms, verified
from lls.clock import Clock, Snapshot
from lls.faults import Refusal, RefusedDocument, Restored, SetupFault, UnknownLease
from lls.identity import Identity
from lls.licensing.changes import Fact, KeptBundle, Loaded, ReturnedEntitlement
from lls.licensing.denial import Denial
from lls.licensing.entitlement import Entitlement
from lls.licensing.fields import Fields
from lls.licensing.instant import ClockState, Now
from lls.licensing.journal import Entry, Head, rechained
from lls.licensing.ledger import Draining, Ledger, Seated, Setting
from lls.licensing.policy import Policy
from lls.licensing.policy_file import LONGEST_TEXT, read_policy
from lls.licensing.terms import Acknowledgement, Adoption, Command, Installation, Moved, Outcome
from lls.signed.borrow import lease_secret, make_grant, read_borrow_request, read_borrow_return
from lls.signed.bundle import Bundle, OpenedBundle, open_bundle
from lls.signed.capability import CapabilitySigner, read_own_loan
from lls.signed.jose import unverified_payload
from lls.signed.keys import KeySet, read_key_set
from lls.signed.receipt import Receipt, read_receipt
from lls.signed.request import Restore, make_request
from lls.signed.returned import make_return
from lls.store import Store

_log = logging.getLogger(__name__)


class ResettableClock(Clock, Protocol):
    """The guarded clock with the doors that only a vendor's bundle opens."""

    @property
    def raw(self) -> datetime:
        """What the machine says."""

    def raise_to(self, lower_bound: datetime) -> None:
        """An instant that has certainly passed."""

    def reset(self, mark: datetime) -> None:
        """Replace a mark that is wrong."""

    def accept(self) -> Now:
        """Believe a jump ahead now."""

    def snapshot(self) -> Snapshot:
        """All that it knows now."""

    def restore(self, before: Snapshot) -> None:
        """Undo a reset that was not committed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What a bundle changed, or would change."""

    bundle: Bundle
    outcome: Outcome
    dry_run: bool
    keys_added: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Reset:
    """A clock reset whose commit is under way; whether it was written, the next load says."""

    commands: frozenset[str]
    before: Snapshot
    loop: asyncio.AbstractEventLoop


@dataclass(frozen=True, slots=True, kw_only=True)
class Lent:
    """A lease that was lent by file, and the nonce that its capability must carry."""

    seated: Seated
    nonce: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChange:
    """What a reload of the site's policy changed: rule ids, how many there are now, and what is odd about them here."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    rules: int = 0
    doubts: tuple[str, ...] = ()


class Airgap(Reports):
    """The errands of one server; see the module."""

    def __init__(
        self,
        *,
        identity: Identity,
        name: str,
        version: str,
        vendor_keys: str,
        store: Store,
        clock: ResettableClock,
        state_dir: Path,
        setting: Setting,
        host: Callable[[], Mapping[str, str]],
        policy_file: Path | None = None,
        archive_dir: Path | None = None,
    ) -> None:
        """``vendor_keys`` is the key set that was installed with the server: the anchor of all trust.

        ``host`` reads the hashed parts of the machine as they are when it is called; none in a container.

        Raises SetupFault when it is none, or when the site's policy cannot be read.
        """
        super().__init__(identity=identity, store=store, state_dir=state_dir, archive_dir=archive_dir)
        self.name, self.version, self._host = name, version, host
        self.capabilities = CapabilitySigner(identity.signing, identity.server_id)
        self._clock, self._setting, self._policy_file = clock, setting, policy_file
        try:
            self._anchor = read_key_set(vendor_keys)
        except RefusedDocument as fault:
            raise SetupFault(f"The vendor's key set (trust.keys) is refused: {fault.detail}") from fault
        self._keys: dict[int, KeySet] = {self._anchor.version: self._anchor}
        self._resetting: _Reset | None = None
        try:
            self.policy_text = self._read_policy_file()
            read_policy(self.policy_text)
        except RefusedDocument as fault:
            told = fault.problems
            words = f"{len(told)} problems; nothing was started." if len(told) > 1 else fault.detail
            raise SetupFault(
                f"The site policy (policy.file) is refused: {words}", problems=told[1:] and told
            ) from fault

    # ---------------------------------------------------------------- at each start

    def build(self, loaded: Loaded, now: Now) -> Ledger:
        """A ledger from what the store loaded, with every stored bundle verified again.

        May run in a thread of its own. When it fails nothing here has changed. Raises SetupFault.
        """
        check_head(loaded)
        check_identity(self.identity, loaded)
        keys = chain_of_key_sets(self._anchor, loaded.key_sets)
        bundles, problems = verified(self.identity, in_force(loaded), keys)
        said = {key: {one.entitlement_id: one for one in bundle.entitlements} for key, bundle in bundles.items()}
        entitlements: dict[str, Entitlement] = {}
        broken: dict[str, str] = {}
        for placed in loaded.placed:
            terms = said.get(placed.bundle_id, {}).get(placed.entitlement_id)
            if terms is None or terms.sequence != placed.sequence:
                broken[placed.entitlement_id] = problems.get(placed.bundle_id, "its stored bundle does not name it")
            else:
                entitlements[placed.entitlement_id] = terms
        newest = bundles.get(loaded.facts.get(Fact.TERMS_FROM, ""))
        ledger = Ledger(
            loaded,
            terms=None if newest is None else server_terms(newest),
            entitlements=entitlements,
            problems=broken,
            now=now,
            commit_to=self._commit_to,
            setting=self._setting,
            host=self._host(),
            policy=_policy_in_force(loaded),
        )
        ledger.keep_key_sets({version: one.token for version, one in keys.items()})
        ledger.server.keep_id(self.identity.server_id)
        self._keys, self._newest = keys, newest
        self._settle_reset(loaded)
        return ledger

    def _settle_reset(self, loaded: Loaded) -> None:
        """A commit failed that carried a clock reset. Only what was loaded says whether it was written all the same."""
        reset, self._resetting = self._resetting, None
        if reset is None or reset.commands <= loaded.commands:
            return
        if _runs_here(reset.loop):
            self._clock.restore(reset.before)
        else:  # the clock belongs to the loop's thread
            reset.loop.call_soon_threadsafe(self._clock.restore, reset.before)

    def _commit_to(self, value: str) -> str:
        return hmac.digest(self.identity.site_key, value.encode(), "sha256").hex()

    # ---------------------------------------------------------------- the machine

    async def look_at_host(self) -> None:
        """Parts may be exchanged while we run: post what that means, ``Unbound`` or ``Rebound``. Raises StoreDown."""
        host = await asyncio.to_thread(self._host)

        def look(ledger: Ledger, now: Now) -> None:
            ledger.server.host = host
            ledger.server.note_binding(now=now)

        await self.writer.do(look)

    # ---------------------------------------------------------------- what clients may have

    def certificate(self) -> str | None:
        """The newest server certificate, as the vendor signed it."""
        return None if self._newest is None else self._newest.certificate.token

    def key_sets(self, since: int) -> list[str]:
        """The vendor's key sets after a version, in order."""
        return [keys.token for version, keys in sorted(self._keys.items()) if version > since]

    @property
    def keys_version(self) -> int:
        """The newest key set's version."""
        return max(self._keys)

    @property
    def newest_keys(self) -> KeySet:
        """The key set by which the next bundle is judged."""
        return self._keys[self.keys_version]

    @property
    def customer(self) -> Mapping[str, str] | None:
        """Whose server this is, as the newest bundle says."""
        if self._newest is None:
            return None
        customer = self._newest.customer
        return {"customer_id": customer.customer_id, "name": customer.name, "account_ref": customer.account_ref}

    # ---------------------------------------------------------------- bundles

    def request(self) -> bytes:
        """The activation request: who we are and how far we have come, for the vendor."""
        ledger = self.writer.ledger
        sessions = sorted({placed.session_id for placed in ledger.placed.values()} - ledger.closed_sessions)
        return make_request(
            server_id=self.identity.server_id,
            name=self.name,
            signing_key=self.identity.signing,
            encryption_jwk=self.identity.encryption.public_jwk(),
            host=self._host(),
            version=self.version,
            keys_version=self.keys_version,
            bundle_sequence=ledger.server.sequence_seen,
            sessions=sessions,
            made_at=self.writer.now().wall,
            seq=ledger.batch.before.seq,
            head=ledger.batch.before.hash,
            restores=[Restore(one.restore_id, one.seq, one.head) for one in ledger.server.restores],
        ).encode("ascii")

    async def import_bundle(self, data: bytes, *, actor: str, dry_run: bool) -> Imported:
        """Verify a bundle and apply it, or show what it would change. Raises RefusedDocument, StoreDown."""

        async def errand() -> Imported:
            opened = await asyncio.to_thread(self._open, data)
            bundle, now = opened.bundle, self.writer.now()
            await self._check_dates(opened, now=now, dry_run=dry_run)
            installation = await self._installation(opened, now=now)
            added = tuple(version for version in installation.key_sets if version not in self._keys)
            if dry_run:
                outcome = self.writer.ledger.preview(installation, now=now)
            else:
                host = await asyncio.to_thread(self._host)
                outcome = await self._applied(installation, actor, host)
                self._took_in(opened, outcome)
            return Imported(bundle=bundle, outcome=outcome, dry_run=dry_run, keys_added=added)

        return await self._to_its_end(errand)

    async def _applied(self, installation: Installation, actor: str, host: Mapping[str, str]) -> Outcome:
        answer = self._answer(installation.commands)
        if answer is not None and installation.adopted_hash != answer.onto.hash:
            installation = replace(installation, moved=await self._moved(answer))
        try:
            return await self.writer.do(lambda ledger, at: self._install(ledger, installation, actor, host, at))
        finally:
            self.writer.ledger.keep_tail(keep=False)

    def _open(self, data: bytes) -> OpenedBundle:
        return open_bundle(
            data,
            encryption_key=self.identity.encryption,
            server_id=self.identity.server_id,
            keys=self._keys[self.keys_version],
            server_jwk=self.identity.signing.public_jwk(),
        )

    async def _check_dates(self, opened: OpenedBundle, *, now: Now, dry_run: bool) -> None:
        """A bundle must be importable on a server whose guarded clock is wrong, in either direction.

        While *behind*, the machine's word counts for the end, and for the beginning nobody's: the issue time itself is
        the trusted lower bound (a dead battery reads 1970). While *jumped*, what is the right time is open: the later
        one counts for the beginning, the earlier one for the end.
        """
        bundle = opened.bundle
        if bundle.bundle_id in self.writer.ledger.bundles:
            return  # the very file again, or a replay: the ledger tells them apart
        behind = now.state is ClockState.BEHIND
        latest = self._clock.raw if behind else now.wall
        try:
            opened.keys.check_expiry(latest)
            if not behind:
                _refuse_for(Refusal.NOT_YET_VALID, bundle, now.strict)
            _refuse_for(Refusal.EXPIRED, bundle, latest)
        except RefusedDocument as fault:
            if fault.reason is Refusal.EXPIRED and not dry_run:
                # It was genuine: whatever is older must not come in after it.
                await self.writer.do(lambda ledger, _now: ledger.server.remember_sequence(bundle.sequence))
            raise

    async def _installation(self, opened: OpenedBundle, *, now: Now) -> Installation:
        bundle = opened.bundle
        new = {read_key_set(token).version: token for token in opened.key_sets}
        receipt = None if bundle.receipt is None else self._read_receipt(bundle.receipt, opened.keys)
        commands = {command.command_id: command.order for command in bundle.commands}
        answer = self._answer(commands)
        known_head = carry = adopted_hash = adopted_carry = None
        if answer is not None:
            adopted_hash = await self._hash_of(answer.onto.seq)
            if adopted_hash == answer.onto.hash and answer.onto.seq > self.writer.ledger.server.acknowledged.seq:
                adopted_carry = await self._carry_at(answer.onto.seq)
        if receipt is not None:
            is_news = receipt.up_to_seq > self.writer.ledger.server.acknowledged.seq
            known_head = await self._head_known(receipt)
            if answer is not None and receipt.up_to_seq <= answer.onto.seq:
                # The answer comes first, and with it all that the vendor had taken in.
                known_head, is_news = receipt.head, False
            carry = await self._carry_at(receipt.up_to_seq) if is_news and known_head == receipt.head else None
        return Installation(
            kept=KeptBundle(
                bundle_id=bundle.bundle_id,
                sequence=bundle.sequence,
                keys_version=opened.keys.version,
                issued_at=bundle.issued_at,
                imported_at=now.wall,
                digest=hashlib.sha256(opened.jws.encode()).hexdigest(),
                jws=opened.jws,
            ),
            terms=server_terms(bundle),
            entitlements=bundle.entitlements,
            commands=commands,
            key_sets=new,
            acknowledgement=receipt,
            known_head=known_head,
            usage_carry=carry,
            adopted_hash=adopted_hash,
            adopted_carry=adopted_carry,
        )

    def _answer(self, commands: Mapping[str, Command]) -> Adoption | None:
        """The vendor's answer to our last restore, when it is among these."""
        restores = self.writer.ledger.server.restores
        answers = [one.adoption for one in commands.values() if one.adoption is not None]
        return next((one for one in answers if restores and one.restore_id == restores[-1].restore_id), None)

    async def _moved(self, answer: Adoption) -> Moved:
        """Our lines since the backup, chained anew behind the vendor's last one; later ones the ledger keeps."""
        keep, entries = answer.keep_seq or 0, list[Entry]()
        upto = await self.writer.do(lambda ledger, _now: ledger.keep_tail(keep=True))
        head = answer.onto
        async for chunk in self._store.lines(after=keep, upto=upto):
            entries += await asyncio.to_thread(_chained_anew, chunk, head)
            head = Head(seq=entries[-1].seq, hash=entries[-1].hash)
        return Moved(upto=upto, entries=entries)

    def _install(
        self, ledger: Ledger, installation: Installation, actor: str, host: Mapping[str, str], now: Now
    ) -> Outcome:
        ledger.server.host = host  # a bundle for the machine as it is now must not be judged by what was there before
        outcome = ledger.install(installation, actor=actor, now=now)
        if outcome.clock_reset_to is not None:
            # In the verb, so that the lowered mark is written by the very transaction that marks the command as
            # applied.
            before, loop = self._clock.snapshot(), asyncio.get_running_loop()
            self._resetting = _Reset(frozenset(outcome.commands), before, loop)
            self._clock.reset(outcome.clock_reset_to)
        return outcome

    def _took_in(self, opened: OpenedBundle, outcome: Outcome) -> None:
        self._resetting = None
        if outcome.already_applied:
            return
        new = [read_key_set(token) for token in opened.key_sets]
        self._keys, self._newest = self._keys | {keys.version: keys for keys in new}, opened.bundle
        if outcome.clock_reset_to is None:
            self._clock.raise_to(opened.bundle.issued_at)

    async def bundles(self) -> list[KeptBundle]:
        """Every bundle ever applied, newest first."""
        return await self._store.bundles()

    async def accept_clock(self, *, actor: str) -> None:
        """The administrator says that a clock which jumped ahead is right. Raises StoreDown; changes nothing else."""

        def accept(ledger: Ledger, _now: Now) -> None:
            accepted = self._clock.accept()
            ledger.note_act("clock_accepted", actor=actor, now=accepted)
            ledger.server.note_clock(now=accepted)

        await self.writer.do(accept)

    # ---------------------------------------------------------------- the site's policy

    def govern(self, ledger: Ledger, now: Now) -> None:
        """At the start: the policy that was read with the settings."""
        policy = read_policy(self.policy_text)
        ledger.govern(policy, text=self.policy_text, actor="start", now=now)
        for doubt in policy.doubts(ledger.pools):
            _log.warning("policy_doubtful", extra={"fields": {"why": doubt}})

    async def reload_policy(self, *, actor: str) -> PolicyChange:
        """Read the policy's file again and put it in force, or leave the present one. Raises RefusedDocument."""

        async def errand() -> PolicyChange:
            text = await asyncio.to_thread(self._read_policy_file)
            policy = await asyncio.to_thread(read_policy, text)
            doubts = policy.doubts(self.writer.ledger.pools)
            if doubts and self.writer.ledger.pools:
                detail = f"The site policy was not taken: {' '.join(doubts)}"
                raise RefusedDocument(Refusal.MALFORMED, detail, problems=tuple(doubts))
            added, removed = await self.writer.do(
                lambda ledger, now: ledger.govern(policy, text=text, actor=actor, now=now)
            )
            self.policy_text = text
            _log.info("policy_loaded", extra={"fields": {"rules": len(policy.rules), "added": len(added)}})
            return PolicyChange(
                added=tuple(added), removed=tuple(removed), rules=len(policy.rules), doubts=tuple(doubts)
            )

        return await self._to_its_end(errand)

    def _read_policy_file(self) -> str:
        """The text; empty where none is named. Raises RefusedDocument."""
        path = self._policy_file
        if path is None:
            return ""
        try:
            # Without O_NONBLOCK a pipe in the file's place would hold this errand, and every later one, for ever.
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise RefusedDocument(Refusal.MALFORMED, f"{path} is not a file.")
                data = file.read(LONGEST_TEXT + 1)
            if len(data) > LONGEST_TEXT:
                raise RefusedDocument(Refusal.TOO_LARGE, f"{path} is larger than {LONGEST_TEXT} bytes.")
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise RefusedDocument(Refusal.MALFORMED, f"{path} is not UTF-8.") from None
        except OSError as error:
            raise RefusedDocument(Refusal.MALFORMED, f"{path} cannot be read: {error.strerror}.") from error

    # ---------------------------------------------------------------- seats that leave, entitlements that go back

    async def grant_borrow(self, data: bytes, *, actor: str) -> Lent | Denial:
        """Lend a seat to the machine that signed this request. Raises RefusedDocument and what a checkout raises."""

        async def errand() -> Lent | Denial:
            asked = await asyncio.to_thread(read_borrow_request, data)

            def verb(ledger: Ledger, now: Now) -> Seated | Denial:
                seated = ledger.grant_borrow(
                    asked.as_checkout(), until=asked.until, fingerprint=asked.fingerprint, key=asked.jkt, now=now
                )
                if isinstance(seated, Seated) and not seated.again:
                    ledger.note_act("borrow_granted", actor=actor, now=now, lease_id=seated.lease.lease_id)
                return seated

            verdict = await self.writer.do(verb)
            return verdict if isinstance(verdict, Denial) else Lent(seated=verdict, nonce=asked.nonce)

        return await self._to_its_end(errand)

    def grant_document(self, *, capability: str, lease: Mapping[str, object]) -> bytes:
        """The file for the machine: the capability, what proves it, and the lease to look at."""
        certificate = self.certificate() or ""
        return make_grant(capability=capability, certificate=certificate, keys=self.key_sets(1), lease=lease)

    async def take_up(self, capability: str, *, lease_id: str, secret: bytes) -> None:
        """Count a loan that the backup does not know, on our own signed word for it; nothing where there is none such.

        Raises RefusedDocument when the capability is not ours or not this lease's.
        """
        if not self.writer.ledger.server.lost_times:
            return
        shown = read_own_loan(capability, key=self.identity.signing.public, server_id=self.identity.server_id)
        if shown.lease_id != lease_id or shown.key is not None:
            raise RefusedDocument(Refusal.AUDIENCE, "The capability is of another lease, or of one that goes by file.")
        with suppress(UnknownLease):  # whoever asks for the lease next is told so
            await self.writer.do(lambda ledger, now: ledger.take_up(shown, secret=secret, now=now))

    async def return_borrow(self, data: bytes, *, actor: str) -> str:
        """Take a seat back on its machine's signed word; the lease's id. Raises RefusedDocument, UnknownLease."""

        async def errand() -> str:
            word = await asyncio.to_thread(read_borrow_return, data, server_id=self.identity.server_id)
            secret = lease_secret(word.jkt)

            def verb(ledger: Ledger, now: Now) -> None:
                if ledger.return_borrow(word.lease_id, key=word.jkt, secret=secret, now=now):
                    ledger.note_act("borrow_returned", actor=actor, now=now, lease_id=word.lease_id)

            await self.writer.do(verb)
            return word.lease_id

        return await self._to_its_end(errand)

    async def return_entitlement(self, entitlement_id: str, *, force: bool, actor: str) -> Draining | str:
        """Let an entitlement go: the signed return, or how many leases it still waits for. Raises NotFound."""

        async def errand() -> Draining | str:
            verdict = await self.writer.do(
                lambda ledger, now: ledger.return_entitlement(entitlement_id, force=force, actor=actor, now=now)
            )
            return verdict if isinstance(verdict, Draining) else await asyncio.to_thread(self._return, verdict)

        return await self._to_its_end(errand)

    def _return(self, returned: ReturnedEntitlement) -> str:
        return make_return(
            server_id=self.identity.server_id,
            entitlement_id=returned.entitlement_id,
            session_id=returned.session_id,
            up_to_seq=returned.up_to_seq,
            head=returned.head,
            meters=json.loads(returned.meters),
            borrowed_until=returned.borrowed_until,
            made_at=returned.made_at,
            key=self.identity.signing,
        )

    async def keep_entitlement(self, entitlement_id: str, *, actor: str) -> None:
        """Stop returning it. Raises NotFound."""
        await self.writer.do(lambda ledger, now: ledger.keep_entitlement(entitlement_id, actor=actor, now=now))

    async def assign_user(self, entitlement_id: str, user: str, *, actor: str) -> None:
        """Give a named place to a user. Raises NotFound, Forbidden."""
        await self.writer.do(lambda ledger, now: ledger.assign_user(entitlement_id, user, actor=actor, now=now))

    async def unassign_user(self, entitlement_id: str, user: str, *, actor: str) -> None:
        """Take it back. Raises NotFound, Forbidden."""
        await self.writer.do(lambda ledger, now: ledger.unassign_user(entitlement_id, user, actor=actor, now=now))

    # ---------------------------------------------------------------- receipts

    async def import_receipt(self, data: bytes, *, actor: str) -> tuple[Receipt, bool]:
        """Take in the vendor's acknowledgement; True when it was known already. Raises RefusedDocument, StoreDown."""

        async def errand() -> tuple[Receipt, bool]:
            receipt = read_receipt(data, self._keys[self.keys_version], self.identity.server_id)
            ledger = self.writer.ledger
            if receipt.receipt_id in ledger.receipts:
                return receipt, True
            # Also where more is acknowledged already: a clone's journal differs there too.
            if await self._head_known(_acknowledgement(receipt)) != receipt.head:
                if ledger.server.restored:
                    raise Restored(
                        f"The receipt acknowledges line {receipt.up_to_seq}, which the backup does not have. Carry a"
                        " request to the vendor (lls server request) and import the bundle that answers it."
                    )
                await self.writer.do(lambda ledger, _now: ledger.server.mark_forked())
                raise RefusedDocument(
                    Refusal.FORKED,
                    f"The receipt acknowledges line {receipt.up_to_seq} of another journal than this server's:"
                    " two copies of this server exist, or it was put back to an older state. Tell your vendor.",
                )
            if receipt.up_to_seq <= ledger.server.acknowledged.seq:
                return receipt, True
            carry = await self._carry_at(receipt.up_to_seq)
            taken = _acknowledgement(receipt)
            await self.writer.do(lambda ledger, now: ledger.acknowledge(taken, usage_carry=carry, actor=actor, now=now))
            return receipt, False

        return await self._to_its_end(errand)

    def _read_receipt(self, token: str, keys: KeySet) -> Acknowledgement | None:
        """The receipt inside a bundle; None when it is known: what signed it then may have been rotated out since."""
        claimed = Fields(unverified_payload(token), place="receipt")
        if claimed.id("receipt_id", "rcp_") in self.writer.ledger.receipts:
            return None
        return _acknowledgement(read_receipt(token, keys, self.identity.server_id))


# -------------------------------------------------------------------- what helps


def _refuse_for(reason: Refusal, bundle: Bundle, at: datetime) -> None:
    """One end of a bundle's dates alone. Raises RefusedDocument."""
    try:
        bundle.check_dates(at)
    except RefusedDocument as fault:
        if fault.reason is reason:
            raise


def _chained_anew(chunk: list[bytes], head: Head) -> list[Entry]:
    entries: list[Entry] = []
    for line in chunk:
        entries.append(rechained(line, after=head))
        head = Head(seq=entries[-1].seq, hash=entries[-1].hash)
    return entries


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:  # a thread without a loop
        return False


def _acknowledgement(receipt: Receipt) -> Acknowledgement:
    return Acknowledgement(
        receipt_id=receipt.receipt_id,
        report_id=receipt.report_id,
        up_to_seq=receipt.up_to_seq,
        head=receipt.head,
        made_at=receipt.made_at,
    )


def _policy_in_force(loaded: Loaded) -> Policy:
    """The policy of the last commit. One that this version cannot read any more is replaced at the start."""
    try:
        return read_policy(loaded.facts.get(Fact.POLICY, ""))
    except RefusedDocument as fault:
        _log.warning("policy_doubtful", extra={"fields": {"why": fault.detail}})
        return Policy()
