"""What status says of a cluster that has several stores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from tests.fixtures.archives import Built
from tests.fixtures.two_stores import FAR, TwoStores, is_away, two
from tests.status.test_status import PROBLEM, REPORT, ROW, WHOLE
from tests.twins.memory_record import MemoryRecord
from walkeeper.core.hold_slot import SlotState
from walkeeper.core.lsn import MIB, Lsn
from walkeeper.core.record import Record
from walkeeper.postgres.server import ServerState
from walkeeper.status import gather
from walkeeper.status.attention import attention
from walkeeper.status.screen import Sample, lines, plain
from walkeeper.status.text import render

__all__ = ["two"]

STORE: Final[dict[str, Any]] = {
    "name": FAR, "url": "s3://far", "record": {**WHOLE["record"], "frontier": "2/49000000"}, "gaps": [], "backups": None,
    "lag_bytes": 20 * MIB, "lag_seconds_at_most": 8.0,
}  # fmt: skip


def seen(two: TwoStores, monkeypatch: pytest.MonkeyPatch, directory: Path) -> dict[str, Any]:
    monkeypatch.setenv("WALKEEPER_RUN_DIR", str(directory))
    monkeypatch.setattr(gather, "connect", lambda *arguments: MemoryRecord(two.dcs, arguments[-1]))
    return gather.gather(two.config)


def test_each_other_store_is_looked_at(two: TwoStores, monkeypatch: pytest.MonkeyPatch, short_path: Path) -> None:
    lost = Built.segment(1, 7)
    two.far.archive.record_gap(lost, lost.end)
    found = seen(two, monkeypatch, short_path)
    (far,) = found["stores"]
    assert (found["store_name"], found["gaps"], far["name"], far["url"]) == ("main", [], FAR, two.far.store.url)
    assert (far["record"]["frontier"], far["lag_bytes"]) == ("0/600000", None)
    assert "store far: gap on timeline 1: 0/700000 to 0/800000" in [each["text"] for each in found["attention"]]
    (hint,) = [each["hint"] for each in found["attention"] if "gap" in each["text"]]
    assert hint.endswith("walkeeper gap --store far accept 0/700000")


def test_a_store_that_is_away_or_has_no_record_is_said_with_its_name(
    two: TwoStores, monkeypatch: pytest.MonkeyPatch, short_path: Path
) -> None:
    is_away(two.far)
    found = seen(two, monkeypatch, short_path)
    assert found["stores"][0]["gaps"] is None
    assert any(each["text"].startswith("store far: gaps: ") for each in found["unknown"])
    two.dcs.wipe("walkeeper-far")
    found = seen(two, monkeypatch, short_path)
    assert any(each["text"].startswith("store far: there is no record in the DCS") for each in found["attention"])


def test_a_dcs_that_is_away_is_asked_once(two: TwoStores, monkeypatch: pytest.MonkeyPatch, short_path: Path) -> None:
    two.dcs.down = True
    found = seen(two, monkeypatch, short_path)
    assert [each["text"] for each in found["unknown"] if "record and members" in each["text"]] == [
        "record and members: memory: no answer"
    ]
    assert found["stores"][0]["record"] is None


def test_how_far_each_is_stands_in_a_line_of_its_own() -> None:
    status = {**WHOLE, "stores": [STORE]}
    text = render(status)
    assert "Archive   main, s3://our-wal/production, from" in text
    assert "Store     far, s3://far: frontier 2/49000000 on timeline 2, moved by node1 5 s ago; 20 MiB not" in text
    assert "archived, for at most 8 s; gaps: none" in text
    shown = plain(lines([Sample(0.0, status)], stamp="", age=0.0, bars=False))
    assert "Store     far, s3://far: frontier 2/49000000" in shown
    assert "Store " not in render(WHOLE)
    new = {**STORE, "url": None, "record": None, "gaps": None, "lag_bytes": None, "lag_seconds_at_most": None}
    assert "far, unknown: frontier unknown; ? not archived; gaps: unknown" in render({**WHOLE, "stores": [new]})


def test_what_is_wrong_with_one_is_said_with_its_name() -> None:
    record = {**STORE["record"], "owner": "node2", "trouble": "PUT: 403", "moved_seconds_ago": 90.0}
    late = {**STORE, "record": record, "lag_seconds_at_most": 90.0}
    assert [each["text"] for each in attention({**WHOLE, "stores": [late]})] == [
        "store far: node2, which archives: PUT: 403",
        "store far: Patroni's leader is node1, and node2 still owns the record",
        "store far: the frontier has stood for 90 s, and 20 MiB wait for it, because of what node2 reports",
    ]
    assert attention({**WHOLE, "stores": [STORE]}) == []
    backups = {
        "complete": 1, "damaged": 0, "incomplete": 1, "attempts": 0, "newest": {"age_seconds": 90_000.0}, "window": None,
        "short": False, "overdue": True, "proof_overdue": False, "proved": None, "expire_waits_seconds": None,
    }  # fmt: skip
    old = {**WHOLE, "stores": [{**STORE, "backups": backups}]}
    assert "gaps: none; backups: 1 complete, the newest 25 h old; 1 incomplete" in " ".join(render(old).split())
    (said,) = attention(old)
    assert said["text"] == "store far: the newest base backup is 25 h old, and backup.schedule was due twice since"
    assert said["hint"].endswith("walkeeper backup --store far takes one now.")


def test_what_the_agents_of_all_stores_report_is_said_once() -> None:
    dcs = {**PROBLEM, "what": "dcs", "reason": "dcs_unavailable", "text": "etcd3: no answer", "hint": ""}
    refused = {**PROBLEM, "reason": "store_behind", "text": "it lacks it", "hint": "Then: walkeeper takeover --accept."}
    agent = {**REPORT, "troubles": [dcs], "stores": [{"name": FAR, "troubles": [dcs, refused]}]}
    found = attention({**WHOLE, "agent": agent, "stores": [STORE]})
    assert [each["text"].partition(" UTC: ")[2] for each in found] == ["etcd3: no answer", "it lacks it"]
    assert found[1]["hint"] == "Then: walkeeper takeover --store far --accept."


@pytest.mark.parametrize(("durable_in", "safe"), [(1, True), (2, False)])
def test_gap_safe_is_who_keeps_what_the_hold_slot_is_to_keep(two: TwoStores, durable_in: int, safe: bool) -> None:
    """With durable_in 1 it follows the furthest of the stores."""
    config = replace(two.config, durable_in=durable_in)
    main, far = (
        Record(
            system_identifier="7", segment_size=MIB, timeline=1, lsn=lsn, start=Built.segment(1, 3).name, owner="a", session="s"
        )
        for lsn in ("0/400000", "0/900000")
    )  # fmt: skip
    judge = gather._Judge(config, None, [far], [])
    state = ServerState(7, True, 1, Lsn(9 * MIB), main.size, 17, "replica")
    slot = SlotState(physical=True, restart_lsn=Lsn(8 * MIB), active_pid=None, lost=False)
    row = judge.row({**ROW, "held": True}, state, slot, main)
    assert (row["gap_safe"], row["lag_bytes"]) == (safe, 5 * MIB)
