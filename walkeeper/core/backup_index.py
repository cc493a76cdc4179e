"""The index of a base backup: which bytes of which files lie in which piece. One line a piece, in the order of the tars.

A piece is a run of bytes of a tar: headers, contents, padding. All pieces of one tar, in order, are that tar, which is how a
backup is restored without walkeeper. A restore with it needs no tar: it writes each part of a piece where the index says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from walkeeper.core.backup import MAX_PIECE, Count, Sha256
from walkeeper.errors import BadBackup

MAX_LINE: Final = 16 * 1024 * 1024
"""Bytes of the longest line: a piece of nothing but headers has one entry for each 512 bytes."""

Path: TypeAlias = Annotated[str, Meta(min_length=1, max_length=4096)]


class Part(msgspec.Struct, frozen=True, array_like=True):
    """A file's bytes from ``offset`` on, as many as ``length``, which lie at ``at`` of the plain piece; or a directory.

    ``path`` is below the data directory, with slashes; what is in a tablespace begins with ``pg_tblspc/OID/``. ``size`` is that
    of the whole file. An empty file has one part without a byte. No links: a restore makes those of tablespaces.
    ``restored``: in the first part of a file of changed blocks, the size of the file that a restore makes of it.
    """

    path: Path
    kind: Literal["f", "d"]
    mode: Annotated[int, Meta(ge=0, le=0o7777)]
    size: Count = 0
    offset: Count = 0
    at: Count = 0
    length: Count = 0
    restored: Count = 0


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """``sha256`` is that of its zstd frame, which names the object; ``packed_size`` is that of the object, in bytes. ``size`` and
    ``xxh3`` (XXH3, 128 bits, by the backup's seed) are those of the plain piece.

    ``tablespace`` is the OID of the one whose tar it belongs to; 0 for the data directory's own.
    """

    sha256: Sha256
    size: Annotated[int, Meta(ge=1, le=MAX_PIECE)]
    packed_size: Annotated[int, Meta(ge=1)]
    xxh3: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
    tablespace: Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
    parts: tuple[Part, ...]


_NOWHERE: Final = frozenset({"", ".", ".."})
_DECODER: Final = msgspec.json.Decoder(Piece)


def encode(piece: Piece) -> bytes:
    """Its line, with the newline."""
    return msgspec.json.encode(piece) + b"\n"


def decode(lines: Iterable[bytes]) -> Iterator[Piece]:
    """Lines to pieces, each checked: no part leads out of the data directory or out of its piece. Raises BadBackup."""
    for number, line in enumerate(lines, start=1):
        try:
            piece = _piece(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, BadBackup) as error:
            raise BadBackup(f"index line {number}: {error}", hint="The index is damaged.") from None
        yield piece


def is_inside(path: str) -> bool:
    """Whether a path below the data directory stays there, and has one form."""
    return "\0" not in path and _NOWHERE.isdisjoint(path.split("/"))


def _piece(line: bytes) -> Piece:
    if len(line) > MAX_LINE:
        raise BadBackup(f"{len(line)} bytes")
    piece = _DECODER.decode(line)
    for part in piece.parts:
        _check(part, piece)
    return piece


def _check(part: Part, piece: Piece) -> None:
    if not is_inside(part.path):
        raise BadBackup(f"{part.path!r} leads out of the data directory")
    if part.at + part.length > piece.size or part.offset + part.length > part.size:
        raise BadBackup(f"{part.path!r}: bytes that its piece or its file does not have")
    if part.kind != "f" and (part.size or part.length):
        raise BadBackup(f"{part.path!r}: content of what is not a file")
