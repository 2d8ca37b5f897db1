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
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from lls.clock import Clock, Snapshot
from lls.faults import NotFound, Refusal, RefusedDocument, SetupFault
from lls.identity import Identity, host_components, new_id
from lls.licensing.changes import Fact, KeptBundle, Loaded, SealedReport
from lls.licensing.entitlement import Entitlement
from lls.licensing.fields import Fields, read_instant
from lls.licensing.instant import ClockState, Now
from lls.licensing.journal import Head, Kind, head_of, parse_line, verify_line
from lls.licensing.ledger import Ledger, Setting
from lls.licensing.terms import Acknowledgement, HostBinding, Installation, Outcome, ServerTerms
from lls.licensing.usage import Bucket, Fold, UsageLine, usage_csv
from lls.signed.bundle import Binding, BindingPolicy, Bundle, OpenedBundle, open_bundle, verify_stored
from lls.signed.capability import CapabilitySigner
from lls.signed.jose import unverified_payload
from lls.signed.keys import KeySet, read_key_set
from lls.signed.receipt import Receipt, read_receipt
from lls.signed.report import write_report
from lls.signed.request import make_request
from lls.store import Store
from lls.writer import Writer

T = TypeVar("T")

MOST_DENIALS: Final = 10_000

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPreview:
    """What the next report would carry."""

    from_seq: int
    to_seq: int
    lines: int
    kinds: Mapping[str, int]
    usage: list[UsageLine]


@dataclass(frozen=True, slots=True, kw_only=True)
class DenialLine:
    """A refusal as the administrator reads it; ``holder`` in clear where its name is known."""

    at: datetime
    code: str
    rule: str
    product: str
    entitlement_id: str | None
    holder: Mapping[str, str]
    seats: int
    in_use: int | None
    limit: int | None
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalCheck:
    """Whether the chain holds."""

    ok: bool
    lines: int
    first_seq: int
    last_seq: int
    head: str
    problem: str | None


@dataclass(frozen=True, slots=True)
class _Reset:
    """A clock reset whose commit is under way; whether it was written, the next load says."""

    commands: frozenset[str]
    before: Snapshot
    loop: asyncio.AbstractEventLoop


class Airgap:
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
    ) -> None:
        """``vendor_keys`` is the key set that was installed with the server: the anchor of all trust.

        Raises SetupFault when it is none.
        """
        self.identity, self.name, self.version = identity, name, version
        self.capabilities = CapabilitySigner(identity.signing, identity.server_id)
        self._store, self._clock, self._setting = store, clock, setting
        self._reports = state_dir / "reports"
        try:
            self._anchor = read_key_set(vendor_keys)
        except RefusedDocument as fault:
            raise SetupFault(f"The vendor's key set (trust.keys) is refused: {fault.detail}") from fault
        self._keys: dict[int, KeySet] = {self._anchor.version: self._anchor}
        self._newest: Bundle | None = None
        self._errand = asyncio.Lock()
        self._under_way: set[asyncio.Task[Any]] = set()
        self._resetting: _Reset | None = None
        self.writer: Writer

    # ---------------------------------------------------------------- at each start

    def build(self, loaded: Loaded, now: Now) -> Ledger:
        """A ledger from what the store loaded, with every stored bundle verified again.

        May run in a thread of its own. When it fails nothing here has changed. Raises SetupFault.
        """
        _check_head(loaded)
        self._check_identity(loaded)
        keys = _chain_of_key_sets(self._anchor, loaded.key_sets)
        bundles, problems = self._verified(_in_force(loaded), keys)
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
            terms=None if newest is None else _server_terms(newest),
            entitlements=entitlements,
            problems=broken,
            now=now,
            commit_to=self._commit_to,
            setting=self._setting,
            host=host_components(self.identity.server_id),
        )
        ledger.keep_key_sets({version: one.token for version, one in keys.items()})
        ledger.server.keep_id(self.identity.server_id)
        self._keys, self._newest = keys, newest
        self._settle_reset(loaded)
        return ledger

    def _check_identity(self, loaded: Loaded) -> None:
        """New keys beside an old history are a loss, not a first start: every bundle and certificate names the old."""
        kept = loaded.facts.get(Fact.SERVER_ID, self.identity.server_id)
        if kept != self.identity.server_id:
            raise SetupFault(
                f"The database is that of the server {kept}, and the keys beside it are those of"
                f" {self.identity.server_id}: put the keys folder back from your backup,"
                " or start with an empty state directory and ask your vendor for a new bundle."
            )

    def _settle_reset(self, loaded: Loaded) -> None:
        """A commit failed that carried a clock reset. Only what was loaded says whether it was written all the same."""
        reset, self._resetting = self._resetting, None
        if reset is None or reset.commands <= loaded.commands:
            return
        if _runs_here(reset.loop):
            self._clock.restore(reset.before)
        else:  # the clock belongs to the loop's thread
            reset.loop.call_soon_threadsafe(self._clock.restore, reset.before)

    def _verified(
        self, kept: Sequence[KeptBundle], keys: Mapping[int, KeySet]
    ) -> tuple[dict[str, Bundle], dict[str, str]]:
        bundles: dict[str, Bundle] = {}
        problems: dict[str, str] = {}
        for one in kept:
            try:
                bundles[one.bundle_id] = self._verify_again(one, keys.get(one.keys_version))
            except RefusedDocument as fault:
                problems[one.bundle_id] = fault.detail
                _log.error("bundle_distrusted", extra={"fields": {"bundle_id": one.bundle_id, "why": fault.detail}})
        return bundles, problems

    def _verify_again(self, kept: KeptBundle, keys: KeySet | None) -> Bundle:
        if keys is None:
            raise RefusedDocument(
                Refusal.SIGNATURE, f"Key set {kept.keys_version} of its import is not there any more."
            )
        server_id, jwk = self.identity.server_id, self.identity.signing.public_jwk()
        bundle = verify_stored(kept.jws, keys=keys, server_id=server_id, server_jwk=jwk)
        if bundle.bundle_id != kept.bundle_id:
            raise RefusedDocument(Refusal.SIGNATURE, "The stored bundle is another one than its row says.")
        return bundle

    def _commit_to(self, value: str) -> str:
        return hmac.digest(self.identity.site_key, value.encode(), "sha256").hex()

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
            host=host_components(self.identity.server_id),
            version=self.version,
            keys_version=self.keys_version,
            bundle_sequence=ledger.server.sequence_seen,
            sessions=sessions,
            made_at=self.writer.now().wall,
            seq=ledger.batch.before.seq,
            head=ledger.batch.before.hash,
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
                outcome = await self.writer.do(lambda ledger, at: self._install(ledger, installation, actor, at))
                self._took_in(opened, outcome)
            return Imported(bundle=bundle, outcome=outcome, dry_run=dry_run, keys_added=added)

        return await self._to_its_end(errand)

    async def _to_its_end(self, errand: Callable[[], Awaitable[T]]) -> T:
        """One at a time, in a task that nobody's going away cancels."""

        async def alone() -> T:
            async with self._errand:
                return await errand()

        task = asyncio.create_task(alone())
        self._under_way.add(task)  # the loop itself keeps weak references only
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

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
        known_head = carry = None
        if receipt is not None:
            known_head = await self._hash_of(receipt.up_to_seq)
            is_news = receipt.up_to_seq > self.writer.ledger.server.acknowledged.seq
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
            terms=_server_terms(bundle),
            entitlements=bundle.entitlements,
            commands={command.command_id: command.type for command in bundle.commands},
            key_sets=new,
            acknowledgement=receipt,
            known_head=known_head,
            usage_carry=carry,
        )

    def _install(self, ledger: Ledger, installation: Installation, actor: str, now: Now) -> Outcome:
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

    # ---------------------------------------------------------------- reports and receipts

    async def preview_report(self) -> ReportPreview:
        """Exactly what the next report would carry, but for the line that seals it."""
        ledger = self.writer.ledger
        after, upto = ledger.server.acknowledged.seq, ledger.batch.before.seq
        fold, kinds = self._fold(), Counter[str]()
        async for chunk in self._store.lines(after=after, upto=upto):
            kinds.update(await asyncio.to_thread(_step_all, fold, chunk))
        return ReportPreview(from_seq=after + 1, to_seq=upto, lines=kinds.total(), kinds=kinds, usage=fold.lines())

    async def export_report(self, *, pseudonymise: bool, actor: str) -> tuple[SealedReport, Path]:
        """Seal the range since the last acknowledged line and write its file. Raises StoreDown."""

        async def errand() -> tuple[SealedReport, Path]:
            report_id = new_id("rpt_")
            report = await self.writer.do(
                lambda ledger, now: ledger.seal(report_id, pseudonymised=pseudonymise, actor=actor, now=now)
            )
            return report, await self._write(report, self._fold())

        return await self._to_its_end(errand)

    async def report_file(self, report_id: str) -> tuple[SealedReport, Path]:
        """A sealed report's file again. Raises NotFound."""
        report = self.writer.ledger.reports.get(report_id)
        if report is None:
            raise NotFound(f"No report {report_id} was ever sealed here; `lls report list` shows them.")
        path = self._path(report)
        if path.exists():
            return report, path

        async def errand() -> tuple[SealedReport, Path]:
            fold = self._fold() if report.from_seq == self.writer.ledger.server.acknowledged.seq + 1 else None
            return report, await self._write(report, fold or await self._fold_from_the_start(report.from_seq - 1))

        return await self._to_its_end(errand)

    async def import_receipt(self, data: bytes, *, actor: str) -> tuple[Receipt, bool]:
        """Take in the vendor's acknowledgement; True when it was known already. Raises RefusedDocument, StoreDown."""

        async def errand() -> tuple[Receipt, bool]:
            receipt = read_receipt(data, self._keys[self.keys_version], self.identity.server_id)
            ledger = self.writer.ledger
            if receipt.receipt_id in ledger.receipts:
                return receipt, True
            # Also where more is acknowledged already: a clone's journal differs there too.
            if await self._hash_of(receipt.up_to_seq) != receipt.head:
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

    async def _write(self, report: SealedReport, fold: Fold) -> Path:
        loop = asyncio.get_running_loop()
        path = self._path(report)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        async for chunk in self._store.lines(after=report.from_seq - 1, upto=report.to_seq):
            await asyncio.to_thread(_step_all, fold, chunk)
        lines = self._store.lines(after=report.from_seq - 1, upto=report.to_seq)
        names = None if report.pseudonymised else self._names(report)
        key = self._newest.report_key if self._newest is not None else None
        await asyncio.to_thread(
            write_report,
            path,
            report_id=report.report_id,
            server_id=self.identity.server_id,
            from_seq=report.from_seq,
            to_seq=report.to_seq,
            prev_head=report.prev_head,
            head=report.head,
            made_at=report.made_at,
            lines=_pulled(lines, loop),
            usage_csv=usage_csv(fold.lines()),
            names=None if names is None else _pulled(names, loop),
            key=self.identity.signing,
            report_key=key,
        )
        return path

    async def _names(self, report: SealedReport) -> AsyncIterator[list[bytes]]:
        """What stands behind the range's commitments. A name may come again in a later chunk: memory stays bounded."""
        async for chunk in self._store.lines(after=report.from_seq - 1, upto=report.to_seq):
            wanted = await asyncio.to_thread(_commitments, chunk)
            found = await self._store.names(wanted, upto=report.to_seq)
            yield [_name_line(*name) for name in found]

    def _path(self, report: SealedReport) -> Path:
        return self._reports / f"{report.report_id}.llsreport"

    def _fold(self, bucket: Bucket = Bucket.DAY) -> Fold:
        """A fold that goes on from the last acknowledged line."""
        carry = self.writer.ledger.facts.get(Fact.USAGE_CARRY)
        return Fold(json.loads(carry) if carry else None, server_id=self.identity.server_id, bucket=bucket)

    async def _fold_from_the_start(self, upto: int, bucket: Bucket = Bucket.DAY) -> Fold:
        fold = Fold(server_id=self.identity.server_id, bucket=bucket)
        async for chunk in self._store.lines(after=0, upto=upto):
            await asyncio.to_thread(_step_all, fold, chunk)
        return Fold(fold.carry(), server_id=self.identity.server_id, bucket=bucket)

    async def _carry_at(self, seq: int) -> str:
        fold = self._fold()
        async for chunk in self._store.lines(after=self.writer.ledger.server.acknowledged.seq, upto=seq):
            await asyncio.to_thread(_step_all, fold, chunk)
        return json.dumps(fold.carry())

    async def _hash_of(self, seq: int) -> str | None:
        async for chunk in self._store.lines(after=seq - 1, upto=seq):
            return head_of(parse_line(chunk[0])).hash
        return None

    # ---------------------------------------------------------------- what the administrator asks

    async def usage(self, *, since: datetime | None, until: datetime | None, bucket: Bucket) -> list[UsageLine]:
        """Usage by day or hour between two instants; from the beginning, up to now."""
        ledger = self.writer.ledger
        acknowledged, upto = ledger.server.acknowledged.seq, ledger.batch.before.seq
        recent = since is not None and await self._store.seq_at(_floor(since)) >= acknowledged > 0
        fold = self._fold(bucket) if recent else Fold(server_id=self.identity.server_id, bucket=bucket)
        async for chunk in self._store.lines(after=acknowledged if recent else 0, upto=upto):
            await asyncio.to_thread(_step_all, fold, chunk)
        return [line for line in fold.lines() if _within(line, since, until)]

    async def denials(self, *, since: datetime | None, limit: int = MOST_DENIALS) -> list[DenialLine]:
        """Who was refused, and by which rule, oldest first: the newest ``limit`` lines, earlier ones are left out."""
        after = 0 if since is None else await self._store.seq_at(since)
        upto = self.writer.ledger.batch.before.seq
        found: deque[Mapping[str, Any]] = deque(maxlen=limit)
        async for chunk in self._store.lines(after=after, upto=upto):
            found += await asyncio.to_thread(_denials, chunk, limit)
        clear = await self._store.names({line["data"]["holder"] for line in found if line["data"]["holder"]}, upto=upto)
        return await asyncio.to_thread(_in_clear, found, clear)

    def journal(self, *, after: int, limit: int) -> AsyncIterator[list[bytes]]:
        """Committed lines after a number, at most ``limit``, in chunks."""
        return self._store.lines(after=after, upto=min(after + limit, self.writer.ledger.batch.before.seq))

    async def verify_journal(self) -> JournalCheck:
        """Check every line that is stored against the one before it."""
        head, lines, first = Head(), 0, 0
        try:
            async for chunk in self._store.lines(after=0, upto=self.writer.ledger.batch.before.seq):
                first = first or 1
                head = await asyncio.to_thread(_verify_all, chunk, head)
                lines += len(chunk)
        except RefusedDocument as fault:
            return JournalCheck(
                ok=False, lines=lines, first_seq=first, last_seq=head.seq, head=head.hash, problem=fault.detail
            )
        return JournalCheck(ok=True, lines=lines, first_seq=first, last_seq=head.seq, head=head.hash, problem=None)


# -------------------------------------------------------------------- what helps


def _check_head(loaded: Loaded) -> None:
    """A start with a broken last line would go on with a broken chain; nobody could tell it from a forgery later."""
    if loaded.last_line is None:
        whole = loaded.head == Head()
    else:
        try:
            line = parse_line(loaded.last_line)
            whole = (
                head_of(verify_line(loaded.last_line, after=Head(seq=line["seq"] - 1, hash=line["prev"])))
                == loaded.head
            )
        except RefusedDocument:
            whole = False
    if not whole:
        raise SetupFault(
            "The journal's last line does not fit the head of its chain: the database was changed or damaged."
            " Restore a backup, and tell your vendor."
        )


def _chain_of_key_sets(anchor: KeySet, stored: Mapping[int, str]) -> dict[int, KeySet]:
    """Every key set that is linked to the installed one, upwards and downwards, by root signatures."""
    chain = {anchor.version: anchor}
    version = anchor
    for number in range(anchor.version + 1, max(stored, default=0) + 1):
        if number not in stored:
            break
        try:
            version = chain[number] = version.successor(stored[number])
        except RefusedDocument as fault:
            _log.error("key_set_distrusted", extra={"fields": {"version": number, "why": fault.detail}})
            break
    newer = anchor
    for number in range(anchor.version - 1, 0, -1):
        if number not in stored:
            break
        try:
            older = read_key_set(stored[number])
            older.successor(newer.token)
        except RefusedDocument as fault:
            _log.error("key_set_distrusted", extra={"fields": {"version": number, "why": fault.detail}})
            break
        newer = chain[number] = older
    return chain


def _in_force(loaded: Loaded) -> list[KeptBundle]:
    """The bundles that somebody's terms come from; the others are known by their ids only."""
    ids = {placed.bundle_id for placed in loaded.placed} | {loaded.facts.get(Fact.TERMS_FROM)}
    return [kept for kept in loaded.bundles if kept.bundle_id in ids]


def _refuse_for(reason: Refusal, bundle: Bundle, at: datetime) -> None:
    """One end of a bundle's dates alone. Raises RefusedDocument."""
    try:
        bundle.check_dates(at)
    except RefusedDocument as fault:
        if fault.reason is reason:
            raise


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:  # a thread without a loop
        return False


def _server_terms(bundle: Bundle) -> ServerTerms:
    license_, customer = bundle.server_license, bundle.customer
    return ServerTerms(
        bundle_id=bundle.bundle_id,
        certificate=bundle.certificate.token,
        certificate_ends_at=bundle.certificate.not_after,
        products=frozenset(bundle.certificate.products),
        license_ends_at=license_.expires_at,
        sync_within=timedelta(days=license_.sync_within_days) if license_.sync_within_days else None,
        customer_id=customer.customer_id,
        customer_name=customer.name,
        account_ref=customer.account_ref,
        binding=_host_binding(license_.binding),
    )


def _host_binding(binding: Binding) -> HostBinding | None:
    if binding.policy is BindingPolicy.KEY_ONLY:
        return None
    return HostBinding(required=binding.required, components=binding.components, grace=binding.grace)


def _acknowledgement(receipt: Receipt) -> Acknowledgement:
    return Acknowledgement(
        receipt_id=receipt.receipt_id,
        report_id=receipt.report_id,
        up_to_seq=receipt.up_to_seq,
        head=receipt.head,
        made_at=receipt.made_at,
    )


def _step_all(fold: Fold, chunk: list[bytes]) -> Counter[str]:
    kinds = Counter[str]()
    for text in chunk:
        line = json.loads(text)
        fold.step(line)
        kinds[line["kind"]] += 1
    return kinds


def _verify_all(chunk: list[bytes], head: Head) -> Head:
    for line in chunk:
        head = head_of(verify_line(line, after=head))
    return head


def _commitments(chunk: list[bytes]) -> set[str]:
    """Every commitment in these lines: holders, actors and reasons."""
    found: set[str] = set()
    for text in chunk:
        data = json.loads(text)["data"]
        holder = data.get("holder")
        found.update(holder.values() if isinstance(holder, dict) else [holder] if holder else [])
        found.update(data[key] for key in ("actor", "reason") if isinstance(data.get(key), str))
    return found


def _name_line(commitment: str, field: str, value: str) -> bytes:
    line = {"commitment": commitment, "field": field, "value": value}
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode()


def _denials(chunk: list[bytes], limit: int) -> list[Mapping[str, Any]]:
    """The newest denials in these lines."""
    spoken = [line for line in chunk if b'"kind":"Denied"' in line]
    return [line for line in map(json.loads, spoken) if line["kind"] == Kind.DENIED][-limit:]


def _in_clear(found: deque[Mapping[str, Any]], names: list[tuple[str, str, str]]) -> list[DenialLine]:
    named: dict[str, dict[str, str]] = {}
    for commitment, field, value in names:
        named.setdefault(commitment, {})[field] = value
    return [_denial(line, named) for line in found]


def _denial(line: Mapping[str, Any], named: Mapping[str, Mapping[str, str]]) -> DenialLine:
    data = line["data"]
    return DenialLine(
        at=read_instant(line["at"], place="journal line"),
        code=data["code"],
        rule=data["rule"],
        product=data["product"],
        entitlement_id=data["entitlement_id"],
        holder=named.get(data["holder"] or "", {}),
        seats=data["seats"],
        in_use=data["in_use"],
        limit=data["limit"],
        count=data["count"],
    )


def _within(line: UsageLine, since: datetime | None, until: datetime | None) -> bool:
    return (since is None or line.period_end > since) and (until is None or line.period_start < until)


def _floor(at: datetime) -> datetime:
    return at.replace(hour=0, minute=0, second=0, microsecond=0)


def _pulled(chunks: AsyncIterator[list[bytes]], loop: asyncio.AbstractEventLoop) -> Iterator[bytes]:
    """The lines of an asynchronous source, for a thread that writes a file."""

    async def step() -> list[bytes] | None:
        return await anext(chunks, None)

    while (chunk := asyncio.run_coroutine_threadsafe(step(), loop).result()) is not None:
        yield from chunk
