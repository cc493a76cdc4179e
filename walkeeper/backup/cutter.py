"""Tars to pieces: where each piece begins and ends, and what lies in it. No I/O.

A piece is a run of a tar's bytes, so that all pieces of a tar, one behind the other, are that tar. A file above ``piece`` bytes
has pieces of its own, cut at multiples of that many bytes of the *file*; smaller ones share a piece, which ends where a checksum
of a path says so, or when it is full: one file more or less moves only the pieces next to it. The last piece of a tar has the
two zero blocks that end it. Headers are written without times, owners and their names: the same files are the same
pieces on the next attempt.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from walkeeper.core.backup import PIECE
from walkeeper.core.backup_index import Part, is_inside
from walkeeper.core.incremental import changed_path, read_changes
from walkeeper.core.tar_header import BLOCK, checksum, with_checksum
from walkeeper.errors import BadBackup

_END: Final = bytes(2 * BLOCK)
SPARE: Final = 8 * BLOCK
"""Bytes that a piece may have more than a file in it: a header, padding, the end of the tar."""
_SHARE: Final = 2
"""A piece that small files share has ``piece / _SHARE`` bytes on average: with more it is full more often, and moves the next."""
_ZEROS: Final = bytes(BLOCK)


@dataclass(slots=True)
class Cut:
    """A piece: the first ``length`` bytes of ``buffer``, of that tablespace's tar (0: the data directory's)."""

    buffer: bytearray
    length: int
    tablespace: int
    parts: tuple[Part, ...]


class _Member(NamedTuple):
    """A header that was read. ``kind`` is tar's: a file, a directory, or a link."""

    path: str
    kind: Literal["f", "d", "l"]
    mode: int
    size: int


class Cutter:
    """``emit`` takes a piece away, and returns the buffer for the next one, of ``buffer_bytes(piece)`` or more.

    Call ``begin`` for each tar, ``feed`` its bytes in whatever portions they come, and ``end`` after the last one.
    ``incremental``: there may be files of changed blocks. Raises BadBackup for a tar that PostgreSQL does not send.
    """

    def __init__(
        self, emit: Callable[[Cut], bytearray], first: bytearray, piece: int = PIECE, *, incremental: bool = False
    ) -> None:
        self._emit = emit
        self._piece = piece
        self._incremental = incremental
        self._buffer, self._at = first, 0
        self._parts: list[Part] = []
        self._full = False
        """Ends before the next header; not at once, since the end of the tar may follow."""
        self._tablespace: int | None = None
        self._ended = True
        self._header = bytearray()
        self._member: _Member | None = None
        self._offset = 0
        """In the member's content."""
        self._begin = 0, 0
        """Where in the content, and in the piece, the open part begins."""
        self._padding = 0
        self.files = 0
        self.bytes = 0
        """Of all files."""

    def begin(self, tablespace: int) -> None:
        """A tar; the one before it has ended."""
        self.end()
        self._tablespace, self._ended = tablespace, False

    def feed(self, data: memoryview) -> None:
        """The next bytes of the tar."""
        at, length = 0, len(data)
        while at < length and not self._ended:
            if self._member is not None:
                at += self._content(data[at:])
            elif self._padding:
                passed = min(self._padding, length - at)
                self._padding -= passed
                at += passed
            elif length - at >= BLOCK and not self._header:
                self._open(bytes(data[at : at + BLOCK]))
                at += BLOCK
            else:
                part = data[at : at + BLOCK - len(self._header)]
                self._header += part
                at += len(part)
                if len(self._header) == BLOCK:
                    self._open(bytes(self._header))
                    self._header.clear()

    def end(self) -> None:
        """No more tars."""
        if self._tablespace is None:
            return
        if not self._ended:
            if self._member is not None or self._header:
                raise BadBackup("the server's tar: it was cut short", hint="Begin a new backup.")
            self._finish()
        self._tablespace = None

    def _open(self, header: bytes) -> None:
        if header == _ZEROS:
            self._finish()
            return
        member = _parse(header)
        large = member.size > self._piece
        needed = BLOCK + min(member.size, self._piece) + BLOCK
        if self._full or large or self._at + needed > self._piece + 2 * BLOCK:
            self._cut()
        self._append(_anonymous(header))
        self._begin = 0, self._at
        self._offset = 0
        if member.size:
            self._member = member
        else:
            self._close(member)

    def _content(self, data: memoryview) -> int:
        """How many bytes of it were taken."""
        member = self._member
        assert member is not None  # noqa: S101 - the caller looked
        left = member.size - self._offset
        room = self._piece - self._offset % self._piece if member.size > self._piece else left
        if room == self._piece and self._offset:
            self._part(member)
            self._cut()
            self._begin = self._offset, 0
        length = min(len(data), left, room)
        self._buffer[self._at : self._at + length] = data[:length]
        self._at += length
        self._offset += length
        if length == left:
            self._member = None
            self._close(member)
        return length

    def _close(self, member: _Member) -> None:
        self._part(member)
        self._padding = -member.size % BLOCK
        self._append(_ZEROS[: self._padding])
        self.bytes += member.size
        self.files += member.kind == "f"
        self._full = member.size > self._piece or _ends(member, self._piece // _SHARE)

    def _part(self, member: _Member) -> None:
        if member.kind == "l":
            return
        path = f"pg_tblspc/{self._tablespace}/{member.path}" if self._tablespace else member.path
        offset, at = self._begin
        length = self._at - at
        restored = 0
        if self._incremental and not offset and changed_path(path):
            changes = read_changes(memoryview(self._buffer)[at : self._at], member.size)
            if changes is None:
                raise _strange(path.encode(), "it is not a file of changed blocks")
            restored = changes.size
        self._parts.append(Part(path, member.kind, member.mode, member.size, offset, at, length, restored))

    def _append(self, data: bytes) -> None:
        self._buffer[self._at : self._at + len(data)] = data
        self._at += len(data)

    def _finish(self) -> None:
        self._append(_END)
        self._cut()
        self._ended = True

    def _cut(self) -> None:
        self._full = False
        if self._at:
            whole = Cut(self._buffer, self._at, self._tablespace or 0, tuple(self._parts))
            self._parts, self._at = [], 0
            self._buffer = self._emit(whole)


def buffer_bytes(piece: int = PIECE) -> int:
    """What the largest piece needs."""
    return piece + SPARE


def _ends(member: _Member, share: int) -> bool:
    """Whether a shared piece ends behind it: by its path, and the likelier the more bytes it has."""
    padded = BLOCK + member.size + -member.size % BLOCK
    return zlib.crc32(member.path.encode()) * share < padded << 32


_KINDS: Final[dict[bytes, Literal["f", "d", "l"]]] = {b"0": "f", b"\0": "f", b"5": "d", b"2": "l"}


def _parse(header: bytes) -> _Member:
    """POSIX ustar, as ``tarCreateHeader`` of PostgreSQL writes it (``src/port/tar.c``)."""
    name = header[:100].rstrip(b"\0")
    prefix = header[345:500].rstrip(b"\0")
    raw = (prefix + b"/" if prefix else b"") + name
    try:
        if int(header[148:156].rstrip(b"\0 "), 8) != checksum(header[:148], header[156:]):
            raise _strange(raw, "its header's checksum is wrong")
        kind = _KINDS[header[156:157]]
        mode = int(header[100:108].rstrip(b"\0 "), 8) & 0o7777
        size = _number(header[124:136]) if kind == "f" else 0
        path = raw.decode().rstrip("/").removeprefix("./")
    except KeyError:
        raise _strange(raw, f"its kind is {header[156:157]!r}") from None
    except UnicodeDecodeError:
        raise _strange(
            raw, "its name is not UTF-8", "Move it out of the data directory: it is none of PostgreSQL's files."
        ) from None
    except ValueError:
        raise _strange(raw, "its header has what is not a number") from None
    if not is_inside(path):
        raise _strange(raw, "its name leads elsewhere")
    return _Member(path, kind, mode, size)


def _number(field: bytes) -> int:
    """Octal digits, or from 8 GiB on GNU's base 256."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    return int(field.rstrip(b"\0 ") or b"0", 8)


def _anonymous(header: bytes) -> bytes:
    """The same without owner, time and names of the owner."""
    return with_checksum(
        header[:108] + b"0000000\0" * 2 + header[124:136] + b"00000000000\0", header[156:265] + bytes(64) + header[329:]
    )


def _strange(name: bytes, why: str, hint: str = "Begin a new backup; if it stays so, please report it.") -> BadBackup:
    return BadBackup(f"the server's tar: {name.decode('utf-8', 'replace')!r}: {why}", hint=hint)
