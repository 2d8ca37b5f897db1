"""Every way in which the server fails, as one small tree.

This room owns the stable codes and the sentence that stands behind each. A *fault* is raised: the request could not be
judged or served. A *denial* (the request was judged and refused) is a value, see :mod:`lls.licensing.seating`; both
carry a ``code`` from the contract's table. The HTTP status of a code is known in one place only,
``lls/api/problems.py``.

Rules
1. ``str(fault)`` is a sentence that a person can act on. It never contains a secret, a capability or a key.
2. ``fields`` are the machine-readable part of the answer (``retry_after_seconds``, ``reason``, ``primary`` …).
3. A class's docstring is its default sentence.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import ClassVar, TypeAlias

Scalar: TypeAlias = str | int | float | bool | None
Field: TypeAlias = Scalar | tuple[str, ...]


class Fault(Exception):
    """Something failed inside the license server; its log says what."""

    code: ClassVar[str] = "internal"

    def __init__(self, detail: str = "", **fields: Field) -> None:
        self.detail = detail or " ".join((type(self).__doc__ or "").split())
        self.fields = fields
        super().__init__(self.detail)


class BadRequest(Fault):
    """The request is not of the form that the contract asks for."""

    code = "bad_request"


class Unauthenticated(Fault):
    """This call needs a credential, and none that is valid came with it."""

    code = "unauthenticated"


class BadLogin(Unauthenticated):
    """The user, the password or the code is not right; which of them is not said."""


class NameTaken(Fault):
    """There is something of that name already; choose another one."""

    code = "name_taken"


class BadActivationCode(Fault):
    """No entitlement of this product has that activation code; check the code with whoever bought the licences."""

    code = "bad_activation_code"


class Forbidden(Fault):
    """This account or address may not do that."""

    code = "forbidden"


class UnknownLease(Fault):
    """There is no lease of that id and secret here; check out again."""

    code = "unknown_lease"


class UnknownProduct(Fault):
    """No bundle imported here names that product; ask the administrator what is hosted."""

    code = "unknown_product"


class UnknownFeature(Fault):
    """The entitlement has no feature of that key."""

    code = "unknown_feature"


class NotFound(Fault):
    """There is nothing at that address."""

    code = "not_found"


class MethodNotAllowed(Fault):
    """That address does not answer this method."""

    code = "method_not_allowed"


class Timeout(Fault):
    """The request did not arrive whole in time."""

    code = "timeout"


class LeaseCloned(Fault):
    """Two processes use this lease; drop it without returning it and check out under a new id and secret."""

    code = "lease_cloned"


class LeaseIdTaken(Fault):
    """This lease id was used before with another secret or other content; make a new id for a new checkout."""

    code = "lease_id_taken"


class RequestIdTaken(Fault):
    """This request id was used before for another call of this lease; make a new id for each new call."""

    code = "request_id_taken"


class NotHeld(Fault):
    """The lease does not hold that much of the feature; ask for the lease to see what it holds."""

    code = "not_held"


class UndoTooLate(Fault):
    """The use cannot be undone any more: its time for that is over, or the vendor has begun the count anew since."""

    code = "undo_too_late"


class AlreadyUndone(Fault):
    """This use was undone before; its units came back then and do not come back twice."""

    code = "already_undone"


class LeaseEnd(StrEnum):
    """Why a lease ended (contract §2, ``lease_ended``)."""

    EXPIRED = "expired"
    CHECKED_IN = "checked_in"
    RELEASED = "released"
    ENTITLEMENT_ENDED = "entitlement_ended"
    BORROW_ENDED = "borrow_ended"


class LeaseEnded(Fault):
    """The lease has ended."""

    code = "lease_ended"

    def __init__(self, reason: LeaseEnd) -> None:
        super().__init__(_ENDED[reason], reason=reason.value)
        self.reason = reason


_ENDED = {
    LeaseEnd.EXPIRED: "The lease ended because no heartbeat came in time; check out again.",
    LeaseEnd.CHECKED_IN: "The lease ended because it was checked in; check out under a new id.",
    LeaseEnd.RELEASED: "The administrator took the seat back; check out again if it is still needed.",
    LeaseEnd.ENTITLEMENT_ENDED: "The lease ended because its entitlement expired, was disabled or was removed.",
    LeaseEnd.BORROW_ENDED: "The borrowed lease reached its end; check out again.",
}


class StillBorrowed(Fault):
    """The seat is borrowed and is not lent again before its end; ``hosted``: its terms are here to be shown."""

    code = "borrowed"

    def __init__(self, until: datetime, *, hosted: bool = True) -> None:
        stamp = until.isoformat(timespec="seconds").replace("+00:00", "Z")
        gone = "" if hosted else " Its entitlement is not hosted here any more, so it can be neither shown nor changed."
        super().__init__(
            f"The seat is borrowed until {stamp} and stays away until then, unless the machine that holds it returns"
            f" it earlier.{gone}",
            until=stamp,
        )


class Restored(Fault):
    """The server was restored from a backup and does not know what was used since; the vendor must answer first."""

    code = "restored"


class TooLarge(Fault):
    """The request is larger than the server accepts."""

    code = "too_large"


class UnsupportedMediaType(Fault):
    """The body must be JSON with Content-Type application/json."""

    code = "unsupported_media_type"


class TooManyRequests(Fault):
    """Too many failed requests came from this address; wait before the next."""

    code = "too_many_requests"


class Refusal(StrEnum):
    """Why a signed document was refused (contract §2, ``refused_document``)."""

    MALFORMED = "malformed"
    DECRYPTION = "decryption"
    SIGNATURE = "signature"
    THRESHOLD = "threshold"
    AUDIENCE = "audience"
    FORMAT = "format"
    REPLAYED = "replayed"
    OLDER = "older"
    SESSION_CLOSED = "session_closed"
    NOT_YET_VALID = "not_yet_valid"
    EXPIRED = "expired"
    FORKED = "forked"
    TOO_LARGE = "too_large"


class RefusedDocument(Fault):
    """A signed document was refused and nothing was changed."""

    code = "refused_document"

    def __init__(self, reason: Refusal, detail: str, *, problems: tuple[str, ...] = ()) -> None:
        """``problems``: what is wrong, one by one, where it is more than one thing."""
        super().__init__(detail, reason=reason.value, **({"problems": problems} if problems else {}))
        self.reason, self.problems = reason, problems


class Overloaded(Fault):
    """More requests wait than the server takes; try again shortly."""

    code = "overloaded"


class NotPrimary(Fault):
    """This daemon is a stand-by; ask the primary."""

    code = "not_primary"


class WritershipLost(NotPrimary):
    """Another daemon has written to the store, so this one stops."""


class StoreDown(Fault):
    """The store did not take the change, so nothing was changed; try again shortly."""

    code = "store_down"


class ClockBehind(Fault):
    """The server's clock is behind the time it has already seen, so nothing new is granted until the clock is right."""

    code = "clock_behind"


class Unbound(Fault):
    """The server no longer runs on the machine it was licensed for; the administrator must carry out a request."""

    code = "unbound"


class Draining(Fault):
    """The server is stopping; try again shortly, or use another server."""

    code = "draining"


class SetupFault(Fault):
    """A setting, a file or the machine keeps the program from starting; the sentence says which."""

    code = "setup"
