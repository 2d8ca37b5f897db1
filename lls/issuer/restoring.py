"""A server that was put back from a backup: where its journal goes on, and with which counters (decision 0021).

Rules
1. The server's own request says from which backups it comes: the line each ended with, and its hash. Where one of them
   is not a line that this server reported, the journals part before the backup: two copies run, and nothing is ordered.
2. All that is stored here is in the backup: it goes on as it is, and its own counters are right. More is stored here
   than the backup has: it goes on behind the last line that is stored, and its counters are those that the stored
   lines give. What the server wrote in between and never reported is lost; nobody can bill it.
3. The order answers one restore, once. Whatever is reported of the past that was lost after it was given is refused by
   ``ingest``: the line at which the restored server begins must be its ``Restored``.
4. Sessions that are over here end there with it.
5. It is confirmed by the server's name, because the counters of a site are what is billed by.

Which request is taken in, and that it is the server's, is ``office``'s business.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lls.issuer.history import Deed
from lls.issuer.ids import Random, new_id
from lls.issuer.refusals import Conflict
from lls.issuer.register import Command, Register, Server
from lls.licensing.journal import FIRST_PREV, Kind
from lls.licensing.terms import CHAIN_ADOPT
from lls.signed.request import ActivationRequest, Restore


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The order that the next bundle carries; ``again`` when it was given already.

    ``known`` is the last line stored here, ``backup`` the end of the backup; ``lost`` are lines that the vendor has and
    the server has not.
    """

    server: Server
    command: Command
    known: int
    backup: int
    lost: int
    again: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Behind which line it goes on; ``first`` is its first line here that says so: its number and which restore."""

    keep: int | None
    first: tuple[int, str] | None


class Restoring:
    """See the module. :meth:`answer` runs inside its caller's transaction."""

    def __init__(self, register: Register, *, random: Random) -> None:
        self._register = register
        self._random = random

    def answer(self, asked: ActivationRequest, server: Server, *, now: datetime) -> Answered:
        """Order the server to go on. Raises Conflict."""
        seq, head = self._register.journal_end(server.server_id) or (0, FIRST_PREV)
        place = self._place(asked, seq)
        document: dict[str, Any] = {
            "type": CHAIN_ADOPT,
            "restore_id": asked.restores[-1].restore_id,
            "from_seq": seq + 1,
            "prev_head": head,
            "keep_seq": place.keep,
            "meters": self._meters(server.server_id, seq) if place.keep is not None else [],
            "bundle_sequence": server.bundle_sequence,
            "closed_sessions": sorted(
                one.session_id for one in self._register.sessions(server_id=server.server_id) if one.ended_at
            ),
            "first": None if place.first is None else {"seq": place.first[0], "restore_id": place.first[1]},
        }
        waiting = self._waiting(server.server_id)
        backup = asked.restores[-1].seq
        lost = 0 if place.keep is None else seq - place.keep
        for one in waiting:
            if {**one.document, "command_id": "", "bundle_sequence": 0} == {
                **document, "command_id": "", "bundle_sequence": 0,
            }:  # fmt: skip
                return Answered(server=server, command=one, known=seq, backup=backup, lost=lost, again=True)
            self._register.note_applied(one.command_id, server_id=server.server_id, at=now)  # it is void
        command_id = new_id("cmd", self._random)
        command = Command(
            command_id=command_id,
            server_id=server.server_id,
            document={"command_id": command_id, **document},
            ordered_at=now,
        )
        self._register.add_command(command)
        told = {key: document[key] for key in ("restore_id", "from_seq", "prev_head", "keep_seq")}
        self._register.note(
            Deed.CHAIN_ADOPTED,
            at=now,
            customer_id=server.customer_id,
            server_id=server.server_id,
            what={"command_id": command_id, **told, "backup_seq": backup, "lost": lost},
        )
        return Answered(server=server, command=command, known=seq, backup=backup, lost=lost, again=False)

    def _waiting(self, server_id: str) -> list[Command]:
        return [one for one in self._register.pending_commands(server_id) if one.document["type"] == CHAIN_ADOPT]

    def _place(self, asked: ActivationRequest, end: int) -> _Place:
        for point in asked.restores:
            if point.seq > end:
                return _Place(keep=None, first=(point.seq + 1, point.restore_id))
            ours = FIRST_PREV if point.seq == 0 else self._register.journal_hash(asked.server_id, point.seq)
            if ours != point.head:
                raise Conflict(
                    f"The backup that {asked.server_id} was put back from ends with another line {point.seq} than the "
                    "one it reported. Two copies of the server run, or an earlier restore was never told; ask the site "
                    "which backups were put back, and restore one from before."
                )
            if point.seq == end:
                return _Place(keep=None, first=(point.seq + 1, point.restore_id))
            if not self._is_restored(asked.server_id, point):
                return _Place(keep=point.seq, first=(end + 1, point.restore_id))
        return _Place(keep=None, first=None)  # all its restores were reported

    def _is_restored(self, server_id: str, point: Restore) -> bool:
        """Whether the stored line behind that backup is the restored server's own first one."""
        (line,) = self._register.journal_lines(server_id, first=point.seq + 1, last=point.seq + 1)
        return is_first_of(json.loads(line), point.restore_id)

    def _meters(self, server_id: str, end: int) -> list[dict[str, Any]]:
        return counters(map(json.loads, self._register.journal_lines(server_id, first=1, last=end)))


def first_line_due(register: Register, server_id: str) -> tuple[int, str] | None:
    """Where the newest answer lets the server begin: the number of its ``Restored``, and which restore it tells."""
    given = register.select(
        Command,
        """SELECT * FROM command WHERE server_id = ? AND json_extract(document, '$.type') = ?
           ORDER BY rowid DESC LIMIT 1""",
        server_id, CHAIN_ADOPT,
    )  # fmt: skip
    first: Any = given[0].document["first"] if given else None
    return None if first is None else (int(first["seq"]), str(first["restore_id"]))


def is_first_of(line: Mapping[str, Any], restore_id: str) -> bool:
    """Whether a line says that the server began there from a backup, by that very restore."""
    return bool(line["kind"] == Kind.RESTORED and line["data"].get("restore_id") == restore_id)


# ---------------------------------------------------------------- counters


def counters(lines: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What a server's whole journal says to be used of each lot, as ``chain_adopt`` tells it (contract §3).

    ``lines`` are parsed, from the first on; ``ingest`` has checked the shape of what is read here. Counting goes on
    over hosting sessions, as it does at the server, and ends with the entitlement's return.
    """
    accounts: defaultdict[str, _Account] = defaultdict(_Account)
    sessions: dict[str, str] = {}
    for line in lines:
        kind, data = line["kind"], line["data"]
        if kind == Kind.INSTALLED:
            sessions.update((item["entitlement_id"], item["session_id"]) for item in data.get("entitlements", ()))
            for reset in data.get("resets", ()):
                accounts[reset["entitlement_id"]].begin_anew(reset["feature"])
        elif kind in (Kind.USED, Kind.UNDONE):
            accounts[data["entitlement_id"]].draw(data["feature"], data["draws"], 1 if kind == Kind.USED else -1)
        elif kind == Kind.GRANT_ENDED:
            accounts[data["entitlement_id"]].end(data["feature"], data["lot"], data.get("into"))
        elif kind == Kind.RETURNED_ENTITLEMENT and data["session_id"] == sessions.get(
            data["entitlement_id"], data["session_id"]
        ):  # one that had ended before a backup was put back ends once more; the present one has counted since
            accounts.pop(data["entitlement_id"], None)
    return [
        {"entitlement_id": entitlement_id, "feature": feature, "lots": lots}
        for entitlement_id, account in sorted(accounts.items())
        for feature, lots in account.told()
    ]


class _Account:
    """One entitlement's lots, by feature and lot."""

    __slots__ = ("_ended", "_used")

    def __init__(self) -> None:
        self._used: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._ended: set[tuple[str, str]] = set()

    def draw(self, feature: str, draws: Mapping[str, int], sign: int) -> None:
        for lot, units in draws.items():
            self._used[feature, lot] = max(0, self._used[feature, lot] + sign * units)

    def begin_anew(self, feature: str) -> None:
        for key in [key for key in self._used if key[0] == feature and key not in self._ended]:
            self._used[key] = 0

    def end(self, feature: str, lot: str, into: str | None) -> None:
        if into is None:
            self._ended.add((feature, lot))
            return
        self._used[feature, into] += self._used.pop((feature, lot), 0)

    def told(self) -> Iterable[tuple[str, list[dict[str, Any]]]]:
        lots: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for feature, lot in sorted({*self._used, *self._ended}):
            ended = (feature, lot) in self._ended
            lots[feature].append({"lot": lot, "used": self._used.get((feature, lot), 0), "ended": ended})
        return lots.items()
