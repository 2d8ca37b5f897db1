"""Small wheels and a small checkout: the whole way of a package in a second, with the real scripts."""

from __future__ import annotations

import base64
import ensurepip
import hashlib
import shutil
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from parcel import site
from parcel.archive import SCRIPTS, UNITS, build_archive
from parcel.seal import Key
from parcel.wheels import Target, Wheel, read_wheel

ROOT = Path(__file__).parents[2]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
HERE = Target(python=PYTHON, machine="x86_64")
NOON = 1_795_000_000

PROGRAM = {
    "lls/__init__.py": "",
    "lls/cli.py": 'import sys\n\n\ndef main() -> None:\n    print("lls of a test", sys.flags.isolated)\n',
}


TOOLS = {"a-library": "a-library-tool", "local-license-server": "lls-issuer"}


def make_wheel(folder: Path, name: str, files: Mapping[str, str], *, version: str = "1.0") -> Wheel:
    """A wheel as flit would make one."""
    stem = name.replace("-", "_")
    info = f"{stem}-{version}.dist-info"
    members = dict(files) | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{TOOLS.get(name, stem)} = {stem}:main\n",
    }
    lines = [f"{path},sha256={_digest(text)},{len(text.encode())}\n" for path, text in members.items()]
    members[f"{info}/RECORD"] = "".join([*lines, f"{info}/RECORD,,\n"])
    path = folder / f"{stem}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as packed:
        for member, text in members.items():
            packed.writestr(zipfile.ZipInfo(member, (2026, 1, 1, 0, 0, 0)), text)
    return read_wheel(path)


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


def make_checkout(folder: Path) -> Path:
    """The files that packages take from the checkout, as they are, in another place."""
    names = (*site.DOCUMENTS, site.SETTINGS, *site.SAMPLES, site.LAUNCHER, site.LICENCE, *SCRIPTS, *UNITS)
    for name in (
        *names,
        "packaging/Containerfile",
        *(f"packaging/debian/{one}" for one in ("copyright", "postinst", "prerm", "postrm")),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def make_stock(folder: Path) -> list[Wheel]:
    """A program and its one library."""
    folder.mkdir(parents=True)
    return [
        make_wheel(folder, "a-library", {"a_library.py": "def main() -> None: ...\n"}),
        make_wheel(folder, "local-license-server", PROGRAM),
    ]


def make_key(path: Path) -> Key:
    """A signing key; its public half lies beside it as ``.pub``."""
    made = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(
        made.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    path.with_suffix(".pub").write_bytes(
        made.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return Key(path)


def pip_wheel() -> Wheel:
    """The one that this Python brings along."""
    (path,) = Path(ensurepip.__file__).parent.joinpath("_bundled").glob("pip-*.whl")
    return read_wheel(path)


def make_archive(folder: Path, *, key: Key | None, version: str = "1.0-1", vendor_keys: bytes | None = None) -> Path:
    """An archive of the stock, packed into ``folder``."""
    folder.mkdir(parents=True)
    return build_archive(
        make_checkout(folder / "checkout"),
        name="local-license-server",
        version=version,
        house={HERE: make_stock(folder / "stock")},
        pip=pip_wheel(),
        sbom="{}\n",
        vendor_keys=vendor_keys,
        key=key,
        time=NOON,
        out=folder,
    )
