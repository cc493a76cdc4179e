"""Who may have WAL, as the first look knows it: that one may take over at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.twins.memory_record import MemoryDcs, MemoryRecord
from walkeeper.agent.observer import Observer
from walkeeper.agent.problems import Problems
from walkeeper.config import load
from walkeeper.core.hold_slot import SlotState
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.record import Record
from walkeeper.lib.clock import SystemClock
from walkeeper.postgres.server import ServerState

RECORD: Final = Record(
    system_identifier="7300000000000000001", segment_size=MIB, timeline=1, lsn="0/500000", start="000000010000000000000003", owner="a",
    session="s",
)  # fmt: skip


def observer_of(short_path: Path) -> Observer:
    file = short_path / "patroni.yml"
    file.touch(mode=0o600)
    server = {
        "listen": "127.0.0.1:1",
        "data_dir": str(short_path / "data"),
        "authentication": {"replication": {"username": "r"}},
    }
    file.write_text(
        yaml.safe_dump(
            {
                "scope": "demo", "name": "b", "etcd3": {"host": "127.0.0.1:1"}, "postgresql": server,
                "walkeeper": {"store": {"directory": str(short_path / "store")}, "spool": {"directory": str(short_path / "spool")}},
            }
        )
    )  # fmt: skip
    dcs, clock = MemoryDcs(), SystemClock()
    dcs.put(RECORD.encode())
    return Observer(load(file, {}), MemoryRecord(dcs), Problems(clock), clock)


def test_p4_the_owner_of_the_record_is_known_by_the_first_look_though_its_key_has_expired(short_path: Path) -> None:
    """Its disk may have what nobody else has: when that look has taken over, the record no longer names it."""
    observer = observer_of(short_path)
    assert observer.look().record == RECORD
    assert "a" in observer.members


@pytest.mark.parametrize(("identifier", "safe"), [(7300000000000000001, False), (7300000000000000002, None)])
def test_a_slot_is_not_held_against_the_record_of_another_cluster(
    short_path: Path, identifier: int, safe: bool | None
) -> None:
    """After pg_upgrade the record is still the old cluster's: that it begins after that frontier says nothing."""
    observer = observer_of(short_path)
    server = ServerState(identifier, False, 1, Lsn(9 * MIB), SegmentSize(MIB), 15, "replica")
    slot = SlotState(physical=True, restart_lsn=Lsn(8 * MIB), active_pid=None, lost=False)
    why = observer._judge_slot(replace(observer.look(), server=server, slot=slot))
    assert (None if why is None else why == "") is safe
