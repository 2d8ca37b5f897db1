"""``lls doctor``: every check, with the daemon's help or without it.

Rules
1. The daemon examines itself: it has the right to look at its folder, and knows its ledger, limits and clock.
2. Without a daemon the same is asked of the resting store, read-only: the ledger is built as a start would build it,
   bundles verified again. What then cannot be judged is left out, and the command says so.
3. From outside, the command itself asks whether every address answers as a client would find it.
4. An examination changes nothing and is never an error: what cannot be examined is a finding.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import ssl
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Final

from lls import __version__
from lls.airgap import Airgap
from lls.backup import Last
from lls.care.findings import Finding, doubtful, good, wrong
from lls.care.machine import examine_machine, examine_paths, examine_process
from lls.care.standing import examine_chain, examine_standing
from lls.care.told import examine_backups, examine_events
from lls.clock import GuardedClock, system_elapsed, system_wall
from lls.config import Address, Config, TlsMode, addresses
from lls.events import Outbox
from lls.faults import Fault, SetupFault
from lls.host import host_components
from lls.identity import KEY_FILES, key_files, load_identity
from lls.licensing.ledger import Ledger, Setting
from lls.store import Store
from lls.store.resting import RestingStore, is_in_use
from lls.writer import Writer

OLDEST_SQLITE: Final = (3, 34, 0)
ANSWER_SECONDS: Final = 5.0
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - asked, not bound


async def examine_running(
    config: Config,
    *,
    airgap: Airgap,
    writer: Writer,
    store: Store,
    most_connections: int,
    full: bool,
    last_backup: Last | None = None,
    outbox: Outbox | None = None,
) -> list[Finding]:
    """What the daemon finds out about itself. Never raises."""
    found = [good("server", f"It runs, version {__version__}.")]
    found += await asyncio.to_thread(lambda: list(examine_machine(config, now=system_wall())))
    found += await asyncio.to_thread(lambda: list(examine_paths(config)))
    ledger = await writer.settled()
    found += examine_process(most_connections=most_connections, leases=len(ledger.leases), environ=dict(os.environ))
    try:
        await writer.prove()
        found.append(good("store", f"The store answers; SQLite {sqlite3.sqlite_version}."))
        head = ledger.batch.before
        gaps = ledger.server.gaps
        found.append(await examine_chain(store, upto=head, first=_first(ledger), gaps=gaps, full=full))
    except Fault as fault:
        found.append(wrong("store", fault.detail, "Look at its disk, and at `journalctl -u lls`."))
    host = host_components(airgap.identity.server_id, Path(config.server.state_dir))
    found += examine_standing(ledger, now=writer.now(), raw=system_wall(), keys=airgap.newest_keys, host=host)
    server_id, now = airgap.identity.server_id, system_wall()
    found += await asyncio.to_thread(
        lambda: list(examine_backups(config.backup, server_id=server_id, last=last_backup, now=now))
    )
    if outbox is not None:
        try:
            found.append(examine_events(await asyncio.to_thread(outbox.count)))
        except OSError as error:
            found.append(doubtful("events", str(error), "Look at the state folder; other things go on."))
    return found


async def examine_resting(config: Config, *, full: bool) -> list[Finding]:
    """What can be found out without a daemon. Never raises."""
    state_dir = Path(config.server.state_dir)
    found = [
        wrong("server", "It holds its store and does not answer on its admin socket.", "See `systemctl status lls`.")
        if is_in_use(state_dir)
        else doubtful("server", "It does not run.", "Start it: systemctl start lls, or `lls serve`.")
    ]
    found += await asyncio.to_thread(lambda: list(examine_machine(config, now=system_wall())))
    store = RestingStore(state_dir)
    try:
        found += await _examine_store(config, store, full=full)
    except SetupFault as fault:
        found.append(wrong("start", fault.detail, "The server does not start until that is mended."))
    except Fault as fault:
        found.append(doubtful("store", fault.detail, "Run `lls doctor` as root, or start the server and ask it."))
    finally:
        await store.close()
    return found


async def _examine_store(config: Config, store: RestingStore, *, full: bool) -> list[Finding]:
    state_dir = Path(config.server.state_dir)
    vendor_keys = await asyncio.to_thread(read_vendor_keys, Path(config.trust.keys))
    if not (state_dir / "lls.sqlite3").exists():
        return [doubtful("store", "There is no database yet.", "The first start makes it: `lls serve`.")]
    stored, known = await store.schema()
    if stored > known:
        advice = "Install that version again, or restore a backup made by this one."
        said = f"The database has schema {stored}, and this program knows {known}: it is of a newer version."
        return [wrong("schema", said, advice)]
    if stored < known:
        said = f"The database has schema {stored}; the next start makes {known} of it."
        return [doubtful("schema", said, "Start the server: nothing is lost, and an older program refuses it then.")]
    found = [good("schema", f"The database has schema {stored}."), _sqlite()]
    clock = GuardedClock(
        wall=system_wall,
        elapsed=system_elapsed,
        mark=await store.mark(),
        tolerance=timedelta(seconds=config.clock.tolerance_seconds),
    )
    if len(key_files(state_dir / "keys")) < len(KEY_FILES):
        return found  # the keys have a finding of their own, and nothing may be made in their place
    identity = await asyncio.to_thread(load_identity, state_dir / "keys")
    airgap = Airgap(
        identity=identity,
        host=partial(host_components, identity.server_id, state_dir),
        name=config.server.name,
        version=__version__,
        vendor_keys=vendor_keys,
        store=store,
        clock=clock,
        state_dir=state_dir,
        setting=Setting(grace_seconds=float(config.lease.grace_seconds)),
    )
    now = clock.now()
    ledger = await asyncio.to_thread(airgap.build, await store.load(), now)
    upto, gaps = ledger.batch.before, ledger.server.gaps
    found.append(await examine_chain(store, upto=upto, first=_first(ledger), gaps=gaps, full=full))
    host = host_components(airgap.identity.server_id, Path(config.server.state_dir))
    found += examine_standing(ledger, now=now, raw=system_wall(), keys=airgap.newest_keys, host=host)
    found += examine_backups(config.backup, server_id=identity.server_id, now=system_wall())
    return found


def _first(ledger: Ledger) -> int:
    """The first line that must still be in the database."""
    return ledger.archives[-1].end.seq + 1 if ledger.archives else 1


def read_vendor_keys(path: Path) -> str:
    """The text of the vendor's key set. Raises SetupFault."""
    try:
        return path.read_text("ascii")
    except FileNotFoundError:
        raise SetupFault(
            f"The vendor's key set {path} (trust.keys) is not there;"
            " put the .llskeys file that came with your software at that place."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SetupFault(f"The vendor's key set {path} (trust.keys) cannot be read.") from error


def _sqlite() -> Finding:
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        return doubtful(
            "sqlite", f"SQLite {sqlite3.sqlite_version} is older than what was tested.", "Upgrade the system."
        )
    return good("sqlite", f"SQLite {sqlite3.sqlite_version}.")


# ---------------------------------------------------------------- from outside


def examine_outside(config: Config, *, running: bool) -> Iterator[Finding]:
    """Whether each address answers as it should, asked as a client would. ``running``: whether there is a daemon."""
    for address in addresses(config.server):
        place = f"{address.host}:{address.port}"
        if not address.port:
            yield good("port", f"The system chooses the port of {place}.")
            continue
        try:
            with socket.create_connection((_ANYWHERE.get(address.host, address.host), address.port), ANSWER_SECONDS):
                pass
        except OSError as error:
            if running:
                yield wrong(
                    "port",
                    f"Nobody answers at {place}: {error.strerror or error}.",
                    "Look at [server] listen, and at ss -ltn.",
                )
            continue
        if not running:
            yield wrong(
                "port", f"Another program listens at {place}.", "ss -ltnp names it; stop it, or change [server] listen."
            )
            continue
        yield _asked(config, address, place)


def _asked(config: Config, address: Address, place: str) -> Finding:
    host = _ANYWHERE.get(address.host, address.host)
    if config.tls.mode is TlsMode.OFF:
        connection: HTTPConnection = HTTPConnection(host, address.port, timeout=ANSWER_SECONDS)
    else:
        context = ssl.create_default_context()
        # Whose certificate it is has a check of its own; here it counts that the address answers.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = HTTPSConnection(host, address.port, timeout=ANSWER_SECONDS, context=context)
    try:
        connection.request("GET", "/livez")
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        return wrong(
            "port", f"At {place} nobody speaks as this server does: {error}.", "ss -ltnp names who listens there."
        )
    finally:
        connection.close()
    if status != HEALTHY:
        return wrong("port", f"{place} answers with {status}.", "Look at `journalctl -u lls`.")
    return good("port", f"{place} answers.")


HEALTHY: Final = 200
