"""Three accounts of the same frames: what clients were told, what the journal says, what the vendor bills.

What has to hold
1. A use that was answered stands in the journal, once and with its amount, whatever was killed meanwhile; so does an
   undo.
2. Nothing stands in the journal that nobody asked for. Whoever never heard the answer (their power was cut, their
   server was dead until they left) may find the use there or not; asked again by its ``request_id`` it counts once.
3. The bill is the journal's sum.

It refuses to own how clients are heard (``story``) and how the journal is read (``watch``).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from enum import StrEnum


class Act(StrEnum):
    """What a client does to the meter."""

    USE = "use"
    UNDO = "undo"

    @property
    def sign(self) -> int:
        """Which way the meter turns."""
        return 1 if self is Act.USE else -1


@dataclass(slots=True)
class _Call:
    """One call by its request id. ``asked``: its frames, None while nobody told us of it."""

    asked: int | None = None
    told: bool = False
    written: list[int] = field(default_factory=list)

    @property
    def settled(self) -> bool:
        return self.told and self.written == [self.asked]


class Frames:
    """See the module. ``told`` and ``written`` are sums, of uses less those undone."""

    def __init__(self) -> None:
        # What agrees is summed and forgotten: a show without an end must not fill the memory.
        self._open: defaultdict[tuple[Act, str], _Call] = defaultdict(_Call)
        self.told = self.written = self.undone = self.repeated = 0

    def ask(self, act: Act, request_id: str, frames: int) -> None:
        """A client is about to ask."""
        self._open[act, request_id].asked = frames

    def tell(self, act: Act, request_id: str, *, again: bool) -> None:
        """It was answered; ``again``: the same had been asked before in vain. It said that it would ask."""
        call = self._open[act, request_id]
        call.told = True
        self.told += act.sign * (call.asked or 0)
        self.undone += (call.asked or 0) if act is Act.UNDO else 0
        self.repeated += again
        self._settle(act, request_id)

    def write(self, act: Act, request_id: str, frames: int) -> None:
        """The journal has it; sometimes before we hear the client."""
        self._open[act, request_id].written.append(frames)
        self.written += act.sign * frames
        self._settle(act, request_id)

    @property
    def unheard(self) -> int:
        """Frames in the journal whose answer nobody lived to hear."""
        return sum(act.sign * sum(call.written) for (act, _), call in self._open.items() if not call.told)

    def problems(self, *, billed: int) -> list[str]:
        """A sentence for each rule that is broken."""
        found = [
            sentence
            for (act, request_id), call in self._open.items()
            for sentence in [_broken(call, f"The {act} {request_id} of {call.asked} frames")]
            if sentence
        ]
        if billed != self.written:
            found.append(f"The vendor bills {billed:,} frames, and the journal says {self.written:,}.")
        return found

    def _settle(self, act: Act, request_id: str) -> None:
        if self._open[act, request_id].settled:
            del self._open[act, request_id]


def _broken(call: _Call, name: str) -> str:
    if call.asked is None:
        return f"The journal has {sum(call.written)} frames that nobody asked for."
    if len(call.written) > 1:
        return f"{name} was counted {len(call.written)} times."
    if call.written and call.written != [call.asked]:
        return f"{name} stands in the journal with {call.written[0]}."
    if call.told and not call.written:
        return f"{name} was answered and is not in the journal."
    return ""
