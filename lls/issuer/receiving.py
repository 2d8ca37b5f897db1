"""Reports as they come in: several files in any order, each judged by itself, and what was refused is remembered.

Rules
1. A report that is refused holds no other one up. What lies behind a gap waits until all others were tried, because
   another of the files may fill it; it is refused when nothing moves any more.
2. Each refusal is remembered, with the file's SHA-256, the server that it says to be of and the reason, in a
   transaction of its own: the one of the report was rolled back. The history has the hash and the reason without the
   sentence, which may quote what somebody else wrote.
3. A file that cannot be read, or is no regular one, is no report and leaves nothing: a mistyped name is the
   operator's, not the site's, and a device has no end to hash.

It refuses to own what makes a report hold (``ingest``) and the words of advice (``explaining``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, TypeAlias

from lls.faults import RefusedDocument
from lls.issuer.explaining import advice
from lls.issuer.history import Deed
from lls.issuer.ingest import Ingested, Progress, ingest
from lls.issuer.keyring import Keyring
from lls.issuer.refusals import ReportProblem, ReportRefused
from lls.issuer.register import Register

Watch: TypeAlias = Callable[[Path], AbstractContextManager[Progress]]
"""A file whose reading begins → what is told of how far it is, for as long as it is read."""

UNREADABLE: Final = "unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A file that was not taken in: ``problem`` for a script, the sentences for a person."""

    file: str
    code: str
    problem: str
    detail: str
    advice: str = ""
    claimed: str | None = None
    """The server that it says to be of, as far as that could be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedReport:
    """The same as the register remembers it: a row of ``refused_report``; ``server_id`` where it is registered."""

    refusal_id: int | None = None
    refused_at: datetime
    refused_by: str
    file: str
    sha256: str
    size: int
    claimed: str | None
    server_id: str | None
    code: str
    problem: str
    detail: str


class Receiving:
    """See the module."""

    def __init__(self, register: Register, *, keyring: Keyring) -> None:
        self._register = register
        self._keyring = keyring

    def ingest(
        self,
        path: Path,
        *,
        now: datetime,
        server_id: str | None = None,
        progress: Progress = lambda _done, _all: None,
        claims: Callable[[str], None] = lambda _server_id: None,
    ) -> Ingested:
        """One report, or why not: ReportRefused, RefusedDocument, OSError; ``claims`` is told whose it says to be."""
        return ingest(
            path,
            self._register,
            report_key=self._keyring.report_key(),
            now=now,
            server_id=server_id,
            progress=progress,
            claims=claims,
        )

    def take_in(
        self, files: Sequence[Path], *, watch: Watch, now: Callable[[], datetime], server_id: str | None = None
    ) -> Iterator[tuple[Path, Ingested | Refused]]:
        """What became of each file, as soon as it is settled. Raises KeysLocked before any file is read."""
        self._keyring.report_key()  # a wrong passphrase is no report's fault
        waiting = list(dict.fromkeys(files))
        while waiting:
            behind: list[tuple[Path, Refused]] = []
            for file in waiting:
                with watch(file) as progress:
                    outcome = self._one(file, now=now(), server_id=server_id, progress=progress)
                if isinstance(outcome, Refused) and outcome.problem == ReportProblem.GAP:
                    behind.append((file, outcome))
                else:
                    yield self._settled(file, outcome, now=now())
            if len(behind) == len(waiting):
                yield from (self._settled(file, outcome, now=now()) for file, outcome in behind)
                return
            waiting = [file for file, _ in behind]

    def refusals(self, *, server_id: str | None = None) -> list[RefusedReport]:
        """What was refused, oldest first; of one server, or of all and of none."""
        return self._register.select(
            RefusedReport,
            "SELECT * FROM refused_report WHERE ?1 IS NULL OR server_id = ?1 ORDER BY refusal_id",
            server_id,
        )

    def _one(self, file: Path, *, now: datetime, server_id: str | None, progress: Progress) -> Ingested | Refused:
        claimed: list[str] = []
        try:
            return self.ingest(file, now=now, server_id=server_id, progress=progress, claims=claimed.append)
        except ReportRefused as fault:
            code, problem, detail, told = fault.code, str(fault.problem), fault.detail, ""
        except RefusedDocument as fault:
            code, problem, detail, told = fault.code, str(fault.reason), fault.detail, advice(fault)
        except OSError as failure:
            if failure.strerror is None:
                raise
            code, problem, detail, told = "file", UNREADABLE, f"{failure.strerror}.", ""
        whose = claimed[-1] if claimed else None
        return Refused(file=str(file), code=code, problem=problem, detail=detail, advice=told, claimed=whose)

    def _settled(self, file: Path, outcome: Ingested | Refused, *, now: datetime) -> tuple[Path, Ingested | Refused]:
        if isinstance(outcome, Refused):
            self._remember(file, outcome, now=now)
        return file, outcome

    def _remember(self, file: Path, refused: Refused, *, now: datetime) -> None:
        """Rules 2 and 3."""
        if refused.problem == UNREADABLE or not file.is_file():
            return
        with file.open("rb") as data:
            digest, size = hashlib.file_digest(data, "sha256").hexdigest(), data.tell()
        with self._register.transaction():
            server = None if refused.claimed is None else self._register.server(refused.claimed)
            self._register.insert(
                "refused_report",
                RefusedReport(
                    refused_at=now,
                    refused_by=self._register.who.by,
                    file=file.name.encode(errors="replace").decode(),
                    sha256=digest,
                    size=size,
                    claimed=refused.claimed,
                    server_id=server.server_id if server else None,
                    code=refused.code,
                    problem=refused.problem,
                    detail=refused.detail,
                ),
            )
            self._register.note(
                Deed.REPORT_REFUSED,
                at=now,
                customer_id=server.customer_id if server else None,
                server_id=server.server_id if server else None,
                what={"sha256": digest, "claimed": refused.claimed, "problem": refused.problem},
            )
