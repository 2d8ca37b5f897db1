"""Takes a usage report in: checks it against everything known of its server, then stores what is new, once.

Judged in this order; the code repeats the numbers:

1. Archive, signature and hashes (:func:`lls.signed.report.open_report`), by the key that the server's request proved.
2. A report id seen before: the same report changes nothing; another one under its id is refused.
3. The range begins right behind a line that is stored: further on is a *gap*, behind another line is a fork.
4. Every line is canonical, follows the one before and is stamped within 400 days of the time in which the server was
   known here; a line that is stored already must be that very line, and is counted once. Where it is another one,
   ``explaining`` says what has happened at the site.
   Where a restored server was told to go on, its first line there must be its ``Restored``: what was written before
   the restore and comes only now belongs to a past that was closed.
5. The range ends with the report's own seal, at the manifest's head.
6. The usage table, recomputed from the lines, is the report's byte for byte: nobody edits a table on its way. The
   recomputation stops where it would grow beyond that table: two lines with a thousand years between them would
   otherwise give a table that no machine holds.
7. A commitment has one clear value, whatever report brings it.
8. What the new lines tell the register: the first lease that began a term (the vendor reckons its end from the plan, so
   that no server lengthens it), which of the vendor's commands were carried out, and why somebody was refused. A line
   about what this server never hosted changes no entitlement.

Everything happens inside one transaction, so a report that fails at its last line leaves nothing behind. Memory does
not grow with the report. It refuses to own prices and periods (``billing``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeAlias

from lls.faults import Refusal, RefusedDocument
from lls.issuer.explaining import Difference, Known, diverged, of_lost_past
from lls.issuer.history import Deed
from lls.issuer.lookup import server_in
from lls.issuer.noticing import Noticed
from lls.issuer.refusals import ReportProblem, ReportRefused
from lls.issuer.register import IngestedReport, Json, Register, Server, Sold
from lls.issuer.restoring import first_line_due, is_first_of
from lls.licensing.fields import Fields, read_instant, write_instant
from lls.licensing.journal import FIRST_PREV, Head, Kind, head_of, verify_line
from lls.licensing.policy_file import LONGEST_TEXT
from lls.licensing.usage import Fold, UsageLine, read_usage_csv, usage_csv
from lls.signed.jose import EncryptionKey
from lls.signed.report import Manifest, Report, open_report

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the lines done and the lines in all."""

_BATCH: Final = 2_000
_STRAY: Final = timedelta(days=400)
"""How far a server's clock may have been off: a mistyped year, and some."""
_LARGEST: Final = 2**63 - 1
_POLICY: Final = "policy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """What an ingest did: ``usage`` is of the new lines only; ``again`` when the report had been taken in before.

    ``begun`` are the entitlements whose first lease set their dates, ``applied`` the ids of commands carried out.
    """

    report: IngestedReport
    again: bool
    usage: tuple[UsageLine, ...] = ()
    names: int = 0
    begun: tuple[Sold, ...] = ()
    applied: tuple[str, ...] = ()


def ingest(
    path: Path,
    register: Register,
    *,
    report_key: EncryptionKey,
    now: datetime,
    server_id: str | None = None,
    progress: Progress = lambda _done, _all: None,
    claims: Callable[[str], None] = lambda _server_id: None,
) -> Ingested:
    """Takes the report in ``path`` in. Raises ReportRefused, RefusedDocument, and OSError of the file.

    ``server_id``: refuse a report of any other server. ``claims`` is told which server the report says to be of, before
    anything proves it.
    """

    def key_of(claimed: str) -> Mapping[str, object]:
        claims(claimed)
        return _key_of(register, claimed, server_id)

    with (
        open_report(path, report_key=report_key, server_jwk=key_of) as report,  # 1
        register.transaction(),
    ):
        return _take_in(report, register, now=now, progress=progress)


def _key_of(register: Register, claimed: str, expected: str | None) -> Mapping[str, object]:
    if expected is not None and claimed != expected:
        raise ReportRefused(
            ReportProblem.WRONG_SERVER, f"The report is from the server {claimed}, not from {expected}."
        )
    server = register.server(claimed)
    if server is None:
        raise ReportRefused(
            ReportProblem.UNKNOWN_SERVER,
            f"The report is from the server {claimed}, which is not registered here; it may be another vendor's.",
        )
    return server.signing_jwk


def _take_in(report: Report, register: Register, *, now: datetime, progress: Progress) -> Ingested:
    manifest = report.manifest
    known = register.report(manifest.report_id)
    if known is not None:  # 2
        return _again(known, manifest)
    _check_beginning(manifest, register)  # 3
    table = report.usage_csv()
    bounds = _Bounds.of(register.server(manifest.server_id), manifest, table, now=now)
    folded = _read_lines(report, register, bounds, progress=progress)  # 4, 5
    _check_table(folded.whole.lines(), table)  # 6
    names = _keep_names(report, register)  # 7
    ingested = IngestedReport(
        report_id=manifest.report_id,
        server_id=manifest.server_id,
        from_seq=manifest.from_seq,
        to_seq=manifest.to_seq,
        head=manifest.head,
        made_at=manifest.made_at,
        pseudonymised=manifest.pseudonymised,
        new_lines=folded.new_lines,
        ingested_at=now,
    )
    register.add_report(ingested)
    usage = tuple(folded.fresh.lines()) if folded.fresh else ()
    _check_amounts(usage)
    if folded.new_lines:
        register.add_carry(manifest.server_id, seq=manifest.to_seq, state=folded.whole.carry())
        register.add_usage(manifest.server_id, first_seq=manifest.to_seq - folded.new_lines + 1, lines=usage)
    begun, applied = folded.noticed.keep(register, server_id=manifest.server_id, now=now)  # 8
    _note(ingested, register, applied=applied, now=now)
    return Ingested(report=ingested, again=False, usage=usage, names=names, begun=begun, applied=applied)


def _note(report: IngestedReport, register: Register, *, applied: Sequence[str], now: datetime) -> None:
    server = register.server(report.server_id)
    told = {"from_seq": report.from_seq, "to_seq": report.to_seq, "head": report.head, "new_lines": report.new_lines}
    register.note(
        Deed.REPORT_INGESTED,
        at=now,
        customer_id=server.customer_id if server else None,
        server_id=report.server_id,
        what={"report_id": report.report_id, **told, "applied": list(applied)},
    )


def _again(known: IngestedReport, manifest: Manifest) -> Ingested:
    same = (known.server_id, known.from_seq, known.to_seq, known.head) == (
        manifest.server_id, manifest.from_seq, manifest.to_seq, manifest.head,
    )  # fmt: skip
    if not same:
        raise ReportRefused(
            ReportProblem.REPORT_ID_TAKEN,
            f"Another report was ingested under the id {manifest.report_id}; two copies of the server may be running.",
        )
    return Ingested(report=known, again=True)


def _check_beginning(manifest: Manifest, register: Register) -> None:
    end, _ = _end(register, manifest.server_id)
    first = manifest.from_seq
    if first == 1 and manifest.prev_head != FIRST_PREV:
        raise ReportRefused(
            ReportProblem.RANGE,
            "The report says that it begins at line 1, and names a line before it. No unchanged server writes that; "
            "talk to the site.",
        )
    if first > end + 1:
        raise ReportRefused(
            ReportProblem.GAP,
            f"{_lines(end + 1, first - 1)} missing from the server {manifest.server_id}: the report begins "
            f"at line {first}, and {f'line {end} is the last one here' if end else 'none is here yet'}. "
            f"Ask the site for the report that ends at line {first - 1}: lls report list shows it, lls report export "
            "--report ID writes it again. Ingest it together with this one.",
        )


def _lines(first: int, last: int) -> str:
    return f"Line {first} is" if first == last else f"Lines {first} to {last} are"


def _end(register: Register, server_id: str) -> tuple[int, str]:
    return register.journal_end(server_id) or (0, FIRST_PREV)


def _fork(register: Register, manifest: Manifest, *, seq: int, at: datetime, first: bool) -> ReportRefused:
    """The report's line ``seq`` is not the stored one; ``first``: those before it are."""
    server = server_in(register, manifest.server_id)
    end, _ = _end(register, server.server_id)
    last = next(register.journal_lines(server.server_id, first=end, last=end))
    known = Known(
        server_id=server.server_id,
        end=end,
        end_at=read_instant(json.loads(last)["at"], place="at"),
        request_seq=server.journal_seq,
        request_made_at=server.request_made_at,
    )
    return diverged(known, Difference(seq=seq, at=at, first=first, report_ends=manifest.to_seq))


@dataclass(slots=True, kw_only=True)
class _Folded:
    """``whole`` folds the report's range, ``fresh`` only the lines that are new; they are one where all are."""

    whole: Fold
    noticed: Noticed
    fresh: Fold | None = None
    new_lines: int = 0


@dataclass(slots=True, kw_only=True)
class _Bounds:
    """What one report may make of this machine, whoever signed it. ``rows``: how many its own table still has."""

    earliest: datetime
    latest: datetime
    rows: int
    before: datetime | None = None

    @classmethod
    def of(cls, server: Server | None, manifest: Manifest, table: bytes, *, now: datetime) -> _Bounds:
        since = now if server is None else min(server.registered_at, now)
        bounds = cls(earliest=since - _STRAY, latest=now + _STRAY, rows=table.count(b"\n"))
        bounds.check_instant(manifest.made_at, what="The report")
        return bounds

    def check_instant(self, at: datetime, *, what: str) -> None:
        if not self.earliest <= at <= self.latest:
            raise ReportRefused(
                ReportProblem.IMPLAUSIBLE,
                f"{what} is stamped {write_instant(at)}, and only {write_instant(self.earliest)} to "
                f"{write_instant(self.latest)} can be true of this server. Nothing was counted; ask the site about its "
                "clock.",
            )

    def check_line(self, line: Json, at: datetime, fold: Fold) -> None:
        """Before ``fold`` takes ``line``, stamped ``at``: each day that it closes gives a row for each meter in use."""
        if not self.earliest <= at <= self.latest:
            self.check_instant(at, what=f"Line {line['seq']} of the journal")
        if self.before is None:
            begun = fold.carry()["at"]
            self.before = at if begun is None else read_instant(begun, place="at")
        days = (at.date() - self.before.date()).days
        if days > 0:
            self.rows -= days * fold.levels
        if self.rows < 0:
            raise ReportRefused(
                ReportProblem.USAGE_DIFFERS,
                f"The report's usage.csv is not what its journal gives: at line {line['seq']} the journal gives more "
                "lines than the table has. Nothing was counted.",
            )
        self.before = max(at, self.before)


def _read_lines(report: Report, register: Register, bounds: _Bounds, *, progress: Progress) -> _Folded:
    manifest = report.manifest
    end, _ = _end(register, manifest.server_id)
    stored = register.journal_hashes(manifest.server_id, first=manifest.from_seq, last=min(end, manifest.to_seq))
    folded = _Folded(whole=_fold_before(manifest, register), noticed=Noticed.of(register, manifest.server_id))
    batch: list[tuple[int, str, bytes]] = []
    due = first_line_due(register, manifest.server_id)
    head = Head(seq=manifest.from_seq - 1, hash=manifest.prev_head)
    total = manifest.to_seq - head.seq
    line: Json = {}
    agrees = _begins_behind(manifest, register)
    for count, raw in enumerate(report.lines(), start=1):  # 4
        if head.seq >= manifest.to_seq:
            raise ReportRefused(
                ReportProblem.RANGE, f"The report goes on after line {manifest.to_seq}, where its range ends."
            )
        line = verify_line(raw, after=head)
        head, at = head_of(line), read_instant(line["at"], place="at")
        if not agrees or (head.seq <= end and next(stored) != head.hash):
            raise _fork(register, manifest, seq=head.seq, at=at, first=agrees)
        bounds.check_line(line, at, folded.whole)
        stamped = {"seq": head.seq, "at": at, "kind": line["kind"], "data": line["data"]}
        if head.seq <= end:
            folded.whole.step(stamped)
        else:
            if due is not None and head.seq == due[0] and not is_first_of(stamped, due[1]):
                raise of_lost_past(manifest.server_id, head.seq)
            _step_new(folded, stamped, server_id=manifest.server_id, overlaps=manifest.from_seq <= end)
            batch.append((head.seq, head.hash, raw))
        if len(batch) == _BATCH:
            register.add_journal(manifest.server_id, batch)
            batch.clear()
        if count % _BATCH == 0:
            progress(count, total)
    register.add_journal(manifest.server_id, batch)
    _check_end(manifest, head, line)  # 5
    progress(total, total)
    return folded


def _begins_behind(manifest: Manifest, register: Register) -> bool:
    first = manifest.from_seq
    return first == 1 or register.journal_hash(manifest.server_id, first - 1) == manifest.prev_head


def _step_new(folded: _Folded, line: Mapping[str, Any], *, server_id: str, overlaps: bool) -> None:
    if folded.fresh is None:
        folded.fresh = Fold(folded.whole.carry(), server_id=server_id) if overlaps else folded.whole
    folded.whole.step(line)
    if folded.fresh is not folded.whole:
        folded.fresh.step(line)
    folded.noticed.step(line)
    folded.new_lines += 1


def _fold_before(manifest: Manifest, register: Register) -> Fold:
    """The fold as it stood before the range: the nearest state kept, and the stored lines after it."""
    server_id, last = manifest.server_id, manifest.from_seq - 1
    seq, state = register.carry(server_id, up_to=last) or (0, None)
    if seq == last:
        return Fold(state, server_id=server_id)
    fold = Fold(state, server_id=server_id)
    for line in register.journal_lines(server_id, first=seq + 1, last=last):
        fold.step(json.loads(line))
    return Fold(fold.carry(), server_id=server_id)


def _check_end(manifest: Manifest, head: Head, line: Json) -> None:
    if (head.seq, head.hash) != (manifest.to_seq, manifest.head):
        raise ReportRefused(
            ReportProblem.RANGE,
            f"The report's lines end at line {head.seq}, and its manifest says that they end at line {manifest.to_seq} "
            "with another hash.",
        )
    data = line.get("data")
    sealed = isinstance(data, Mapping) and data.get("report_id") == manifest.report_id
    if line.get("kind") != Kind.REPORT_SEALED or not sealed:
        raise ReportRefused(
            ReportProblem.RANGE, f"Line {head.seq}, the report's last, does not seal the report {manifest.report_id}."
        )


def _check_table(computed: list[UsageLine], table: bytes) -> None:
    if usage_csv(computed) == table:
        return
    claimed = read_usage_csv(table)
    for n, (ours, theirs) in enumerate(zip(computed, claimed, strict=False), start=2):
        if ours != theirs:
            names = [name for name in UsageLine.__dataclass_fields__ if getattr(ours, name) != getattr(theirs, name)]
            where = f"line {n} says {names[0]} {getattr(theirs, names[0])}, the journal gives {getattr(ours, names[0])}"
            break
    else:
        where = f"it has {len(claimed)} lines, the journal gives {len(computed)}"
    raise ReportRefused(
        ReportProblem.USAGE_DIFFERS,
        f"The report's usage.csv is not what its journal gives: {where}. Nothing was counted.",
    )


def _check_amounts(usage: Iterable[UsageLine]) -> None:
    # Sums of amounts that are each within their limits; SQLite keeps 64 bits.
    for line in usage:
        for name in UsageLine.__dataclass_fields__:
            value = getattr(line, name)
            if isinstance(value, int) and abs(value) > _LARGEST:
                raise ReportRefused(
                    ReportProblem.IMPLAUSIBLE,
                    f"The journal gives {name} {value} for {line.day}, which cannot be true. Nothing was counted.",
                )


def _keep_names(report: Report, register: Register) -> int:
    count = 0
    for raw in report.names():
        name = _read_name(raw)
        commitment, field, value = (
            name.text("commitment", most=64),
            name.text("field", most=50),
            _named(name),
        )
        kept = register.add_name(report.manifest.server_id, commitment=commitment, field=field, value=value)
        if kept != value:
            raise ReportRefused(
                ReportProblem.NAMES_DIFFER,
                f"The report gives the commitment {commitment} another {field} than an earlier report did.",
            )
        count += 1
    return count


def _named(name: Fields) -> str:
    """What stands behind a commitment. A site policy is a text of many lines; everything else is a line."""
    if name.text("field", most=50) != _POLICY:
        return name.text("value", most=1_000)
    return name.content("value", most=LONGEST_TEXT)


def _read_name(raw: bytes) -> Fields:
    try:
        return Fields(json.loads(raw), place="names.ndjson")
    except (ValueError, RecursionError) as failure:
        raise RefusedDocument(Refusal.MALFORMED, "The report's names.ndjson holds a line that is no JSON.") from failure
