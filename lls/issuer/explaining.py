"""Why a report does not fit what is stored of its server, in words for whoever has to call the site.

A journal has one past. Where a report tells another one than the reports before it, four things can have happened, and
each asks for something else. They are told apart by what both sides say of themselves, in this order:

1. The first line that differs is stamped before the last line that is stored, or at the same instant: both pasts were
   being written at once, which one machine cannot do. Two copies of the server run (*two copies*).
2. It is stamped later, and it is line 1: the store was made anew while the keys stayed (*reset*).
3. It is stamped later, and the lines before it agree: the server wrote no line of the other past after it had begun
   this one. It was put back to an earlier state, a snapshot or an old backup (*set back*).
4. Where they parted lies before the report's first line: its last request decides, if it was made after the newest
   stored line and names a shorter journal than is stored (*set back*). Else it cannot be told from this report
   (*fork*), and the sentence says which one to ask for.

The stamps are the server's own. Somebody who changes clocks can make two copies look like one that was set back; no
rule here makes anything of it but a sentence, and nothing is counted in any of the four cases.

Pure. It refuses to own how a difference is found (``ingest``).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from lls.faults import Fault, Refusal, RefusedDocument
from lls.issuer.refusals import ReportProblem, ReportRefused
from lls.licensing.fields import write_instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is stored of a server: its last line, and what its newest request says of itself."""

    server_id: str
    end: int
    end_at: datetime
    request_seq: int
    request_made_at: datetime

    @property
    def request_fell_back(self) -> bool:
        """Whether the server, when it was asked last, knew less of its journal than it had reported before."""
        return self.request_made_at > self.end_at and self.request_seq < self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A report's line ``seq``, stamped ``at``, that is not the stored one. ``first``: the lines before it agree."""

    seq: int
    at: datetime
    first: bool
    report_ends: int


_NOTHING: Final = "Nothing of this report was counted, and what was counted before stays."


def diverged(known: Known, difference: Difference) -> ReportRefused:
    """The refusal that says which of the four it is, what speaks for it, and what to do."""
    if not difference.first:
        return _set_back(known, "") if known.request_fell_back else _untold(known, difference)
    if difference.at <= known.end_at:
        return _two_copies(known, difference)
    if difference.seq == 1:
        return _reset(known, difference)
    return _set_back(known, _parted(difference) + _wrote_later(known, difference))


def _parted(difference: Difference) -> str:
    if difference.seq == 1:
        return "They differ from their first line on. "
    return (
        f"Up to line {difference.seq - 1} this report and the earlier ones agree, and line {difference.seq} is another "
        f"one. "
    )


def _wrote_later(known: Known, difference: Difference) -> str:
    shorter = f" It ends at line {difference.report_ends}, before the stored one." * (
        difference.report_ends < known.end
    )
    return (
        f"The new one was written on {write_instant(difference.at)}, after everything that was reported before (line "
        f"{known.end}, {write_instant(known.end_at)}).{shorter} "
    )


def _reset(known: Known, difference: Difference) -> ReportRefused:
    return ReportRefused(
        ReportProblem.RESET,
        f"The journal of the server {known.server_id} begins anew: line 1, of {write_instant(difference.at)}, is not "
        f"the line 1 that it reported before, and {known.end} lines are stored. Its store was removed or made anew, "
        f"and its keys stayed. {_NOTHING} Ask the site to put the old store back from its backup, or, if "
        "it is gone, declare the server lost (lls-issuer server retire --lost) and have it installed anew with new "
        "keys, which gives it a new server id.",
    )


def _set_back(known: Known, evidence: str) -> ReportRefused:
    request = (
        f"Its newest request, of {write_instant(known.request_made_at)}, names line {known.request_seq} as its last, "
        f"and line {known.end} was reported before. "
        if known.request_fell_back
        else ""
    )
    return ReportRefused(
        ReportProblem.SET_BACK,
        f"The journal of the server {known.server_id} is forked: it was set back to an earlier state, as a snapshot of "
        f"a virtual machine or an old backup does, and went on from there. {evidence}{request}{_NOTHING} Ask the site "
        "when the machine was put back, and whether the state of before is still there: that one can go on reporting. "
        "If it is not, take its request in (lls-issuer server adopt FILE).",
    )


def _two_copies(known: Known, difference: Difference) -> ReportRefused:
    return ReportRefused(
        ReportProblem.TWO_COPIES,
        f"The journal of the server {known.server_id} is forked: two copies of it run. {_parted(difference)}The "
        f"new one was written on {write_instant(difference.at)}, while the other copy was still writing (line "
        f"{known.end}, {write_instant(known.end_at)}). {_NOTHING} Both copies hand out the same seats: ask the site "
        "which machine is the right one, have the other one switched off, and go on with the reports of the one that "
        "reported first.",
    )


def of_lost_past(server_id: str, seq: int) -> ReportRefused:
    """The report brings lines of before a restore that was answered without them."""
    return ReportRefused(
        ReportProblem.SET_BACK,
        f"The server {server_id} was restored from a backup, and was told to go on as if its line {seq} of before had "
        f"never been (lls-issuer server adopt). This report is of before the restore and comes too late. {_NOTHING}",
    )


def _untold(known: Known, difference: Difference) -> ReportRefused:
    return ReportRefused(
        ReportProblem.FORK,
        f"The journal of the server {known.server_id} is forked: line {difference.seq - 1}, behind which this report "
        f"begins, is not the line {difference.seq - 1} that was reported before. Two copies of the server run, or it "
        f"was set back to an earlier state; this report begins too late to tell which. {_NOTHING} Ask the site for its "
        f"reports with the lines before (lls report list; lls report export --report ID): the first one that differs "
        "tells.",
    )


def advice(fault: Fault) -> str:
    """What to do about a report whose document does not hold; empty where its own sentence says it."""
    return _ADVICE.get(fault.reason, "") if isinstance(fault, RefusedDocument) else ""


_AGAIN: Final = "ask the site to write it again (lls report export --report ID) and to carry it over once more."
_ADVICE: Final = {
    Refusal.SIGNATURE: (
        "The file was changed on its way, or was signed by another machine than the registered one: " + _AGAIN + " If "
        "it stays so, compare the server's fingerprint with the site (lls-issuer server list --json)."
    ),
    Refusal.DECRYPTION: (
        "It is sealed to another vendor's key, or to one that this home does not have: check --home; if that is "
        "right, " + _AGAIN
    ),
    Refusal.MALFORMED: "The file is damaged or is no usage report: " + _AGAIN,
    Refusal.FORKED: (
        "The report's own lines do not follow one another, which no unchanged server writes: " + _AGAIN + " If it "
        "stays so, talk to the site."
    ),
    Refusal.TOO_LARGE: "Ask the site for a report after the newest receipt: it is shorter.",
}
