"""What a restore was asked for, and what was decided."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from walkeeper.archive.backups import Backups
from walkeeper.config import Config
from walkeeper.core.backup import Backup
from walkeeper.core.lsn import Lsn
from walkeeper.restore import state
from walkeeper.restore.directory.target import Action, Target
from walkeeper.restore.state import Asked, State
from walkeeper.store.base import Store
from walkeeper.verify.evidence import Evidence

Use: TypeAlias = Literal["server", "replica", "bootstrap"]
"""Who starts what is restored: a person; or Patroni, as a replica of its cluster or as a cluster's first leader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """As the command line has it. ``timeline`` is a number or ``latest``; ``scope`` is --from's.

    ``is_trial``: it is to be seen whether the newest backup restores, whatever was found against it before.
    """

    to: str = "latest"
    timeline: str | None = None
    directory: Path | None = None
    delta: bool = False
    tablespaces: tuple[str, ...] = ()
    scope: str | None = None
    backup: str | None = None
    system_identifier: int | None = None
    action: Action | None = None
    exclusive: bool = False
    use: Use = "server"
    is_trial: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``end``: up to where WAL is replayed, where that is known; ``wal_segments`` are replayed at most. ``again``: where the
    restore point's name is there once more; ``unsearched``: behind which WAL is missing, so that nobody knows.

    ``chain``: the backup and what it builds on, the oldest first; of a full one that is itself.
    ``folder``: the server's programs, if there are any. ``before``: what an earlier restore says of itself there, ``resumed``:
    the same where that was this command.
    """

    config: Config
    request: Request
    evidence: Evidence
    wal_store: Store
    """What the WAL is read from: its store, or several as one."""
    backups: Backups
    chain: tuple[Backup, ...]
    timeline: int
    target: Target
    end: Lsn | None
    again: Lsn | None = None
    unsearched: Lsn | None = None
    recovery: dict[str, str]
    directory: Path
    tablespaces: dict[int, Path]
    asked: Asked
    folder: Path | None
    wal_segments: int
    wal_bytes: int
    before: State | None = None
    resumed: State | None = None
    clone_of: str = ""
    """The archive, where it is another cluster's: this server never archives there."""
    damage: str = ""
    """What was found against this backup before, in words."""
    passed_over: str = ""
    """The newer one that this one is taken instead of, and what was found against that."""
    stores_passed_over: tuple[str, ...] = ()
    """Stores that this one is taken instead of: what each lacks, or has and is damaged, in words."""
    incomplete: str = ""
    """Newer ones of which the store lacks something, and what."""

    @property
    def backup(self) -> Backup:
        """The one that is restored."""
        return self.chain[-1]

    @property
    def bytes(self) -> int:
        """Plain bytes of all pieces' files."""
        return sum(each.bytes for each in self.chain)

    @property
    def packed_bytes(self) -> int:
        """As stored; what later backups have whole is not fetched where it fills a piece."""
        return sum(each.packed_bytes for each in self.chain)

    @property
    def is_done(self) -> bool:
        """The directory is whole already, by an earlier run of this command."""
        return self.resumed is not None and state.is_whole(self.directory, self.resumed)
