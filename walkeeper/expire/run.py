"""One run: look, delete below the floors whose grace is over, and record the next floor. Whoever is killed runs it again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from walkeeper.archive.expiry import write_floor
from walkeeper.archive.open import Archives
from walkeeper.core.floor import Floor
from walkeeper.core.lsn import SegmentSize
from walkeeper.core.record import Record
from walkeeper.core.retention import Policy
from walkeeper.errors import Unsafe
from walkeeper.expire.delete import Deleted, delete
from walkeeper.expire.look import Looked, look, next_floor


@dataclass(frozen=True, slots=True)
class Ran:
    """``floor`` is the one that is recorded now, or would be."""

    looked: Looked
    floor: Floor | None
    deleted: Deleted | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """``record`` was read before ``now``, which is the store's; its owner is ``member``."""

    archives: Archives
    size: SegmentSize
    record: Record
    policy: Policy
    grace: timedelta
    member: str

    @property
    def system_identifier(self) -> int:
        return int(self.record.system_identifier)

    def consider(self, now: datetime) -> Ran:
        """Without changing anything. Raises Unsafe, BadFloor, or the store's errors."""
        looked = look(self.archives, self.system_identifier, self.size, self.record, self.policy, now)
        return Ran(looked, next_floor(looked, self.grace, self.member))

    def apply(self, found: Ran, progress: Callable[[Deleted], None] = lambda _: None) -> Ran:
        """What was considered before. Raises Unsafe where somebody else does the same at this moment, or as above."""
        archive = self.archives.archive(self.system_identifier, self.size)
        deleted = delete(archive, self.archives.backups(self.system_identifier), found.looked, progress)
        if found.floor is None:
            return Ran(found.looked, None, deleted)
        floor = write_floor(archive.store, archive.layout, found.floor)
        if floor is None:
            raise Unsafe(
                f"floor {found.floor.number}: somebody else has just recorded it",
                hint="Only the member that owns the record runs expire. Look at who else does, and call it again.",
            )
        return Ran(found.looked, floor, deleted)
