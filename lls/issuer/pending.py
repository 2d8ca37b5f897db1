"""A document that waits for signatures: one file, passed from person to person, and sealed where it was made.

    office   bundle issue --unsigned -o FILE.pending      what is to be signed, nobody's signature on it
    each     bundle sign FILE.pending --key KEY           reads what it says, adds one signature
    office   bundle seal FILE.pending -o FILE.llsbundle   the threshold is met

It is JSON: the papers as they will be signed, each with the signatures so far, the key set whose keys decide, and until
when it may be signed. A bundle has two papers where its certificate is new and its makers are not all here: the
certificate first, and the bundle once that is complete, because a bundle carries its certificate word for word.

Rules
1. Its *fingerprint* is the SHA-256 over everything but the signatures. It stands in the file, so that a slip is found;
   the office has it in its register, so that sealing finds everything else; and people compare it over the telephone,
   because a file that nobody has signed yet proves nothing.
2. Every signature in it must be right and by a key that decides. One that is not refuses the file.
3. A key signs once. It must have a role in the key set that the file names, and the file's time must not be over.
4. A key set is decided by the roots of the version before and by its own (design §4); everything else by the role of
   its paper in the key set in force.
5. A paper with one signature becomes a compact JWS, which any library reads; a key set stays general JSON.

Pure: keys, time and ids are passed in. It refuses to own what the papers mean (``telling``) and where they are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from lls.faults import RefusedDocument
from lls.issuer.refusals import PendingRefused, SignaturesMissing
from lls.licensing.fields import Fields, write_instant
from lls.signed import bundle, certificate, keys, receipt
from lls.signed.encoding import Json, b64encode, members, read_json, write_json
from lls.signed.jose import MOST_SEALED, MOST_SIGNATURES, Signer, protected_header, sign_compact, signers_of
from lls.signed.keys import KeySet, read_key_set, unsigned_key_set

FORMAT: Final = 1
LIFE: Final = timedelta(days=14)
"""How long people have to sign, unless the office says otherwise."""
LARGEST_FILE: Final = MOST_SEALED


class Kind(StrEnum):
    """What becomes of it in the end."""

    BUNDLE = "bundle"
    RECEIPT = "receipt"
    KEYS = "keys"


_FORMS: Final[Mapping[str, tuple[str, str]]] = {
    "certificate": ("certificate", certificate.TYP),
    "bundle": ("bundle", bundle.TYP),
    "receipt": ("bundle", receipt.TYP),
    "keys": ("root", keys.TYP),
}
"""Paper -> the role that decides, and the JWS type."""
_ORDERS: Final[Mapping[Kind, tuple[tuple[str, ...], ...]]] = {
    Kind.BUNDLE: (("bundle",), ("certificate", "bundle")),
    Kind.RECEIPT: (("receipt",),),
    Kind.KEYS: (("keys",),),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """One document and its signatures; ``signatures`` are members of a general JWS (RFC 7515 §7.2.1)."""

    name: str
    payload: Json
    signatures: tuple[Mapping[str, str], ...] = ()

    @property
    def role(self) -> str:
        """Whose keys decide."""
        return _FORMS[self.name][0]

    @property
    def typ(self) -> str:
        """Its JWS type."""
        return _FORMS[self.name][1]

    @property
    def kids(self) -> tuple[str, ...]:
        """The keys that say to have signed it."""
        return tuple(str(protected_header(one)["kid"]) for one in self.signatures)

    @property
    def token(self) -> str:
        """It with its signatures, by rule 5."""
        body = b64encode(write_json(self.payload))
        if len(self.signatures) == 1 and self.name != "keys":
            (one,) = self.signatures
            return f"{one['protected']}.{body}.{one['signature']}"
        return write_json({"payload": body, "signatures": list(self.signatures)}).decode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """How many signatures of a role are there, of how many."""

    paper: str
    role: str
    version: int
    threshold: int
    signed: frozenset[str]
    may_sign: frozenset[str]

    @property
    def missing(self) -> int:
        """How many are still needed."""
        return max(0, self.threshold - len(self.signed))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """See the module. ``about`` is what the office tells beside the papers, for the words that signers read."""

    pending_id: str
    kind: Kind
    keys: KeySet | None
    """The key set in force; None only for the very first one, which is its own judge."""
    papers: tuple[Paper, ...]
    about: Json = field(default_factory=dict)
    made_at: datetime
    not_after: datetime

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of everything but the signatures, in hex (rule 1)."""
        return hashlib.sha256(
            write_json(self._content([{"name": p.name, "payload": p.payload} for p in self.papers]))
        ).hexdigest()

    @property
    def spoken(self) -> str:
        """The beginning of the fingerprint, as people read it to each other: 80 bits in groups of four."""
        return "-".join(self.fingerprint[at : at + 4] for at in range(0, 20, 4))

    def _content(self, papers: Sequence[Mapping[str, object]]) -> dict[str, object]:
        return {
            "format": FORMAT,
            "kind": self.kind.value,
            "pending_id": self.pending_id,
            "keys": None if self.keys is None else self.keys.token,
            "made_at": write_instant(self.made_at),
            "not_after": write_instant(self.not_after),
            "about": self.about,
            "papers": list(papers),
        }

    def to_bytes(self) -> bytes:
        """The file."""
        papers = [
            {"name": paper.name, "payload": paper.payload, "signatures": list(paper.signatures)}
            for paper in self.papers
        ]
        return write_json({**self._content(papers), "fingerprint": self.fingerprint}) + b"\n"

    def payload(self, name: str) -> Json:
        """What a paper says."""
        return next(paper.payload for paper in self.papers if paper.name == name)

    def composed(self) -> tuple[Paper, ...]:
        """The papers as they are signed: the bundle with its certificate in place, once that is complete."""
        first, *others = self.papers
        if not others or self._missing(first):
            return (first,)
        second = others[0]
        return first, replace(second, payload={**second.payload, first.name: first.token})

    def needs(self) -> list[Need]:
        """What every paper has, and needs."""
        composed = {paper.name: paper for paper in self.composed()}
        return [need for paper in self.papers for need in self._needs(composed.get(paper.name, paper))]

    def _needs(self, paper: Paper) -> list[Need]:
        signed = frozenset(paper.kids)
        found = []
        for judge in _judges(self.keys, paper):
            role = judge.roles[paper.role]
            found.append(
                Need(
                    paper=paper.name,
                    role=paper.role,
                    version=judge.version,
                    threshold=role.threshold,
                    signed=signed & role.kids,
                    may_sign=role.kids,
                )
            )
        return found

    def _missing(self, paper: Paper) -> bool:
        return any(need.missing for need in self._needs(paper))

    @property
    def complete(self) -> bool:
        """Whether every threshold is met."""
        return not any(need.missing for need in self.needs())

    def check_time(self, now: datetime) -> None:
        """Raises PendingRefused after its end."""
        if now > self.not_after:
            raise PendingRefused(
                f"This had to be signed until {write_instant(self.not_after)}. What it says may be out of date; have "
                "the office make a new one."
            )

    def signed_by(self, signer: Signer, *, now: datetime) -> tuple[Pending, tuple[str, ...]]:
        """With one more signature on each paper whose turn it is; and the names of those papers.

        Raises PendingRefused (rule 3) and what the signer raises.
        """
        self.check_time(now)
        present, names = self, list[str]()
        while (at := present._turn_of(signer.kid)) is not None:
            paper, papers = present.composed()[at], list(present.papers)
            papers[at] = replace(papers[at], signatures=(*paper.signatures, _signature(paper, signer)))
            present, names = replace(present, papers=tuple(papers)), [*names, paper.name]
        if not names:
            raise PendingRefused(self._why_not(signer.kid))
        return present, tuple(names)

    def waits_for(self, kid: str) -> bool:
        """Whether this key could sign something of it now."""
        return self._turn_of(kid) is not None

    def _turn_of(self, kid: str) -> int | None:
        """The first paper that this key may sign now."""
        for at, paper in enumerate(self.composed()):
            # What is complete and has something built upon it is left as it is, word for word.
            settled = at + 1 < len(self.papers) and not self._missing(paper)
            full = len(paper.signatures) >= MOST_SIGNATURES
            if (
                not (settled or full)
                and kid not in paper.kids
                and any(kid in need.may_sign for need in self._needs(paper))
            ):
                return at
        return None

    def _why_not(self, kid: str) -> str:
        turns = {paper.name for paper in self.composed()}
        if any(kid in paper.kids for paper in self.papers):
            return f"The key {kid} has signed this already; another person's is needed. {self.still_needed()}"
        if any(kid in need.may_sign for need in self.needs() if need.paper not in turns):
            return f"It is not this key's turn: the certificate has to be complete first. {self.still_needed()}"
        version = "" if self.keys is None else f" under key set {self.keys.version}"
        return f"The key {kid} may not sign this{version}: it is not among the keys of the role that decides."

    def still_needed(self) -> str:
        """A sentence."""
        missing = [need for need in self.needs() if need.missing]
        if not missing:
            return "All signatures that it needs are there."
        told = "; ".join(
            f"{need.missing} more on the {_WORDS[need.paper]} by keys of the role {need.role} in key set {need.version}"
            for need in missing
        )
        return f"Still needed: {told}."

    def finished(self) -> dict[str, str]:
        """The signed documents by their names. Raises SignaturesMissing."""
        if not self.complete:
            raise SignaturesMissing(self.still_needed())
        return {paper.name: paper.token for paper in self.composed()}


_WORDS: Final = {"certificate": "server certificate", "bundle": "bundle", "receipt": "receipt", "keys": "key set"}


def read_pending(data: bytes) -> Pending:
    """The pending document in a file, by rules 1 and 2. Raises PendingRefused."""
    try:
        pending = _read(read_json(data))
        for paper in pending.papers:
            _check_signatures(pending, paper)
    except RefusedDocument as refused:
        raise PendingRefused(
            f"This is no file that waits for signatures, or it was damaged: {refused.detail}"
        ) from refused
    return pending


def _read(document: Json) -> Pending:
    fields = Fields(document, place="pending")
    if fields.integer("format") != FORMAT:
        raise PendingRefused("This file that waits for signatures was made by another version; use the same one.")
    token = fields.content("keys", most=MOST_SEALED) if fields.has("keys") else None
    kind = fields.kind("kind", Kind)
    papers = tuple(_read_paper(one) for one in fields.list("papers", most=2))
    if tuple(paper.name for paper in papers) not in _ORDERS[kind]:
        raise PendingRefused("This file that waits for signatures has not the papers of its kind.")
    if token is None and kind is not Kind.KEYS:
        raise PendingRefused("This file that waits for signatures names no key set.")
    pending = Pending(
        pending_id=fields.id("pending_id", "pnd_"),
        kind=kind,
        keys=None if token is None else read_key_set(token),
        papers=papers,
        about=members(document, "about"),
        made_at=fields.instant("made_at"),
        not_after=fields.instant("not_after"),
    )
    if fields.text("fingerprint") != pending.fingerprint:
        raise PendingRefused(
            "This file was changed after it was made: what it says does not fit its fingerprint. Do not sign it; have "
            "the office send it again."
        )
    return pending


def _read_paper(document: Any) -> Paper:
    fields = Fields(document, place="papers")
    signatures: Any = fields.list("signatures", most=MOST_SIGNATURES)
    paper = Paper(
        name=fields.word("name"),
        payload=members(document, "payload"),
        signatures=tuple({"protected": one["protected"], "signature": one["signature"]} for one in signatures)
        if all(isinstance(one, dict) and one.keys() == {"protected", "signature"} for one in signatures)
        else (),
    )
    if len(paper.signatures) != len(signatures):
        raise PendingRefused("A signature in this file has not the shape of one; it was changed.")
    return paper


def _check_signatures(pending: Pending, paper: Paper) -> None:
    """Rule 2."""
    if not paper.signatures:
        _judges(pending.keys, paper)  # a key set that no server would take is found before anybody signs it
        return
    composed = {one.name: one for one in pending.composed()}
    if paper.name not in composed:
        raise PendingRefused("The bundle in this file was signed before its certificate was complete; it was changed.")
    whole, listed = composed[paper.name], paper.kids
    known = {kid: key for judge in _judges(pending.keys, paper) for kid, key in judge.keys.items()}
    allowed = {kid for need in pending._needs(paper) for kid in need.may_sign}  # noqa: SLF001 - the same module
    right = signers_of(
        whole.token, typ=paper.typ, key_of=lambda kid: known[kid] if kid in allowed else None, limit=MOST_SEALED
    )
    if len(listed) != len(right) or set(listed) != right:
        raise PendingRefused(
            f"A signature on the {_WORDS[paper.name]} in this file is not right: it was changed after somebody signed "
            "it, or a key signed that may not, or twice. Have the office make a new one."
        )


def _judges(in_force: KeySet | None, paper: Paper) -> tuple[KeySet, ...]:
    """Rule 4."""
    if paper.name != "keys":
        return () if in_force is None else (in_force,)
    proposed = unsigned_key_set(paper.payload)
    return (proposed,) if in_force is None else (in_force, proposed)


def _signature(paper: Paper, signer: Signer) -> Mapping[str, str]:
    """One more member of the general JWS."""
    protected, _, signature = sign_compact(paper.payload, key=signer, typ=paper.typ).split(".")
    return {"protected": protected, "signature": signature}
