"""The offline archive: wheels for several Pythons, ``install.sh``, and checksums that it verifies before it installs.

It serves systems without dpkg (RHEL and its kin), containers, and whoever wants the program under a folder of his own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from parcel import site
from parcel.seal import SIGNATURE, SUMS, Key, sums
from parcel.shelf import site_shelf
from parcel.tree import PROGRAM, Tree
from parcel.wheels import Target, Wheel

SCRIPTS: Final = ("packaging/install.sh", "packaging/verify.sh")
UNITS: Final = ("systemd/lls.service", "systemd/lls.sysusers", "systemd/lls.tmpfiles")


def build_archive(
    root: Path,
    *,
    name: str,
    version: str,
    house: Mapping[Target, Iterable[Wheel]],
    pip: Wheel,
    sbom: str,
    vendor_keys: bytes | None,
    key: Key | None,
    time: int,
    out: Path,
) -> Path:
    """Write ``name.tar.gz`` into ``out``; everything in it lies in a folder ``name``."""
    files = _files(root, version=version, house=house, pip=pip, sbom=sbom)
    files |= {f"share/{place}": content for place, content in site_shelf(root, time=time).items()}
    if vendor_keys is not None:
        files["vendor.llskeys"] = vendor_keys
    listed = sums(files.items())
    files[SUMS] = listed
    if key is not None:
        files[SIGNATURE] = key.sign(listed)
    tree = Tree()
    for place, content in files.items():
        tree.add(f"{name}/{place}", content, mode=PROGRAM if place.endswith(".sh") else 0o644)
    path = out / f"{name}.tar.gz"
    path.write_bytes(tree.tar_gz(time=time))
    return path


def _files(
    root: Path, *, version: str, house: Mapping[Target, Iterable[Wheel]], pip: Wheel, sbom: str
) -> dict[str, bytes]:
    files = {f"wheelhouse/{wheel.path.name}": wheel.path.read_bytes() for some in house.values() for wheel in some}
    files[f"wheelhouse/{pip.path.name}"] = pip.path.read_bytes()
    for target, wheels in house.items():
        lines = [f"{wheel.requirement}\n" for wheel in wheels]
        files[f"wheels-{target.python}.txt"] = "".join(lines).encode()
    files |= site.read(root, *SCRIPTS, site.LAUNCHER, site.LICENCE, "packaging/Containerfile")
    files |= {f"docs/{one}": content for one, content in site.read(root, *site.DOCUMENTS).items()}
    files |= {f"config/{one}": content for one, content in site.read(root, site.SETTINGS, *site.SAMPLES).items()}
    files |= {f"systemd/{one}": content for one, content in site.read(root, *UNITS).items()}
    return files | {"VERSION": f"{version}\n".encode(), "sbom.cdx.json": sbom.encode()}
