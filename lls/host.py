"""What the machine under us says of itself: five parts, hashed, so that the vendor can compare and never read.

Rules (design §4)
1. A part that cannot be read is left out; the vendor enrols what the activation request names and nothing else.
2. Each value is hashed together with the server's id and the part's name: two servers on one machine share no hash.
3. ``macs`` are the burnt-in addresses of the real network ports, a hash each with blanks between; one that is still
   there is enough, because ports come and go with cards and docks.
4. In a container there is no machine to bind to: what is seen belongs to an image, a runtime or a node of the day. No
   part is named there, so that a vendor can bind such a server to its key alone (policy ``key_only``) and to no host.

Limits: a virtual machine's parts are what its hypervisor says, and a cloned one says the same again; two that run at
once are told by the forked journal. The kernel shows ``product_uuid`` and ``board_serial`` to root only; systemd reads
them for the service (``LoadCredential=host.product_uuid:…``), and what it hands over goes before what we may read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

MACS: Final = "macs"

_TEXTS: Final = {
    "machine_id": "etc/machine-id",
    "product_uuid": "sys/class/dmi/id/product_uuid",
    "board_serial": "sys/class/dmi/id/board_serial",
}
_MARKS_OF_A_CONTAINER: Final = ("run/.containerenv", ".dockerenv", "run/secrets/kubernetes.io")
_NAMES_OF_A_DISK: Final = ("serial", "device/serial", "wwid", "device/wwid", "dm/uuid")
_NO_VALUE: Final = frozenset({"", "uninitialized", "none", "not specified", "to be filled by o.e.m.", "default string"})
_PERMANENT: Final = "0"  # addr_assign_type: the address that the card came with


def host_components(
    server_id: str, state_dir: Path, *, root: Path = Path("/"), environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Part → hex SHA-256 of this machine; ``macs`` → several, with blanks between. Empty in a container.

    ``state_dir``: whose disk counts. ``root``: where ``etc``, ``sys`` and ``run`` are looked for.
    """
    if in_container(root=root, environment=environment):
        return {}
    given = environment.get("CREDENTIALS_DIRECTORY")
    found = {
        name: [(given and _text(Path(given, f"host.{name}"))) or _text(root / path)] for name, path in _TEXTS.items()
    }
    found["disk"] = [_disk(root, state_dir)]
    found[MACS] = sorted(set(_macs(root)))
    hashed = {
        name: " ".join(_hash(server_id, name, value) for value in values if value) for name, values in found.items()
    }
    return {name: value for name, value in hashed.items() if value}


def in_container(*, root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a container's runtime has left its mark: a file of its own, or ``$container``."""
    return "container" in environment or any((root / mark).exists() for mark in _MARKS_OF_A_CONTAINER)


def _hash(server_id: str, name: str, value: str) -> str:
    return hashlib.sha256(f"{server_id}\0{name}\0{value}".encode()).hexdigest()


def _text(path: Path) -> str:
    """A value of the kernel's or the firmware's; what says "nobody filled this in" is none: many boards say it."""
    try:
        value = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""  # not this kind of machine, or not for our eyes
    return "" if value.lower() in _NO_VALUE or not value.strip("0-") else value


def _disk(root: Path, state_dir: Path) -> str:
    """What names the disk under the state directory; empty for a network's or a memory's file system."""
    try:
        number = state_dir.stat().st_dev
        device = (root / "sys/dev/block" / f"{os.major(number)}:{os.minor(number)}").resolve(strict=True)
    except OSError:
        return ""
    whole = device.parent if (device / "partition").exists() else device
    return next((value for name in _NAMES_OF_A_DISK if (value := _text(whole / name))), "")


def _macs(root: Path) -> Iterator[str]:
    ports = root / "sys/class/net"
    for port in sorted(ports.iterdir()) if ports.is_dir() else ():
        if not (port / "device").exists():
            continue  # a bridge, a tunnel, a container's end of a pair
        if burnt_in := _text(port / "bonding_slave" / "perm_hwaddr"):
            yield burnt_in.lower()
        elif _first(port / "addr_assign_type") == _PERMANENT:
            yield _text(port / "address").lower()


def _first(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
