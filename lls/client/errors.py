"""Every way in which asking for a seat can fail, as one small tree.

Rules
1. ``Refused`` means that a genuine server judged the request and said no; ``NoAnswer`` means that nothing was
   judged, so the same request may be repeated; ``SeatLost`` means that the seat was held and is not any more;
   ``Unusable`` means that what is kept on this disk for the road does not count here and now.
2. ``str(error)`` is a sentence that a person can act on. It never contains a secret, a capability or an activation
   code.
3. Unknown codes are passed on as they came: a newer server may refuse for reasons this version has never heard of.
"""

from __future__ import annotations

from collections.abc import Mapping


class LlsError(Exception):
    """Something about the seat went wrong."""


class BadSetup(LlsError, ValueError):
    """The caller's own settings cannot work: no server, no vendor keys, plain http to another machine."""


class Refused(LlsError):
    """A genuine server judged the request and refused it.

    ``code`` is the contract's stable word (``no_seat``, ``entitlement_expired`` …), ``fields`` everything else that the
    answer carried (``rule``, ``in_use``, ``seats``, ``queue_position``, ``reason`` …).
    """

    def __init__(self, *, code: str, status: int, detail: str, fields: Mapping[str, object]) -> None:
        super().__init__(detail or code)
        self.code = code
        self.status = status
        self.fields = dict(fields)

    @property
    def reason(self) -> str:
        """The ``reason`` field of the answer, or an empty string."""
        return self._word("reason")

    @property
    def rule(self) -> str:
        """Which rule decided (``limit[1]``, ``reserve[2]``, ``seats`` …), or an empty string."""
        return self._word("rule")

    @property
    def remedy(self) -> str:
        """One sentence saying what would have helped, or an empty string where the server names nothing."""
        return self._word("remedy")

    def _word(self, name: str) -> str:
        word = self.fields.get(name)
        return word if isinstance(word, str) else ""


class NoAnswer(LlsError):
    """No server gave an answer that counts; nothing was decided and the request may be repeated as it is."""

    code = "network"
    retry_after_seconds: float | None = None


class Unreachable(NoAnswer):
    """The connection failed, was lost, took too long, or carried no answer of a license server."""


class Busy(NoAnswer):
    """The server is there and asks for patience (429, 5xx)."""

    def __init__(
        self, detail: str, *, code: str, retry_after_seconds: float | None, primary: str | None = None
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.retry_after_seconds = retry_after_seconds
        self.primary = primary


class Untrusted(NoAnswer):
    """Whoever answered is not proved to be certified by the vendor, or answered another question."""

    code = "untrusted"


class OtherKey(Untrusted):
    """Signed by a key that is not the known one; worth asking for the certificate again before giving up."""


class SeatLost(LlsError):
    """The seat is not held at the moment; ``Seat.on_event`` told why."""


class Unusable(LlsError):
    """A borrowed lease that is kept on this disk does not count here and now; the subclasses say why."""


class NotBorrowed(Unusable):
    """Nothing of that name is kept here; it was never borrowed, or it was given back."""


class WrongMachine(Unusable):
    """The lease was borrowed by another machine; its file was copied."""


class Damaged(Unusable):
    """The file is not one that this library wrote, or other people could have written it."""


class ClockSetBack(Unusable):
    """The machine's clock shows less than it showed before, by ``behind_seconds``.

    Nothing is lost: the lease counts again when the clock is set right, or when time catches up.
    """

    def __init__(self, detail: str, *, behind_seconds: float) -> None:
        super().__init__(detail)
        self.behind_seconds = behind_seconds
