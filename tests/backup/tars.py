"""Tars as PostgreSQL sends them, and what the pieces of one are taken for by others."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from walkeeper.backup.cutter import Cut, Cutter, buffer_bytes

Tree: TypeAlias = dict[str, bytes | None]
"""Contents by path; None for a directory."""


def tar_of(tree: Tree, links: dict[str, str] | None = None, *, mtime: int = 1_700_000_000) -> bytes:
    """Headers with times and owners, in the order of the tree, and directories with a slash, as ``src/port/tar.c`` does it."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path, content in tree.items():
            info = tarfile.TarInfo(path if content is not None else f"{path}/")
            info.mtime, info.uid, info.gid, info.uname, info.gname = mtime, 1000, 1000, "postgres", "postgres"
            info.mode = 0o700 if content is None else 0o600
            info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            info.size = len(content or b"")
            tar.addfile(info, io.BytesIO(content or b""))
        for path, target in (links or {}).items():
            info = tarfile.TarInfo(f"{path}/")
            info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
            tar.addfile(info)
    return made.getvalue()[: _end(made.getvalue())]


def _end(tar: bytes) -> int:
    """PostgreSQL writes the two zero blocks, and does not fill up to twenty as tarfile does."""
    last = len(tar.rstrip(b"\0"))
    return -(-last // 512) * 512 + 1024


def cut(tars: dict[int, bytes], piece: int, portion: int = 32768) -> tuple[list[Cut], Cutter]:
    """The pieces, each with bytes of its own; the buffer is one and the same, as dirty as it is."""
    cuts: list[Cut] = []
    buffer = bytearray(b"\xff" * buffer_bytes(piece))

    def emit(made: Cut) -> bytearray:
        assert made.buffer is buffer
        assert made.length <= buffer_bytes(piece) == len(buffer)
        cuts.append(Cut(bytearray(buffer[: made.length]), made.length, made.tablespace, made.parts))
        buffer[:] = b"\xff" * len(buffer)
        return buffer

    cutter = Cutter(emit, buffer, piece)
    for tablespace, tar in tars.items():
        cutter.begin(tablespace)
        for at in range(0, len(tar), portion):
            cutter.feed(memoryview(tar)[at : at + portion])
    cutter.end()
    return cuts, cutter


def joined(cuts: Iterable[Cut], tablespace: int = 0) -> bytes:
    return b"".join(each.buffer for each in cuts if each.tablespace == tablespace)


def by_index(cuts: Iterable[Cut]) -> tuple[Tree, dict[str, int]]:
    """The tree that a restore writes by the index alone, in any order; modes besides."""
    files: dict[str, bytearray] = {}
    written: dict[str, int] = {}
    tree: Tree = {}
    modes = {}
    for each in sorted(cuts, key=lambda made: made.length):
        for part in each.parts:
            modes[part.path] = part.mode
            if part.kind == "d":
                tree[part.path] = None
                continue
            content = files.setdefault(part.path, bytearray(part.size))
            content[part.offset : part.offset + part.length] = each.buffer[part.at : part.at + part.length]
            written[part.path] = written.get(part.path, 0) + part.length
    assert written == {path: len(content) for path, content in files.items()}
    return tree | {path: bytes(content) for path, content in files.items()}, modes


def unpacked(tar: bytes, directory: Path) -> Tree:
    """What the ``tar`` command makes of it."""
    directory.mkdir()
    subprocess.run(["tar", "-x", "-C", directory], input=tar, check=True, capture_output=True)
    return {
        path.relative_to(directory).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in directory.rglob("*")
        if not path.is_symlink()
    }
