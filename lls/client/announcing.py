"""When a loan shows itself to the server that lent it: by itself, once in a while, and never in the program's way.

A server that was put back from an older backup does not know what it lent since, and would lend the seat again; it
counts a loan that is shown with the server's own signed word for it (decisions 0021 and 0031).

Rules
1. Whoever loads a loan waits for nothing: one daemon thread asks, once, for three seconds at each address. What becomes
   of it changes nothing here, neither for the better (the loan counts as before) nor for the worse.
2. Only where servers are named, by the caller or the environment. A program that knows no server stays as silent as it
   was, also where the loan's file has addresses.
3. The attempt stands in the loan's file before anybody is asked: of many programs that start at once one asks. Where it
   cannot be written nobody asks, because nothing would keep the next one from asking.
4. After an answer, whatever it says, half a day of quiet. After none a quarter of an hour, and twice that each time,
   up to the same half day. A clock that was turned back makes it due: one question too many, and then quiet again.

Limits: whoever owns the disk can keep a loan silent, and the network, too. A loan by file has nobody to show itself to.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import replace

from .elapsed import read_clocks
from .errors import LlsError, NoAnswer, Refused
from .keeping import Kept, State, Store
from .transport import Request, Route
from .trust import nonce_text

QUIET_SECONDS = 12 * 3600.0
FIRST_PAUSE_SECONDS = 900.0
ANSWER_SECONDS = 3.0

_MOST_DOUBLINGS = 10


def announcement(kept: Kept, capability: str) -> Request:
    """A heartbeat that shows what the server signed; it changes nothing where the lease is known."""
    body = {"beat": 0, "nonce": nonce_text(os.urandom(32)), "capability": capability}
    return Request(method="POST", path=f"/v1/leases/{kept.lease_id}/heartbeat", body=body, secret=kept.secret)


def announce_soon(
    kept: Kept, capability: str, *, server_id: str, store: Store, route: Callable[[], Route]
) -> threading.Thread | None:
    """Starts the thread of rule 1 where it is due; ``None`` where it is not, or where there is no thread to be had."""
    if kept.key or not _is_due(kept):
        return None

    def work() -> None:
        # Whatever is wrong here (a mistyped address, a certificate that does not fit, a full disk) is told by what the
        # program does itself: `extend`, `give_back`, the next mark of the clock.
        with contextlib.suppress(LlsError, OSError):
            _announce(kept.lease_id, capability, server_id=server_id, store=store, route=route)

    thread = threading.Thread(target=work, name=f"lls-announce-{kept.product}", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        # The system has none left, or the interpreter ends.
        return None
    return thread


def _announce(lease_id: str, capability: str, *, server_id: str, store: Store, route: Callable[[], Route]) -> None:
    kept = _claimed(lease_id, store)
    if kept is None:
        return
    # Its own connections: nobody else's are closed under it, and it leaves none open.
    with contextlib.closing(route().anew()) as way:
        try:
            way.ask(announcement(kept, capability), server_id=server_id, timeout=ANSWER_SECONDS)
        except NoAnswer:
            return
        except Refused:
            # The server judged it. It will not judge otherwise because it is asked more often.
            pass
    with store.changing():
        kept = store.read(lease_id)
        store.write(replace(kept, shown_in_vain=0))


def _claimed(lease_id: str, store: Store) -> Kept | None:
    """The loan as it is on disk now, with this attempt noted as one in vain (rule 3); ``None``: not ours to make."""
    with store.changing():
        kept = store.read(lease_id)
        if kept.state is not State.HELD or not _is_due(kept):
            return None
        kept = replace(kept, shown_at=read_clocks().wall, shown_in_vain=kept.shown_in_vain + 1)
        store.write(kept)
    return kept


def _is_due(kept: Kept) -> bool:
    pause = QUIET_SECONDS
    if kept.shown_in_vain:
        pause = min(pause, FIRST_PAUSE_SECONDS * 2 ** min(kept.shown_in_vain - 1, _MOST_DOUBLINGS))
    return not 0 <= read_clocks().wall - kept.shown_at < pause
