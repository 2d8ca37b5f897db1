"""``python -m parcel``: everything that `make package` makes, in one folder."""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Final

from lls.faults import Fault
from lls.signed.keys import read_key_set
from parcel import site
from parcel.archive import build_archive
from parcel.deb import PACKAGE, build_deb
from parcel.sbom import bill
from parcel.seal import SIGNATURE, SUMS, Key, sums
from parcel.wheels import DEBIAN, Refused, Target, installer, wheelhouse

ROOT: Final = Path(__file__).parents[2]
PYTHONS: Final = ("3.11", "3.12", "3.13")
_WORD: Final = re.compile(r"[a-z0-9][a-z0-9.]{0,30}")


def main(words: list[str] | None = None) -> int:
    """The exit status: 0 made, 1 refused with one sentence."""
    try:
        return _make(_parser().parse_args(words))
    except Refused as why:
        print(f"Refused: {why}", file=sys.stderr)  # noqa: T201
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="parcel", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="the folder for what is made")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "wheels", help="where downloaded wheels stay")
    parser.add_argument("--sign-key", type=Path, help="EC P-256 private key, PEM; without it nothing is signed")
    parser.add_argument("--vendor-keys", type=Path, help="the vendor's key set, to be carried in the packages")
    parser.add_argument("--vendor", default="", help="a word for a branded package's version: 0.1.0+WORD-1")
    parser.add_argument("--revision", type=int, default=1, help="rises when the same version is packed anew")
    parser.add_argument("--deb-python", default=_system_python(), help="the Python of the .deb's distribution")
    parser.add_argument("--machine", default=platform.machine(), choices=sorted(DEBIAN))
    return parser


def _make(wanted: argparse.Namespace) -> int:
    time = site.commit_time(ROOT)
    os.environ["SOURCE_DATE_EPOCH"] = str(time)  # flit builds our wheel by it
    key = Key(wanted.sign_key) if wanted.sign_key else None
    vendor_keys = _vendor_keys(wanted.vendor_keys)
    version = _version(wanted.vendor, branded=vendor_keys is not None)
    for_deb = Target(python=wanted.deb_python, machine=wanted.machine)
    targets = sorted(
        {for_deb, *(Target(python=python, machine=wanted.machine) for python in PYTHONS)}, key=lambda one: one.tag
    )
    house = wheelhouse(ROOT, wanted.work, targets)
    pip = installer(ROOT, wanted.work, for_deb)
    wanted.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=wanted.out.parent, prefix=".parcel-") as folder:
        made = Path(folder)
        made.chmod(0o755)
        build_deb(
            ROOT,
            version=f"{version}-{wanted.revision}",
            target=for_deb,
            wheels=house[for_deb],
            sbom=bill({for_deb: house[for_deb]}, time=time),
            vendor_keys=vendor_keys,
            time=time,
            out=made,
        )
        build_archive(
            ROOT,
            name=f"{PACKAGE}-{version}-{wanted.revision}-linux-{wanted.machine}",
            version=f"{version}-{wanted.revision}",
            house=house,
            pip=pip,
            sbom=(whole := bill(house, time=time, extra=[pip])),
            vendor_keys=vendor_keys,
            key=key,
            time=time,
            out=made,
        )
        (made / f"{PACKAGE}-{version}-{wanted.revision}.cdx.json").write_text(whole, "utf-8")
        shutil.copy(ROOT / "packaging/verify.sh", made)
        listed = sums((path.name, path.read_bytes()) for path in made.iterdir())
        (made / SUMS).write_bytes(listed)
        if key is not None:
            (made / SIGNATURE).write_bytes(key.sign(listed))
        _move(made, wanted.out)
    _tell(wanted.out, listed.decode(), key)
    return 0


def _move(made: Path, out: Path) -> None:
    """Beside what lies there of other makes; only the checksums are always those of the last one."""
    out.mkdir(exist_ok=True)
    (out / SIGNATURE).unlink(missing_ok=True)  # it may not stand beside sums that it does not sign
    for path in sorted(made.iterdir()):
        path.chmod(0o755 if path.suffix == ".sh" else 0o644)
        path.replace(out / path.name)


def _tell(out: Path, listed: str, key: Key | None) -> None:
    print(f"In {out}:\n{listed}", end="")  # noqa: T201
    if key is None:
        warning = "NOT SIGNED: nobody can tell these packages from forged ones; make them with SIGN_KEY=…"
        print(warning, file=sys.stderr)  # noqa: T201
    else:
        print(f"Signed by the key with the fingerprint {key.fingerprint}")  # noqa: T201


def _version(vendor: str, *, branded: bool) -> str:
    version = str(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"])
    if bool(vendor) != branded:
        raise Refused("A branded package needs both: VENDOR=word and VENDOR_KEYS=file.")
    if vendor and not _WORD.fullmatch(vendor):
        raise Refused(f"VENDOR={vendor} must be one word of a-z, 0-9 and dots: it enters the package's version.")
    return f"{version}+{vendor}" if vendor else version


def _vendor_keys(path: Path | None) -> bytes | None:
    """Judged here, so that no site gets a package that cannot start."""
    if path is None:
        return None
    try:
        content = path.read_bytes()
        read_key_set(content.decode("ascii"))
    except (OSError, ValueError, Fault) as error:
        raise Refused(f"VENDOR_KEYS {path} is no key set that can be read: {error}") from error
    return content


def _system_python() -> str:
    """The Python of this distribution, not the one that runs us."""
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    system = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    done = subprocess.run([system, "-I", "-c", ask], capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
