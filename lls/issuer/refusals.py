"""Every way in which the vendor's side refuses, each with a code that a script can tell apart.

Rules
1. ``str(refusal)`` says what is wrong, where, and what to do; the command line prints exactly that and exits with 1.
2. A refusal means that nothing was changed: neither the register, nor a key, nor a file. That a report was refused is
   itself remembered (``receiving``), and a bundle whose signature failed has used up its number (``rounds``).
3. A signed document that does not hold is :class:`lls.faults.RefusedDocument`; here stand only the vendor's own rules.
"""

from __future__ import annotations

from enum import StrEnum

from lls.faults import Fault


class IssuerRefused(Fault):
    """The vendor's side refused, and nothing was changed."""

    code = "issuer_refused"


class HomeRefused(IssuerRefused):
    """The issuer's home directory cannot be used as it is."""

    code = "issuer_home"


class KeysLocked(IssuerRefused):
    """The vendor's keys are encrypted and the passphrase given does not open them."""

    code = "keys_locked"


class SigningFailed(IssuerRefused):
    """The command that holds a key did not sign with it."""

    code = "signing_failed"


class SignaturesMissing(IssuerRefused):
    """Fewer keys are here than the threshold demands; other people have to sign."""

    code = "signatures_missing"


class PendingRefused(IssuerRefused):
    """What waits for signatures was changed, is too old, is for other keys, or was signed by this key already."""

    code = "pending_refused"


class CatalogRefused(IssuerRefused):
    """The catalogue does not say what can be sold."""

    code = "catalog_refused"


class OrderRefused(IssuerRefused):
    """The order cannot be fulfilled as it stands; none of its lines was."""

    code = "order_refused"


class IntakeRefused(IssuerRefused):
    """An event of a shop or billing system, or the intake's configuration, cannot be used as it stands."""

    code = "intake_refused"


class CustomersRefused(IssuerRefused):
    """The file of customers cannot be read as a whole; nobody was taken in."""

    code = "customers_refused"


class HistoryBroken(IssuerRefused):
    """The history does not hold: a line was changed, left out or put in, or something was changed without one."""

    code = "history_broken"


class NotKnown(IssuerRefused):
    """The register has nothing of that name."""

    code = "not_known"


class Conflict(IssuerRefused):
    """That is in the register already, with other content."""

    code = "conflict"


class ReportProblem(StrEnum):
    """What an ingest found wrong with a report whose signature is good."""

    UNKNOWN_SERVER = "unknown_server"
    WRONG_SERVER = "wrong_server"
    GAP = "gap"
    FORK = "fork"
    TWO_COPIES = "two_copies"
    SET_BACK = "set_back"
    RESET = "reset"
    USAGE_DIFFERS = "usage_differs"
    NAMES_DIFFER = "names_differ"
    REPORT_ID_TAKEN = "report_id_taken"
    RANGE = "range"
    IMPLAUSIBLE = "implausible"


class ReportRefused(IssuerRefused):
    """The usage report was refused and nothing of it was counted."""

    code = "report_refused"

    def __init__(self, problem: ReportProblem, detail: str) -> None:
        super().__init__(detail, problem=problem.value)
        self.problem = problem
