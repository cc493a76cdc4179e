"""Where each object of an archive lies in the store. The layout is a promise to people who come with ``ls`` and ``zstd``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from walkeeper.core.backup import BackupId
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.names import HistoryFile, Segment, WalFile
from walkeeper.core.suspicion import Forgotten
from walkeeper.core.tail import Piece
from walkeeper.errors import BadName

ACCEPTED: Final = ".accepted.json"
"""How the name of a gap that a person has accepted ends."""

LONGEST_MEMBER: Final = 180
"""Characters that a member's name may have as a part of a key: a directory store makes file names of them."""

_GAP: Final = re.compile(r"([0-9A-F]{24})-([0-9A-F]{16})(?:\.json)?\Z")
_FORGOTTEN: Final = re.compile(r"forgotten-([0-9A-F]{8})-([0-9A-F]{16})-((?:[0-9A-Za-z.-]|_[0-9A-F]{2})+)\.json\Z")


class _Folder:
    """What lies below the archive's root under that name; with a slash at its end."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, layout: Layout, _: object = None) -> str:
        return f"{layout.root}{self._name}/"


@dataclass(frozen=True, slots=True)
class Layout:
    """The keys of one cluster's archive, below the store's own prefix."""

    scope: str
    group: int | None
    system_identifier: int

    wal = _Folder("wal")
    histories = _Folder("history")
    gaps = _Folder("gap")
    starts = _Folder("start")
    lives = _Folder("life")
    """Where the owners' signs of life lie."""
    backups = _Folder("backup")
    """Base backups, a folder each."""
    floors = _Folder("expire")
    """What ``expire`` has given up below."""
    pins = _Folder("pin")
    """Restores in progress, which ``expire`` does not pass."""
    proofs = _Folder("proof")
    """Restores that were tried out, and worked."""
    tails = _Folder("tail")

    @property
    def root(self) -> str:
        """With a slash at its end."""
        return f"{cluster_prefix(self.scope, self.group)}{self.system_identifier}/"

    def life(self, token: str, number: int) -> str:
        return f"{self.lives}{token}/{number:012}"

    def file(self, file: WalFile, suffix: str) -> str:
        """Segments, ``.partial`` and ``.backup`` files lie together, sixteen characters of the name a folder."""
        if isinstance(file, HistoryFile):
            return f"{self.histories}{file.name}{suffix}"
        return f"{self.wal}{file.name[:16]}/{file.name}{suffix}"

    def gap(self, first: Segment, end: Lsn) -> str:
        """One gap, from the start of ``first`` up to ``end``."""
        return f"{self.gaps}{first.name}-{end:016X}.json"

    def accepted_gap(self, first: Segment, end: Lsn) -> str:
        """A person's word about that range."""
        return f"{self.gaps}{first.name}-{end:016X}{ACCEPTED}"

    def forgotten(self, word: Forgotten) -> str:
        """A person's word about a member. Raises BadName where its name is too long for that."""
        name = re.sub(rb"[^0-9A-Za-z.-]", lambda odd: f"_{ord(odd[0]):02X}".encode(), word.member.encode()).decode()
        if not 0 < len(name) <= LONGEST_MEMBER:
            raise BadName(f"member {word.member!r}: the name is empty, or too long for a key in the store")
        return f"{self.gaps}forgotten-{word.timeline:08X}-{word.upto:016X}-{name}.json"

    def start(self, first: Segment) -> str:
        """The statement that the archive begins with that segment."""
        return f"{self.starts}{first.name}.json"

    def backup(self, id_: BackupId) -> str:
        return f"{self.backups}{id_}/"

    def backup_json(self, id_: BackupId) -> str:
        """The one object that makes it a backup."""
        return f"{self.backup(id_)}backup.json"

    def backup_piece(self, id_: BackupId, sha256: str, suffix: str) -> str:
        return f"{self.backup(id_)}data/{sha256}{suffix}"

    def backup_document(self, id_: BackupId, kind: str, sha256: str, suffix: str) -> str:
        """Its index, an order or the manifest."""
        return f"{self.backup(id_)}{kind}-{sha256}{suffix}"

    def floor(self, number: int) -> str:
        return f"{self.floors}{number:08}.json"

    def floor_is(self, number: int, word: str) -> str:
        """What became of a floor: ``revoked``, or ``done``."""
        return f"{self.floors}{number:08}.{word}.json"

    def retained(self, id_: BackupId, number: int) -> str:
        """A person's word that a backup stays for longer."""
        return f"{self.floors}retain-{id_}-{number:08}.json"

    def pin(self, id_: str) -> str:
        return f"{self.pins}{id_}.json"

    def proof(self, at: str, id_: BackupId | str = "") -> str:
        """Of that backup; ``at`` as in ``core.proof``. Sorted as text they are in the order of time."""
        return f"{self.proofs}{at.replace('-', '').replace(':', '')}-{id_}.json"

    def damaged(self, at: str, id_: BackupId | str) -> str:
        """As ``proof``, of one that found damage."""
        return f"{self.proofs}damaged-{id_}-{at.replace('-', '').replace(':', '')}.json"

    def tail(self, segment: str) -> str:
        """Where the pieces of the segment with that name lie."""
        return f"{self.tails}{segment}/"

    def piece(self, segment: str, piece: Piece, suffix: str) -> str:
        return f"{self.tail(segment)}{piece.name}{suffix}"


def cluster_prefix(scope: str, group: int | None) -> str:
    """What the archives of all system identifiers that a cluster has had lie below."""
    return f"{scope}/" if group is None else f"{scope}/{group}/"


def parse_gap_name(name: str, size: SegmentSize) -> tuple[Segment, Lsn]:
    """The last part of a ``gap`` key to its first segment and its end. Raises BadName."""
    match = _GAP.match(name)
    first = None if match is None else Segment.parse(match[1], size)
    if match is None or first is None or int(match[2], 16) <= first.start:
        raise BadName(f"{name!r}: not the name of a recorded gap")
    return first, Lsn(int(match[2], 16))


def parse_forgotten(name: str) -> Forgotten | None:
    """The last part of a ``forgotten`` key; None where it is not one."""
    match = _FORGOTTEN.match(name)
    if match is None:
        return None
    member = re.sub(rb"_([0-9A-F]{2})", lambda odd: bytes([int(odd[1], 16)]), match[3].encode())
    return Forgotten(member.decode(errors="replace"), int(match[1], 16), Lsn(int(match[2], 16)))
