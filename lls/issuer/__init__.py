"""The vendor's side: sells seats, issues signed bundles, and takes usage reports in that nobody edited on their way.

Its own command (``lls-issuer``), its own register, its own keys. It shares with the appliance only the documents
(``lls.signed``) and the words of the domain (``lls.licensing``).

| file | owns |
|---|---|
| ``office`` | the facade ``Issuer``: one method per command, one transaction each |
| ``catalog`` · ``orders`` | what can be sold · from an order to entitlements |
| ``amending`` | renewal, grants, resets, disabling: what changes of an entitlement that was sold |
| ``hosting`` · ``consumption`` | returns, lost servers, the next server · what the last one used up |
| ``keyring`` · ``issue`` | the vendor's keys · certificate, bundle, receipt |
| ``ingest`` · ``noticing`` · ``billing`` | usage reports · what else their lines say · billing lines |
| ``register`` · ``lookup`` | the only SQL · what somebody named, or that it is not there |
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
