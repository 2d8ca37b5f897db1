"""What the daemon says about itself: its admin socket, asked a few times a second.

Numbers are the daemon's own: seats and queue from ``/v1/admin/entitlements``, what happened from the journal,
heartbeats from ``/metrics``. A daemon that does not answer is ``None``, never an exception: the demonstration kills it
on purpose.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections import Counter
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from lls.demo.meter import Act
from lls.demo.room import FRAMES

_PAGE: Final = 1_000
_ANSWER_SECONDS: Final = 10.0
_HEARTBEATS = re.compile(r"^lls_heartbeats_total(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


_ACTS: Final = {"Used": Act.USE, "Undone": Act.UNDO}


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterSight:
    """One counted feature: units used up, or held at the moment, of those granted."""

    key: str
    pool: bool
    used: int
    granted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSight:
    """One product's seats. ``seats`` 0: unlimited. ``away``: those in use that are borrowed."""

    product: str
    name: str
    seats: int
    in_use: int
    away: int
    waiting: int
    meters: tuple[MeterSight, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """The server at one moment. ``kinds`` counts the journal's lines; denials count what a folded line stands for."""

    pools: tuple[PoolSight, ...]
    kinds: Counter[str]
    heartbeats: int


class Watch:
    """Looks at one daemon, over its restarts."""

    def __init__(self, admin_socket: Path) -> None:
        self._path = admin_socket
        self._after = 0
        self._beats_of_this_life = 0
        self._beats_before = 0
        self.kinds: Counter[str] = Counter()
        self.ended: set[str] = set()
        """Leases that ended, by the journal."""
        self.frames: list[tuple[Act, str, int]] = []
        """What the journal says of the meter: act, request id, frames; whoever reckons with it empties it."""

    def look(self) -> Sight | None:
        """The server now, or None while it does not answer."""
        try:
            return self._look()
        except (OSError, http.client.HTTPException):
            return None

    def ready(self) -> bool:
        """Whether the daemon serves, its store included."""
        try:
            status, _ = self._ask("/readyz")
        except (OSError, http.client.HTTPException):
            return False
        return status == HTTPStatus.OK

    def leases(self) -> dict[str, dict[str, Any]]:
        """Who holds what, by lease id. Raises OSError while the daemon does not answer."""
        return {lease["lease_id"]: lease for lease in self._document("/v1/admin/leases")["leases"]}

    def _look(self) -> Sight:
        self.read_journal()
        pools = tuple(
            PoolSight(
                product=one["product"],
                name=one["product_name"],
                seats=one["seats"] or 0,
                in_use=one["in_use"],
                away=one["borrowed"],
                waiting=one["waiting"],
                meters=tuple(_meter(feature) for feature in one["features"] if feature["total"] is not None),
            )
            for one in self._document("/v1/admin/entitlements")["entitlements"]
        )
        found = _HEARTBEATS.search(self._ask("/metrics")[1].decode())
        beats = int(float(found[1])) if found else 0
        if beats < self._beats_of_this_life:  # the counter began anew with the process
            self._beats_before += self._beats_of_this_life
        self._beats_of_this_life = beats
        return Sight(pools=pools, kinds=Counter(self.kinds), heartbeats=self._beats_before + beats)

    def read_journal(self) -> None:
        """Fold the lines that are new since the last time."""
        page = _PAGE
        while page == _PAGE:
            _, body = self._ask(f"/v1/admin/journal?after={self._after}&limit={_PAGE}")
            lines = [json.loads(line) for line in body.splitlines() if line]
            page = len(lines)
            for line in lines:
                self._after = line["seq"]
                self.kinds[line["kind"]] += int(line["data"].get("count", 1)) if line["kind"] == "Denied" else 1
                if line["kind"] in ("Returned", "Expired", "Released"):
                    self.ended.add(line["data"]["lease_id"])
                act = _ACTS.get(line["kind"])
                if act is not None and line["data"]["feature"] == FRAMES:
                    self.frames.append((act, line["data"]["request_id"], line["data"]["amount"]))

    def _document(self, path: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self._ask(path)[1])
        return document

    def _ask(self, path: str) -> tuple[int, bytes]:
        connection = _Unix(str(self._path))
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != HTTPStatus.OK and path != "/readyz":
            raise http.client.HTTPException(f"{path} answered {answer.status}")
        return answer.status, body


def _meter(feature: dict[str, Any]) -> MeterSight:
    pool, granted = feature["type"] == "element_pool", feature["total"]
    used = granted - feature["available"] if pool else feature["consumed"]
    return MeterSight(key=feature["key"], pool=pool, used=used, granted=granted)


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_ANSWER_SECONDS)
        self.sock.connect(self._path)
