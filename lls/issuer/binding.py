"""What a server is bound to: its keys alone, or its machine too, and when that machine is still the same one.

Rules (design §4)
1. A bundle names the parts of the machine as the newest registered request did, and how many must still be there:
   three fifths, rounded up, but always one less than all, so that one exchanged part never stops a site.
2. A newer request of a machine that still holds by that measure enrols the parts as they are now: a machine may be
   renewed part by part, if the vendor hears of each step.
3. A request of another machine is the customer's word that the old one is gone. It is refused until somebody here says
   why it is believed (``rebind``); the reason stands in the history.
4. A request without parts comes from a container; such a server cannot be bound to a machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import TYPE_CHECKING, Final

from lls.issuer.refusals import Conflict
from lls.licensing.terms import HostBinding

if TYPE_CHECKING:
    from lls.issuer.issue import Terms
    from lls.issuer.register import Server

KEY_ONLY: Final = "key_only"
HOST: Final = "host"


def usual_number(parts: int) -> int:
    """How many of so many parts must still be there where the terms name no number (rule 1)."""
    return min(ceil(parts * 3 / 5), max(1, parts - 1))


def host_binding(host: Mapping[str, str], terms: Terms) -> HostBinding:
    """The binding to these parts, by rule 1 or by the number in the server's terms."""
    required = min(terms.required or usual_number(len(host)), len(host))
    return HostBinding(required=required, components=dict(host), grace=terms.rebind_grace)


def binding_member(server: Server, terms: Terms) -> dict[str, object]:
    """``server_license.binding`` of a bundle (contract §3)."""
    grace_seconds = int(terms.rebind_grace.total_seconds())
    if server.binding == KEY_ONLY:
        return {"policy": KEY_ONLY, "required": 0, "components": {}, "grace_seconds": grace_seconds}
    binding = host_binding(server.host, terms)
    return {
        "policy": HOST,
        "required": binding.required,
        "components": dict(binding.components),
        "grace_seconds": grace_seconds,
    }


def changed_parts(known: Server, host: Mapping[str, str], terms: Terms) -> list[str]:
    """The enrolled parts that a newer request does not confirm; none of a server that is bound to its keys alone."""
    return [] if known.binding == KEY_ONLY else host_binding(known.host, terms).changed(host)


def check_same_machine(known: Server, host: Mapping[str, str], terms: Terms, *, rebind: str | None) -> None:
    """Raises Conflict for a request of another machine that nobody vouches for."""
    if known.binding == KEY_ONLY or rebind is not None or host_binding(known.host, terms).holds(host):
        return
    changed = ", ".join(changed_parts(known, host, terms))
    raise Conflict(
        f"The request of {known.server_id} comes from another machine than the one enrolled: {changed} of its"
        f" {len(known.host)} parts differ. Ask the site what happened; if the old machine is out of service, repeat"
        " the command with --rebind REASON."
    )


def check_bindable(server_id: str, host: Mapping[str, str], *, binding: str, required: int | None) -> None:
    """Raises Conflict for a binding to a machine that the request does not name, or not by so many parts."""
    if binding == KEY_ONLY:
        return
    if not host:
        raise Conflict(
            f"The request of {server_id} names no parts of its machine (it runs in a container, or may not read them),"
            " so the server cannot be bound to it; use --binding key_only."
        )
    if required is not None and required > len(host):
        raise Conflict(
            f"The machine of {server_id} has {len(host)} parts in its newest request, so {required} of them can never"
            " match."
        )
