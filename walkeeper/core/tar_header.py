"""The tar around a backup's files, as pieces have it: what lies between two files' bytes is told by the index alone.

So a restore knows a piece's XXH3 from files that are there already, and fetches only what differs.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

from walkeeper.core.backup_index import Part, Piece

BLOCK: Final = 512
"""Bytes of a header; contents are filled up to a multiple of it."""
_OCTAL: Final = 8**11
_DOTTED: Final = frozenset({"pg_wal/archive_status", "pg_wal/summaries"})
"""What PostgreSQL sends with ``./`` before it (``sendDir`` in ``src/backend/backup/basebackup.c``)."""


def header(path: str, kind: str, mode: int, size: int) -> bytes:
    """POSIX ustar as PostgreSQL writes it (``tarCreateHeader`` in ``src/port/tar.c``), without times, owners and their names."""
    name = ("./" if path in _DOTTED else "") + path + ("/" if kind == "d" else "")
    length = b"%011o " % size if size < _OCTAL else b"\x80" + size.to_bytes(11, "big")
    before = name.encode().ljust(100, b"\0") + b"%07o " % mode + b"0000000\0" * 2 + length + b"00000000000\0"
    kinds = b"5" if kind == "d" else b"0"
    after = kinds + bytes(100) + b"ustar\0" + b"00" + bytes(64) + b"0000000 " * 2 + bytes(167)
    return with_checksum(before, after)


def with_checksum(before: bytes, after: bytes) -> bytes:
    """A header with that before and behind its own eight bytes."""
    return before + b"%06o\0 " % checksum(before, after) + after


def checksum(before: bytes, after: bytes) -> int:
    """Of a header with that before and behind its own eight bytes: the sum of all, these taken for spaces.

    The lower half of Adler-32 is the sum and 1, modulo 65521, which 256 bytes cannot reach: a third of the time of ``sum``.
    """
    whole = before + b" " * 8 + after
    return (zlib.adler32(whole[:256]) & 0xFFFF) + (zlib.adler32(whole[256:]) & 0xFFFF) - 2


def around(piece: Piece) -> Iterator[tuple[bytes, Part | None]]:
    """What a piece has before each of its parts, and, with None, behind the last one."""
    at = 0
    for part in piece.parts:
        between = part.at - at
        if part.offset == 0 and between >= BLOCK:
            yield bytes(between - BLOCK) + header(_within(part, piece), part.kind, part.mode, part.size), part
        else:
            yield bytes(max(0, between)), part
        at = part.at + part.length
    yield bytes(max(0, piece.size - at)), None


def _within(part: Part, piece: Piece) -> str:
    """Its path in the tar: that of a tablespace begins below it."""
    return part.path.removeprefix(f"pg_tblspc/{piece.tablespace}/") if piece.tablespace else part.path
