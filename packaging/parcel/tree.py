"""Files before they are a package: path, bytes, mode; in the order of their names and of one time."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER, FILE, PROGRAM = 0o755, 0o644, 0o755


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file, or a link to ``target``."""

    content: bytes = b""
    mode: int = FILE
    target: str = ""


class Tree:
    """What will lie on the customer's disk."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def add(self, path: str, content: bytes | str, *, mode: int = FILE) -> None:
        """A file; nothing may stand at its place already."""
        self._place(path, Entry(content=content.encode() if isinstance(content, str) else content, mode=mode))

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        self._place(path, Entry(target=target))

    def add_folder(self, path: str, folder: Path) -> None:
        """Everything below ``folder``; a file that somebody may run stays one."""
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                runs = file.suffix != ".so" and file.stat().st_mode & 0o100
                place = f"{path}/{file.relative_to(folder).as_posix()}"
                self.add(place, file.read_bytes(), mode=PROGRAM if runs else FILE)

    def entries(self) -> Iterator[tuple[str, Entry]]:
        """In the order of their paths."""
        yield from sorted(self._entries.items())

    def folders(self) -> list[str]:
        """Every folder that a path goes through, outer ones first."""
        return sorted({str(up) for path in self._entries for up in Path(path).parents} - {"."})

    def write(self, root: Path, *, time: int) -> None:
        """Onto a disk, for who packs from there."""
        for folder in self.folders():
            (root / folder).mkdir(exist_ok=True)
        for path, entry in self.entries():
            place = root / path
            if entry.target:
                place.symlink_to(entry.target)
            else:
                place.write_bytes(entry.content)
                place.chmod(entry.mode)
            os.utime(place, (time, time), follow_symlinks=False)
        for folder in reversed(self.folders()):
            (root / folder).chmod(FOLDER)
            os.utime(root / folder, (time, time))

    def tar_gz(self, *, time: int) -> bytes:
        """A compressed archive, whose bytes depend on nothing but the tree and the time."""
        packed = io.BytesIO()
        with (
            gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=time, compresslevel=6) as squeezed,
            tarfile.open(fileobj=squeezed, mode="w", format=tarfile.GNU_FORMAT) as tar,
        ):
            members = [*((folder, None) for folder in self.folders()), *self.entries()]
            for path, entry in sorted(members, key=lambda member: member[0]):
                tar.addfile(_member(path, entry, time), io.BytesIO(entry.content) if entry else None)
        return packed.getvalue()

    def _place(self, path: str, entry: Entry) -> None:
        if path in self._entries or path.startswith("/"):
            raise ValueError(f"{path} is placed twice or is no relative path")
        self._entries[path] = entry


def _member(path: str, entry: Entry | None, time: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.mtime, info.uname, info.gname = time, "root", "root"
    if entry is None:
        info.type, info.mode = tarfile.DIRTYPE, FOLDER
    elif entry.target:
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.target, 0o777
    else:
        info.size, info.mode = len(entry.content), entry.mode
    return info
