"""The .deb: a virtual environment of its own under /usr/lib/lls, on the distribution's Python and nothing else.

The environment is written, not made by ``venv``: a link to /usr/bin/python3, ``pyvenv.cfg``, and site-packages. It
holds compiled wheels, so the package is for one minor version of Python, and says so in ``Depends``. Bytecode is made
on the machine (``postinst``): bytes of a build machine's interpreter would neither repeat nor always fit.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Final

from parcel import site
from parcel.shelf import site_shelf
from parcel.tree import PROGRAM, Tree
from parcel.wheels import DEBIAN, GLIBC, Refused, Target, Wheel, unpack

PACKAGE: Final = "local-license-server"
MAINTAINER: Final = "The Local License Server project <maintainers@lls.invalid>"
HOME: Final = "usr/lib/lls"
SCRIPTS: Final = ("postinst", "prerm", "postrm")
CONFIGURATION: Final = "etc/lls"


def build_deb(
    root: Path,
    *,
    version: str,
    target: Target,
    wheels: Iterable[Wheel],
    sbom: str,
    vendor_keys: bytes | None,
    time: int,
    out: Path,
) -> Path:
    """Write the package into ``out`` and return its path. ``version`` is Debian's, with its revision."""
    if shutil.which("dpkg-deb") is None:
        raise Refused("dpkg-deb is needed to make a .deb; on Debian and Ubuntu: apt install dpkg")
    with tempfile.TemporaryDirectory() as folder:
        packages = Path(folder, "site-packages")
        unpack(wheels, target, packages)
        tree = _tree(root, target, packages, sbom=sbom, vendor_keys=vendor_keys)
        for place, content in site_shelf(root, time=time).items():
            _shelve(tree, place, content)
        tree.add(f"usr/share/doc/{PACKAGE}/changelog.Debian.gz", _squeezed(_changelog(version, time).encode("ascii")))
        _add_control(tree, root, version=version, target=target)
        staged = Path(folder, "staged")
        staged.mkdir()
        tree.write(staged, time=time)
        staged.chmod(0o755)
        os.utime(staged, (time, time))
        path = out / f"{PACKAGE}_{version}_{DEBIAN[target.machine]}.deb"
        # Level 1: a tenth more bytes for a seventh of the time. One thread: more of them cut other blocks.
        environ = os.environ | {"SOURCE_DATE_EPOCH": str(time), "DPKG_DEB_THREADS_MAX": "1"}
        done = subprocess.run(  # noqa: S603
            ["dpkg-deb", "--root-owner-group", "-Zxz", "-z1", "--build", str(staged), str(path)],  # noqa: S607
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Refused(f"dpkg-deb has failed: {done.stderr.strip()}")
        return path


def _tree(root: Path, target: Target, packages: Path, *, sbom: str, vendor_keys: bytes | None) -> Tree:
    tree = Tree()
    shutil.rmtree(packages / "bin", ignore_errors=True)  # scripts of libraries; ours is the launcher
    tree.add_folder(f"{HOME}/lib/python{target.python}/site-packages", packages)
    tree.link(f"{HOME}/bin/python3", "/usr/bin/python3")
    environment = ["home = /usr/bin", "include-system-site-packages = false", f"version = {target.python}", ""]
    tree.add(f"{HOME}/pyvenv.cfg", "\n".join(environment))
    shebang = f"#!/{HOME}/bin/python3 -I\n".encode()
    tree.add(f"{HOME}/bin/lls", shebang + (root / site.LAUNCHER).read_bytes(), mode=PROGRAM)
    tree.link("usr/bin/lls", "../lib/lls/bin/lls")
    for name, content in site.read(root, site.SETTINGS).items():
        tree.add(f"{CONFIGURATION}/{name}", content)
    if vendor_keys is not None:
        tree.add(f"{CONFIGURATION}/vendor.llskeys", vendor_keys)
    tree.add("lib/systemd/system/lls.service", (root / "systemd/lls.service").read_bytes())
    tree.add("usr/lib/sysusers.d/lls.conf", (root / "systemd/lls.sysusers").read_bytes())
    tree.add("usr/lib/tmpfiles.d/lls.conf", (root / "systemd/lls.tmpfiles").read_bytes())
    documents = f"usr/share/doc/{PACKAGE}"
    for name, content in site.read(root, *site.DOCUMENTS).items():
        tree.add(f"{documents}/{name}", content)
    for name, content in site.read(root, *site.SAMPLES).items():
        tree.add(f"{documents}/examples/{name}", content)
    tree.add(f"{documents}/copyright", (root / "packaging/debian/copyright").read_bytes())
    tree.add(f"{documents}/sbom.cdx.json", sbom)
    return tree


def _shelve(tree: Tree, place: str, content: bytes) -> None:
    """Where Debian looks, and as its policy wants it: pages are compressed, zsh has a folder for packages."""
    if place.startswith("man/"):
        tree.add(f"usr/share/{place}.gz", _squeezed(content))
    else:
        tree.add(f"usr/share/{place.replace('zsh/site-functions/', 'zsh/vendor-completions/')}", content)


def _changelog(version: str, time: int) -> str:
    """What Debian's policy wants of each package; the changes themselves are in ``CHANGELOG.md`` beside it."""
    dated = format_datetime(datetime.fromtimestamp(time, UTC))
    lines = [f"{PACKAGE} ({version}) unstable; urgency=medium", "  * CHANGELOG.md says what is new."]
    return "\n\n".join([*lines, f" -- {MAINTAINER}  {dated}\n"])


def _squeezed(content: bytes) -> bytes:
    squeezed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=squeezed, mtime=0, compresslevel=9) as packed:
        packed.write(content)
    return squeezed.getvalue()


def _add_control(tree: Tree, root: Path, *, version: str, target: Target) -> None:
    files = [(path, entry) for path, entry in tree.entries() if not entry.target]
    sums = "".join(f"{hashlib.md5(entry.content).hexdigest()}  {path}\n" for path, entry in files)  # noqa: S324 - dpkg's form
    size = sum(-(-len(entry.content) // 1024) for _, entry in files)
    tree.add("DEBIAN/control", _control(version=version, target=target, size=size))
    tree.add("DEBIAN/conffiles", "".join(f"/{path}\n" for path, _ in files if path.startswith(f"{CONFIGURATION}/")))
    tree.add("DEBIAN/md5sums", sums)
    for name in SCRIPTS:
        tree.add(f"DEBIAN/{name}", (root / "packaging/debian" / name).read_bytes(), mode=PROGRAM)


def _control(*, version: str, target: Target, size: int) -> str:
    major, minor = map(int, target.python.split("."))
    depends = [
        f"python3 (>= {target.python})",
        f"python3 (<< {major}.{minor + 1})",
        f"libc6 (>= {GLIBC[0]}.{GLIBC[1]})",
        "passwd",
    ]
    return "\n".join(
        [
            f"Package: {PACKAGE}",
            f"Version: {version}",
            f"Architecture: {DEBIAN[target.machine]}",
            f"Maintainer: {MAINTAINER}",
            f"Installed-Size: {size}",
            f"Depends: {', '.join(depends)}",
            "Recommends: systemd",
            "Section: net",
            "Priority: optional",
            "Description: floating seats for networks without a way out",
            " The Local License Server lends floating seats to applications on a network",
            " that has no way out, by files that the software's vendor has signed, and",
            " reports what was used by files that nobody can edit unseen.",
            " .",
            " The package carries its own virtual environment and needs no network.",
            "",
        ]
    )
