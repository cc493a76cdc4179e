"""An archive moves to another store, under load and without a stop: docs/stores.md, step by step."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import wiring
from benchmarks.places import DirectoryPlace
from tests.parts.processes import wait_until
from tests.torture import check
from tests.torture.rig import Diary, Rig, base_backup

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]


def reload(rig: Rig, section: dict[str, Any]) -> None:
    """That configuration on every node, and a SIGHUP to its agent."""
    rig.section = section
    rig.reconfigure(rig.cluster.nodes)


def logged(rig: Rig, word: str) -> list[str]:
    found = []
    for node in rig.cluster.nodes:
        text = wiring.agent_log(node).read_text("utf-8", "replace")
        found += [line for line in text.splitlines() if f" {word} " in line]
    return found


def test_an_archive_moves_to_another_store_under_load() -> None:
    old, new = DirectoryPlace(), DirectoryPlace()
    with_both = Rig(old, Diary(), rate=0.5, far=new)
    both: dict[str, Any] = with_both.section
    others = {key: value for key, value in both.items() if key != "stores"}
    with_both.section = {"store": old.section(), **others}
    with with_both as rig:
        far = rig.far
        assert far is not None
        rig.ledger.wait_for(100)
        before = rig.record()
        reload(rig, both)
        wait_until(far.record, "the record of the new store", 60)
        rig.ledger.wait_for(200)
        backup = base_backup(rig)
        rig.ledger.wait_for(300)
        reload(rig, {"stores": both["stores"][1:], **others})
        record = wait_until(far.record, "its record", 60)
        rig.ledger.wait_for(500)
        wait_until(lambda: (now := far.record()) is not None and now.position > record.position, "it goes on", 60)
        left = rig.record()
        rig.ledger.wait_for(600)
        end = far.record()
        assert end is not None
        verdict = check.restore(far, backup, end)
        assert verdict.sound, str(verdict)
        assert verdict.rows > 0
        assert rig.record() == left, "nobody moves the record of the store that was taken out"
        assert before is not None
        assert left is not None
        assert left.position > before.position
        assert not logged(rig, "fenced")
        assert len(logged(rig, "reloaded")) >= 6
