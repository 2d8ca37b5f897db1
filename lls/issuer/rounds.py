"""Signatures that may take minutes, by a token or an agent, while everybody else goes on changing the register.

    decide (a short transaction)  ─►  sign (no lock is held)  ─►  still so? settle (a short transaction)
            ▲                                                              │ no
            └──────────────────────────────────────────────────────────────┘ at most ROUNDS times

Rules
1. What is to be signed is decided in a transaction, which takes the numbers for it: a number is never signed twice with
   different words, even where the first signature came too late.
2. What was signed is settled in the very transaction that has found it to say what would be decided there and then.
   Else it is thrown away unseen, and decided anew.
3. A crash or a refusal before that leaves nothing but numbers that are used up.
4. A caller that holds the register's lock is a fault: it would be held through the signature.

It refuses to own what is decided and how that is compared (``issuing``, ``rotating``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from lls.issuer.keyring import Keyring
from lls.issuer.refusals import Conflict
from lls.issuer.register import Register

ROUNDS: Final = 5
"""How often it is decided and signed. Of several who want the same at once, one gets it in each round."""

_Decided = TypeVar("_Decided")
_Signed = TypeVar("_Signed")
_Settled = TypeVar("_Settled")


def settled_in_rounds(
    register: Register,
    keyring: Keyring,
    *,
    what: str,
    decide: Callable[[], _Decided],
    sign: Callable[[_Decided], _Signed],
    stands: Callable[[_Decided], bool],
    settle: Callable[[_Signed], _Settled],
) -> _Settled:
    """What ``settle`` makes of the signed. Raises Conflict where it never stood still; ``what`` names it there."""
    if register.in_transaction:
        raise RuntimeError("a signature inside a transaction would hold the register's lock until it is made")
    with register.transaction():
        keyring.refresh()
        decided = decide()
    for left in reversed(range(ROUNDS)):
        signed = sign(decided)
        with register.transaction():
            keyring.refresh()
            if stands(decided):
                return settle(signed)
            if left:
                decided = decide()
    raise Conflict(
        f"{what} was decided {ROUNDS} times, and each time somebody had changed what it says before its signature was "
        "there; so nothing was issued. Let the other work on it come to its end, then try again."
    )
