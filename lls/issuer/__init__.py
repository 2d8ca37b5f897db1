"""The vendor's side: sells seats, issues signed bundles, and takes usage reports in that nobody edited on their way.

Its own command (``lls-issuer``), its own register, its own keys. It shares with the appliance only the documents
(``lls.signed``) and the words of the domain (``lls.licensing``).

| file | owns |
|---|---|
| ``office`` | the facade ``Issuer``: one method per command, each whole or not at all |
| ``catalog`` · ``catalog_file`` | what can be sold, and how a value is found · its TOML |
| ``orders`` · ``order_table`` · ``ordering`` | an order in JSON · in CSV · what it does |
| ``resolving`` · ``upgrading`` | a line and the catalogue make an entitlement · another edition of it |
| ``amending`` · ``balances`` · ``acts`` | term, seats, edition, resets, status · grants and their prices · once |
| ``delivery`` | what a customer gets for an order: bundles, codes, a letter |
| ``customers`` · ``below`` | who buys · what hangs below a row, to be counted and deleted |
| ``customer_fields`` · ``customer_file`` | the vendor's own fields · customers by CSV |
| ``history`` · ``auditing`` | who did what and why, as a chain · reading it, and whether it holds |
| ``hosting`` · ``consumption`` | returns, lost servers, the next server · what the last one used up |
| ``keyring`` · ``rotating`` | the vendor's keys · from one version of the key set to the next |
| ``signers`` · ``signing_agent`` | who signs: a file, or a command that holds the key |
| ``pending`` · ``pending_register`` | what waits for several people's signatures · that it is ours |
| ``telling`` | what a signature would cover, in words |
| ``issue`` · ``issuing`` | what certificate, bundle and receipt say · made, sealed and remembered |
| ``rounds`` | a signature that takes long keeps nobody from the register |
| ``serving`` · ``restoring`` | the terms of a license server · where a restored one goes on |
| ``ingest`` · ``noticing`` · ``explaining`` | usage reports · what else their lines say · why one is refused |
| ``billing`` · ``closing`` · ``cloudevents`` | billing lines · those that never change again · as events |
| ``views`` · ``feed`` · ``plots`` | who ends soon, how a customer fares · changes for an ERP · pictures |
| ``register`` · ``lookup`` | the only SQL · what somebody named, or that it is not there |
| ``intake`` | purchase events over HTTP: stored first, processed once |
| ``cli`` | the only printing |
"""

from __future__ import annotations

from lls.issuer.founding import sample_catalog
from lls.issuer.issue import Terms
from lls.issuer.issuing import WrittenBundle
from lls.issuer.office import Issuer
from lls.issuer.ordering import Fulfilled
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
