"""The journal: what happened, as a SHA-256 hash chain.

Rules (contract §3, *Journal line*)
1. A line is the RFC 8785 form of ``{at, data, hash, kind, prev, seq}``. ``hash`` is SHA-256, in hex, over the RFC 8785
   form of the same object without ``hash``; the first ``prev`` is 64 zeros; ``seq`` rises by one.
2. No personal and no free text enters a line: holders, actors and reasons enter as commitments.
3. ``data`` holds texts, integers, booleans, null, and lists and objects of them with ASCII keys. Under this restriction
   the standard library's encoder with sorted keys writes exactly the RFC 8785 form; a test compares it with a library
   (decision 0006). Floats are the one thing on which they differ, so there are none.

4. The chain has no gap, but after a restore a store may have one: the first ``Restored`` follows a line that only the
   vendor has (:func:`verify_after_gap`). Whoever reads stored lines goes by :func:`follow`.

It refuses to own what a kind means: the ledger posts entries, ``usage`` folds them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

from lls.faults import Refusal, RefusedDocument
from lls.licensing.fields import LARGEST, Fields, read_instant, write_instant

FIRST_PREV: Final = "0" * 64
LONGEST_LINE: Final = 4 * 1024 * 1024
"""No line is longer: an import of 10,000 entitlements fits."""


def _encoder() -> Callable[[Any], str]:
    """``JSONEncoder.encode`` makes its C encoder anew for every value, which is half of its time; keep one."""
    plain = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # an interpreter without the C accelerator
        return plain.encode
    encode = make(None, plain.default, json.encoder.encode_basestring, None, ":", ",", True, False, False)
    return lambda value: "".join(encode(value, 0))


_encode = _encoder()
_NOTHING: Final[Mapping[str, Any]] = {}
_MEMBERS = {"at", "data", "hash", "kind", "prev", "seq"}


class Kind(StrEnum):
    """What an entry says."""

    INSTALLED = "Installed"
    GRANTED = "Granted"
    RETURNED = "Returned"
    EXPIRED = "Expired"
    RELEASED = "Released"
    BORROWED = "Borrowed"
    STARTED = "Started"
    DENIED = "Denied"
    FEATURE_CHECKED_OUT = "FeatureCheckedOut"
    FEATURE_RETURNED = "FeatureReturned"
    USED = "Used"
    UNDONE = "Undone"
    GRANT_ENDED = "GrantEnded"
    OVERDRAFT = "Overdraft"
    CLOCK_BEHIND = "ClockBehind"
    CLOCK_JUMPED = "ClockJumped"
    CLOCK_HEALED = "ClockHealed"
    RESUMED = "Resumed"
    RESTORED = "Restored"
    DISTRUSTED = "Distrusted"
    UNBOUND = "Unbound"
    REBOUND = "Rebound"
    POLICY_CHANGED = "PolicyChanged"
    ADMIN_ACTED = "AdminActed"
    REPORT_SEALED = "ReportSealed"
    ACKNOWLEDGED = "Acknowledged"
    RETURNED_ENTITLEMENT = "ReturnedEntitlement"


class Entry(NamedTuple):
    """One posted line: its number, when, what, and the canonical bytes without a newline."""

    seq: int
    at: datetime
    kind: Kind
    data: Mapping[str, Any]
    hash: str
    line: bytes


class Head(NamedTuple):
    """The end of a chain: the last line's number and hash."""

    seq: int = 0
    hash: str = FIRST_PREV


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """The lines after ``after`` and up to ``upto`` (whose hash is ``head``) are with the vendor and not here."""

    after: int
    upto: int
    head: str


def entry(head: Head, *, at: datetime, kind: Kind, data: Mapping[str, Any]) -> Entry:
    """The entry that follows ``head``."""
    seq = head.seq + 1
    # The members are put together by hand in their sorted order, so that the data is encoded once for both forms.
    front = f'{{"at":"{write_instant(at)}","data":{_encode(data)},'
    back = f'"kind":"{kind}","prev":"{head.hash}","seq":{seq}}}'
    digest = hashlib.sha256((front + back).encode()).hexdigest()
    return Entry(seq=seq, at=at, kind=kind, data=data, hash=digest, line=f'{front}"hash":"{digest}",{back}'.encode())


def verify_line(line: bytes, *, after: Head) -> Mapping[str, Any]:
    """A line of somebody's journal that must follow ``after`` → the line as an object.

    Raises :class:`~lls.faults.RefusedDocument`: ``malformed`` when it is no canonical line or its hash does not fit its
    content, ``forked`` when it is whole and follows another line than ``after``.
    """
    return _verified(line, parse_line(line), after=after)


def _verified(line: bytes, read: Mapping[str, Any], *, after: Head) -> Mapping[str, Any]:
    # In a canonical line only its own member can look like this: inside a text the quotes are escaped, and behind it
    # stand no objects.
    front, _, back = line.rpartition(b'"hash":"')
    if hashlib.sha256(front + back[len(read["hash"]) + 2 :]).hexdigest() != read["hash"]:
        raise _malformed(after.seq + 1, "was changed: its hash does not fit its content")
    if read["seq"] != after.seq + 1:
        raise _malformed(after.seq + 1, f"is missing: line {read['seq']} stands in its place")
    if read["prev"] != after.hash:
        raise RefusedDocument(
            Refusal.FORKED, f"Journal line {read['seq']} does not follow line {after.seq} that we know."
        )
    return read


def parse_line(line: bytes) -> Mapping[str, Any]:
    """The line as an object of the right shape; the hash is not checked. Raises ``malformed``."""
    if len(line) > LONGEST_LINE:
        raise _malformed(None, "is too long")
    try:
        read = json.loads(line)
        canonical = isinstance(read, dict) and _encode(read).encode() == line
    except (ValueError, RecursionError):
        raise _malformed(None, "is no JSON") from None
    if not canonical or set(read) != _MEMBERS or not isinstance(read["data"], dict):
        raise _malformed(None, "is not in its canonical form")
    fields = Fields(read, place="journal line")
    fields.integer("seq", least=1, most=LARGEST)
    fields.instant("at")
    for key in ("kind", "prev", "hash"):
        fields.text(key, most=64)
    return dict(read)


def rechained(line: bytes, *, after: Head) -> Entry:
    """The same line behind another one: its number, ``prev`` and hash are new. The entry's ``data`` is left out."""
    read = json.loads(line)
    at = read_instant(read["at"], place="at")
    return entry(after, at=at, kind=Kind(read["kind"]), data=read["data"])._replace(data=_NOTHING)


def verify_after_gap(line: bytes, *, head: Head) -> Mapping[str, Any] | None:
    """A line that does not follow ``head`` by its number, and need not: here the journal goes on after a restore.

    None when it is no such line. It names ``head`` as the end of the backup and says itself which line it follows: the
    lines between are with the vendor, who said where to go on (decision 0021). Raises ``malformed``.
    """
    read = parse_line(line)
    if read["kind"] != Kind.RESTORED or read["seq"] <= head.seq + 1:
        return None
    backup = Fields(read["data"], place="data").object("backup")
    if (backup.integer("seq"), backup.text("head")) != (head.seq, head.hash):
        return None
    return verify_line(line, after=Head(seq=read["seq"] - 1, hash=read["prev"]))


def follow(line: bytes, *, head: Head) -> Head:
    """The chain's end after a stored line, the first behind a gap included. Raises as :func:`verify_line` does."""
    read = parse_line(line)
    behind = verify_after_gap(line, head=head) if read["kind"] == Kind.RESTORED else None
    return head_of(behind or _verified(line, read, after=head))


def head_of(line: Mapping[str, Any]) -> Head:
    """The chain's end after this parsed line."""
    return Head(seq=line["seq"], hash=line["hash"])


def _malformed(seq: int | None, complaint: str) -> RefusedDocument:
    which = "A journal line" if seq is None else f"Journal line {seq}"
    return RefusedDocument(Refusal.MALFORMED, f"{which} {complaint}.")
