"""Which backup a restore begins with, and what it refuses: over a store in a directory, without a server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fixtures.archives import Built
from tests.fixtures.backed_up import put_backup
from tests.twins.memory_record import MemoryRecord
from walkeeper.archive.backups import Backups
from walkeeper.core.backup import Backup, BackupId
from walkeeper.core.lsn import MIB, Lsn
from walkeeper.errors import CannotRestore
from walkeeper.restore.directory import here, plan
from walkeeper.restore.directory.model import Plan, Request
from walkeeper.verify import evidence

FIRST, SECOND = BackupId("20261126T020000Z", 1, "00000001"), BackupId("20261127T020000Z", 1, "00000002")


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Built:
    """Segments 3 to 9, none of which can be read, and two backups."""
    built = Built(tmp_path)
    for number in range(3, 10):
        built.store.create(built.key(1, number), b"w", {})
    built.record(1, 10)
    for id_, number in ((FIRST, 4), (SECOND, 6)):
        backed_up(built, id_, number)
    monkeypatch.setattr(evidence, "open_records", lambda _: MemoryRecord(built.dcs))
    monkeypatch.setattr(here, "programs", lambda *_: None)
    return built


def backed_up(built: Built, id_: BackupId, number: int, at: str = "") -> Backup:
    backups = Backups(built.store, built.archive.layout, built.codec)
    return put_backup(backups, id_, Lsn(number * MIB + 40), Lsn(number * MIB + 256), at=at)


Make = Callable[..., Plan]


@pytest.fixture
def make(built: Built, tmp_path: Path) -> Make:
    return lambda **request: plan.make(built.config, Request(directory=tmp_path / "new", **request))


def test_a_named_backup_that_stopped_after_the_time_is_refused(built: Built, make: Make) -> None:
    for to in ("2026-11-27 01:59:59Z", "2026-11-26 12:00Z"):
        with pytest.raises(CannotRestore, match=f"{SECOND}: it stopped at 2026-11-27T02:00:00") as told:
            make(to=to, backup=str(SECOND))
        assert "Leave --backup out" in told.value.hint
    backed_up(built, undated := BackupId("20261128T020000Z", 1, "00000003"), 8, at="today")
    with pytest.raises(CannotRestore, match="it stopped at today"):
        make(to="2026-11-29 12:00Z", backup=str(undated))
