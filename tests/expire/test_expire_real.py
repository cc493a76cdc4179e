"""``walkeeper expire`` on what real servers have stored: what it keeps restores, and what it gave up is gone."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.backup.test_backup_real import by_hand, place, primary
from tests.fixtures.taken import Place
from tests.parts.postgres import Postgres
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from walkeeper.core.lsn import Lsn
from walkeeper.core.record import Record
from walkeeper.expire import command
from walkeeper.lib import clock
from walkeeper.store.directory.keys import DirectorySettings
from walkeeper.verify import command as verify
from walkeeper.verify import evidence

pytestmark = [pytest.mark.postgres, pytest.mark.slow]
__all__ = ["place", "primary"]


def test_p15_what_remains_after_expire_restores_and_verify_finds_nothing(
    place: Place, primary: Postgres, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    for number in range(4):
        assert place.take() == 0
        taken.append(place.last)
        primary.execute("INSERT INTO u SELECT %s", [-number])
        place.archive_wal()
    now, dcs = [datetime.now(UTC)], MemoryDcs()
    frontier = Lsn.parse(primary.value("SELECT pg_current_wal_insert_lsn()::text")).floor(place.size)
    record = Record(
        system_identifier=str(place.system), segment_size=int(place.size), timeline=1, lsn=str(frontier),
        start=place.first.name, owner="a", session="s",
    )  # fmt: skip
    dcs.put(record.encode())
    for module in (command, evidence):
        monkeypatch.setattr(module, "open_records", lambda _: MemoryRecord(dcs))
    monkeypatch.setattr(clock, "wall_seconds", lambda: datetime.timestamp(now[0]))
    monkeypatch.setattr(DirectorySettings, "clock_ahead", lambda _: 0.0)  # of another host, whose clock goes with ours

    def expire(**request: Any) -> dict[str, Any]:
        capsys.readouterr()
        assert command.main(place.config, command.Request(number=2, json=True, **request)) == 0
        return dict(json.loads(capsys.readouterr().out))

    going = sorted(str(each) for each in taken[:2])  # of one second their ids may be in any order
    assert sorted(expire(apply=True)["next_floor"]["backups"]) == going
    now[0] += timedelta(hours=2)
    deleted = expire(apply=True)["deleted"]
    assert sorted(deleted["backups"]) == going
    assert deleted["retained_objects"] == 0
    assert not list((place.root / "pin").glob("*"))
    capsys.readouterr()
    assert verify.main(place.config, verify.Request(deep=True, json=True)) == 0, capsys.readouterr().out
    assert json.loads(capsys.readouterr().out)["backups"]["complete"] == 2
    with by_hand(place) as restored:
        assert restored.execute("SELECT count(*), sum(n) FROM u") == primary.execute("SELECT count(*), sum(n) FROM u")
