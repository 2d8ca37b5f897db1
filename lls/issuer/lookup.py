"""What somebody names by its id or reference, or the sentence that says that there is no such thing.

Every command finds its customer, server, entitlement or report here, so that each is missed in the same words. Raises
:class:`~lls.issuer.refusals.NotKnown` and nothing else. It refuses to own what becomes of them.
"""

from __future__ import annotations

from lls.issuer.refusals import NotKnown
from lls.issuer.register import Customer, IngestedReport, Register, Server, Sold


def customer_in(register: Register, key: str) -> Customer:
    """By account reference or id."""
    customer = register.customer(key)
    if customer is None:
        raise NotKnown(f"There is no customer {key}; see lls-issuer customer list.")
    return customer


def server_in(register: Register, server_id: str) -> Server:
    """By id."""
    server = register.server(server_id)
    if server is None:
        raise NotKnown(
            f"There is no server {server_id}; register its request first: lls-issuer server register REQUEST."
        )
    return server


def entitlement_in(register: Register, entitlement_id: str) -> Sold:
    """By id."""
    sold = register.entitlement(entitlement_id)
    if sold is None:
        raise NotKnown(f"There is no entitlement {entitlement_id}; see lls-issuer entitlement list.")
    return sold


def report_in(register: Register, report_id: str) -> IngestedReport:
    """By id."""
    report = register.report(report_id)
    if report is None:
        raise NotKnown(f"No report {report_id} was ingested; see lls-issuer report list.")
    return report
