"""What the administrator should hear of without asking: conditions, the events that they make, and who is told.

Rules
1. A *condition* holds or does not: seats above 80 %, an entitlement that ends within 30 days, a clock that is behind.
   It has a key and a level. An *event* is its change: ``raised`` when it appears or its level rises, ``cleared`` when
   it is gone. Nobody is told twice of what has not changed, across restarts too.
2. Conditions, events and what is still to be delivered are one small database beside the store, and one look at the
   world is one transaction: a crash neither loses an event nor makes it anew.
3. Every destination has its own queue: one that does not answer holds up no other. It is tried again with growing
   pauses, until ``events.retry_hours`` are over; then the delivery is *dead* and waits for ``lls events retry``.
4. An event names products, entitlements and numbers. It never names a holder: mail and webhooks leave the room in which
   the journal's commitments hold.
5. Events are derived from the ledger's state; they are no history. The journal is, and it is not written here.

Limits: a look every ten seconds. What comes and goes in between is seen in the counters (denials), not here.
"""

from lls.events.condition import Condition, Event, Severity
from lls.events.herald import Herald
from lls.events.looking import (
    Look,
    Looking,
    backup_conditions,
    certificate_conditions,
    disk_conditions,
)
from lls.events.outbox import Delivery, Outbox
from lls.events.senders import Destination, Sender, destinations

__all__ = [
    "Condition",
    "Delivery",
    "Destination",
    "Event",
    "Herald",
    "Look",
    "Looking",
    "Outbox",
    "Sender",
    "Severity",
    "backup_conditions",
    "certificate_conditions",
    "destinations",
    "disk_conditions",
]
