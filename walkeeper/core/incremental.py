"""Incremental base backups of PostgreSQL 17 and newer: what a file of changed blocks holds, which backup another one may build
on, and what of which backup of a chain a restore takes. No I/O.

A chain is a full backup and incrementals, each of which builds on the one before. In an incremental PostgreSQL sends
``INCREMENTAL.16384`` instead of ``16384``: the blocks that have changed since (``sendFile`` in
``src/backend/backup/basebackup.c``, ``src/bin/pg_combinebackup/reconstruct.c``). A restore applies them to the file in its
place, the oldest first.
"""

from __future__ import annotations

import hashlib
import re
import struct
from array import array
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from walkeeper.core.backup import Backup, BackupId
from walkeeper.core.backup_index import Part
from walkeeper.errors import BadBackup

BLOCK: Final = 8192
"""Bytes of a block. Servers that were built with another size get full backups."""
SEGMENT: Final = 1024**3
"""Bytes of a relation's largest file; what is larger has several. Of another size: as with blocks."""
MOST: Final = 7
"""Backups in a chain, the full one among them: each costs a restore time, and may be the damaged one."""
_EARLIER: Final = 3600.0
OLDEST: Final = 17
"""The major version of PostgreSQL from which on it takes incrementals."""

_WHERE: Final = re.compile(r"(base/[^/]+|global|pg_tblspc/[^/]+/[^/]+/[^/]+)/INCREMENTAL\.([^/]+)")
_MAP: Final = re.compile(r".*/[0-9]+_vm(\.[0-9]+)?")
_MAGIC: Final = 0xD3AE1F0D
_HEADER: Final = struct.Struct("=III")
"""In the byte order of the server, which is that of whoever can use its files. Behind it are the numbers of the blocks."""
_MANIFEST_LINE: Final = re.compile(
    rb'\{ "Path": "([!#-\[\]-~]+)", "Size": [0-9]+, ("Last-Modified": "[^"]*"), [^}]*\}(,?)\n'
)
_LABEL_LINE: Final = re.compile(rb"^INCREMENTAL FROM [^\n]*\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Changes:
    """What a file of changed blocks does: of the file before it the first ``kept`` bytes count, and it gets ``size`` bytes.

    ``blocks`` are the numbers of those that follow, and ``begin`` is where they begin in the file of changed blocks.
    """

    kept: int
    size: int
    blocks: Sequence[int]
    begin: int


def changed_path(path: str) -> str | None:
    """Of the file that a file of changed blocks changes; None for other files' paths."""
    match = _WHERE.fullmatch(path)
    return None if match is None else f"{match[1]}/{match[2]}"


def is_map(path: str) -> bool:
    """Whether a file is part of a visibility map. Changed blocks of one are not to be believed: PostgreSQL 17 and 18 clear bits
    without a word in the WAL that its summarizer understands, so that blocks are missing. A restore makes such a map empty, which
    says of each page that rows in it may be dead; VACUUM fills it again.
    """
    return _MAP.fullmatch(path) is not None


def read_changes(content: memoryview, size: int) -> Changes | None:
    """From the beginning of a file of changed blocks that has ``size`` bytes; None where that is not one.

    Of a relation that was cut, PostgreSQL may state more than a file can have: the segments that follow count, too.
    """
    if len(content) >= _HEADER.size:
        magic, count, kept = _HEADER.unpack_from(content)
        end = _HEADER.size + 4 * count
        begin = end + (-end % BLOCK if count else 0)
        if magic == _MAGIC and size == begin + count * BLOCK and len(content) >= end:
            blocks = array("I", bytes(content[_HEADER.size : end]))
            kept, length = min(kept, SEGMENT // BLOCK), max(blocks, default=-1) + 1
            if length <= SEGMENT // BLOCK:
                return Changes(kept * BLOCK, max(kept, length) * BLOCK, blocks, begin)
    return None


def without_increment(backup_label: bytes) -> bytes:
    """The ``backup_label`` of an incremental, as it is for the directory that a chain has made: PostgreSQL starts with it."""
    return _LABEL_LINE.sub(b"", backup_label)


def manifest_of_whole(manifest: bytes, sizes: Mapping[str, int]) -> bytes:
    """PostgreSQL's manifest of an incremental, as it is for the directory that its chain has made. ``sizes``: what the files are
    made to, by the paths of the files of changed blocks; no manifest has a checksum of those."""
    lines = []
    for line in manifest.splitlines(keepends=True)[:-1]:
        match = _MANIFEST_LINE.match(line)
        changed = None if match is None else changed_path(match[1].decode())
        if match is not None and changed is not None:
            size = 0 if is_map(changed) else sizes[match[1].decode()]
            line = b'{ "Path": "%b", "Size": %d, %b }%b\n' % (changed.encode(), size, match[2], match[3])  # noqa: PLW2901
        lines.append(line)
    whole = b"".join(lines)
    return whole + b'"Manifest-Checksum": "%b"}\n' % hashlib.sha256(whole).hexdigest().encode()


def unfit(
    chain: Sequence[Backup], version: int, *, checksums: bool, tablespaces: Collection[int], summarizes: bool
) -> str:
    """Why an incremental of a server with that ``server_version_num`` and those tablespaces cannot build on the last one of
    ``chain``, in words; empty where it can."""
    if version // 10000 < OLDEST:
        return f"PostgreSQL {version // 10000} has no incremental backups, {OLDEST} has"
    if not summarizes:
        return "summarize_wal is off"
    if not chain:
        return "the cluster's branch has no complete backup"
    parent = chain[-1]
    if len(chain) >= MOST:
        return f"the chain of {parent.id} has {len(chain)} backups"
    if parent.major != version // 10000:
        return f"{parent.id} is of PostgreSQL {parent.major}"
    if parent.checksums != checksums:
        return f"data checksums were turned {'on' if checksums else 'off'} since {parent.id}"
    if {each.oid for each in parent.tablespaces} != {*tablespaces}:
        return f"there are other tablespaces than in {parent.id}"
    return ""


def is_full_due(full: Backup, every: float, now: datetime) -> bool:
    """Whether that one is as old as ``every`` seconds. What is begun a little earlier than the one before, counts as in time."""
    begun = BackupId.parse(full.id).begun
    return begun is None or (now - begun).total_seconds() >= every - min(_EARLIER, every / 10)


def chain_of(backup: Backup, by_id: Mapping[str, Backup]) -> tuple[Backup, ...]:
    """A backup and what it builds on, the oldest first. Raises BadBackup where that is not a chain."""
    found = [backup]
    while found[-1].kind == "incremental":
        child = found[-1]
        parent = by_id.get(child.parent)
        if parent is None:
            raise BadBackup(f"backup {child.id}: its parent {child.parent} is not there", hint="Use another one.")
        if why := mismatch(parent, child):
            raise BadBackup(f"backup {child.id}: {why}", hint="Use another one.")
        found.append(parent)
    return tuple(reversed(found))


def layers_of(chain: Sequence[Backup], parts: Callable[[Backup], Iterable[Part]]) -> Layers:
    """Of that chain, or a part of it. Raises BadBackup as ``Layers.check``, or what ``parts`` raises."""
    layers = Layers(chain)
    for backup in reversed(chain):
        layers.add(parts(backup))
    layers.check()
    return layers


def mismatch(parent: Backup, child: Backup) -> str:
    """Why the one cannot be the other's parent; empty where it can. A parent is older, so that nothing goes round."""
    if parent.id >= child.id or parent.start.position > child.start.position:
        return f"its parent {parent.id} is not older"
    if (parent.system_identifier, parent.segment_size, parent.major) != (
        child.system_identifier,
        child.segment_size,
        child.major,
    ):
        return f"its parent {parent.id} is of another cluster or version"
    return ""


class Layers:
    """Of each file of the newest backup of a chain: which backup has it whole, on which those after it build.

    Give it what each index has with ``add``, the newest first, then ``check``. Of a path a hash is kept: there may be a million
    files.
    """

    def __init__(self, chain: Sequence[Backup]) -> None:
        self.chain = tuple(chain)
        self._next = len(chain) - 1
        self._whole: dict[int, int] = {}
        """By path, the backup that has it whole; -1 - n where backup n has its blocks, and which one is whole is still open."""

    def add(self, parts: Iterable[Part]) -> None:
        """Those of the next older backup."""
        number, newest = self._next, self._next == len(self.chain) - 1
        self._next -= 1
        waits = -2 - number
        for part in parts:
            path, whole = self._target(number, part)
            if not part.offset and (newest or self._whole.get(path) == waits):
                self._whole[path] = number if whole else -1 - number

    def check(self) -> None:
        """Raises BadBackup where a file of changed blocks has nothing to change. Of a chain that begins with an incremental that
        holds as far as it goes."""
        lacking = sum(found < -1 for found in self._whole.values())
        if lacking:
            raise BadBackup(
                f"backup {self.chain[-1].id}: {lacking} of its files of changed blocks change what its parents do not have",
                hint="The backup is damaged: use another one.",
            )

    def takes(self, number: int, part: Part) -> bool:
        """Whether a restore takes that part of the backup with that number in the chain. Maps: the newest's, if it is whole."""
        path, whole = self._target(number, part)
        base = self._whole.get(path)
        if base != len(self.chain) - 1 and is_map(self.changes(number, part) or part.path):
            return False
        return base is not None and (number == base if whole else number > base)

    def made(self, number: int, part: Part) -> Part | None:
        """The directory, or the file, that a restore makes before there is content, if it makes one for that part."""
        changed = self.changes(number, part)
        if part.offset:
            return None
        if changed is None:
            return part if self.takes(number, part) else None
        return Part(changed, part.kind, part.mode) if number == len(self.chain) - 1 and is_map(changed) else None

    def changes(self, number: int, part: Part) -> str | None:
        """The path of the file that it changes, if it is of a file of changed blocks."""
        return changed_path(part.path) if self.chain[number].kind == "incremental" else None

    def names(self, path: str) -> bool:
        """Whether the restored directory has it."""
        return hash(path) in self._whole

    def name(self, path: str) -> None:
        """One that it has besides."""
        self._whole.setdefault(hash(path), len(self.chain) - 1)

    def _target(self, number: int, part: Part) -> tuple[int, bool]:
        changed = self.changes(number, part)
        return hash(changed or part.path), changed is None
