"""Who may have WAL, as the first look knows it: that one may take over at once."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.twins.memory_record import MemoryDcs, MemoryRecord
from walkeeper.agent.observer import Observer
from walkeeper.agent.problems import Problems
from walkeeper.config import load
from walkeeper.core.lsn import MIB
from walkeeper.core.record import Record
from walkeeper.lib.clock import SystemClock


def test_p4_the_owner_of_the_record_is_known_by_the_first_look_though_its_key_has_expired(short_path: Path) -> None:
    """Its disk may have what nobody else has: when that look has taken over, the record no longer names it."""
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
    record = Record(
        system_identifier="7300000000000000001", segment_size=MIB, timeline=1, lsn="0/500000",
        start="000000010000000000000003", owner="a", session="s",
    )  # fmt: skip
    dcs.put(record.encode())
    observer = Observer(load(file, {}), MemoryRecord(dcs), Problems(clock), clock)
    assert observer.look().record == record
    assert "a" in observer.members
