"""A minute of torture, and that its check would notice a hole. ``make torture`` goes on for longer."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from xml.etree import ElementTree as ET

import pytest

from benchmarks.places import DirectoryPlace
from tests.torture import check, report
from tests.torture.rig import Diary, Rig, base_backup
from tests.torture.run import Options, Tally, facts, rounds

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
QUICK = ("kill_agent", "kill_receiver", "kill_postmaster", "stop_receiver", "switchover", "kill_host", "store_away")


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig(DirectoryPlace(), Diary(), rate=0.5) as started:
        yield started


def test_a_minute_of_torture_breaks_no_promise(rig: Rig) -> None:
    seed = random.SystemRandom().randrange(10**6)
    rig.diary.tell("note", f"seed {seed}")
    tally = Tally(Counter())
    rounds(rig, Options(seed, 30, "directory", 0.5, 30, QUICK, None, holes=False), tally)
    assert rig.diary.violations == [], f"seed {seed}"
    assert tally.rows > 0
    assert sum(tally.faults.values()) >= 2
    page = report.page(rig.diary, "a minute", facts(rig.diary, tally))
    assert ET.fromstring(page[page.index("<svg") : page.index("</svg>") + 6]).tag == "svg"
    assert "http" not in page  # no outside assets


def test_the_check_notices_a_segment_that_is_missing(rig: Rig) -> None:
    backup = base_backup(rig)
    rig.ledger.wait_for(400)
    record = rig.wait_caught_up()
    assert check.restore(rig, backup, record).sound
    lost = check.chain(rig, backup, record)[-2]
    with rig.hidden(lost):
        verdict = check.restore(rig, backup, record, deadline=5)
        crossing = check.cross(rig, backup, record, lost)
    assert not verdict.sound
    assert verdict.missing or "the restore failed" in verdict.why  # a server that asks for it is told so, and stops
    assert crossing.objection == ""
