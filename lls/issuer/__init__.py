"""The vendor's side: sells seats, issues signed bundles, and takes usage reports in that nobody edited on their way.

Its own command (``lls-issuer``), its own register, its own keys. It shares with the appliance only the documents
(``lls.signed``) and the words of the domain (``lls.licensing``).

| file | owns |
|---|---|
| ``office`` | the facade ``Issuer``: one method per command, one transaction each |
| ``catalog`` · ``orders`` | what can be sold · from an order to entitlements |
| ``keyring`` · ``issue`` | the vendor's keys · certificate, bundle, receipt |
| ``ingest`` · ``billing`` | usage reports · billing lines |
| ``register`` | the only SQL |
| ``cli`` | the only printing |
"""

from __future__ import annotations

from lls.issuer.issue import Terms
from lls.issuer.office import Fulfilled, Issuer, WrittenBundle, sample_catalog
from lls.issuer.refusals import IssuerRefused, ReportProblem, ReportRefused

__all__ = [
    "Fulfilled",
    "Issuer",
    "IssuerRefused",
    "ReportProblem",
    "ReportRefused",
    "Terms",
    "WrittenBundle",
    "sample_catalog",
]
