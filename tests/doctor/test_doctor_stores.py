"""What doctor asks of each store of a cluster that has several."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from tests.doctor.paper import understood
from tests.doctor.test_doctor_rules import good_facts, of, slot, with_server
from tests.fixtures.archives import Built
from tests.fixtures.two_stores import FAR, TwoStores, is_away, two
from tests.twins.memory_record import MemoryRecord
from walkeeper.config.model import NamedStore
from walkeeper.core.lsn import Lsn
from walkeeper.core.record import Gap, Record
from walkeeper.core.stores_told import brief
from walkeeper.dcs.claim import decoded
from walkeeper.doctor import gather, here, rules
from walkeeper.doctor.facts import AgentFacts, Facts, ServerFacts, StoreFacts, Unknown
from walkeeper.doctor.rule import RULES, judge
from walkeeper.errors import Refused, StoreDenied
from walkeeper.lib.schedule import Schedule
from walkeeper.store.directory.keys import DirectorySettings

__all__ = ["rules", "two"]

GAP = Gap(1, "0/1", "0/2")


@pytest.fixture
def good(tmp_path: Path) -> Facts:
    facts = good_facts(tmp_path)
    config = replace(facts.config, others=(NamedStore(FAR, DirectorySettings(tmp_path / FAR)),), durable_in=2)
    members = tuple(
        replace(each, server=replace(each.server, stores=brief(config.stores)))
        for each in facts.members
        if isinstance(each.server, ServerFacts)
    )
    other = replace(facts, config=config.of_store(FAR), for_store=("--store", FAR), members=members)
    return replace(facts, config=config, other_stores=(other,), members=members)


def of_far(facts: Facts, **changes: Any) -> Facts:
    (other,) = facts.other_stores
    return replace(facts, other_stores=(replace(other, **changes),))


def test_what_is_good_of_both_is_said_of_both(good: Facts) -> None:
    found = judge(good)
    assert {finding.state for finding in found} == {"ok"}
    asked = {finding.rule.name for finding in found if finding.text.startswith("store far: ")}
    assert asked == {rule.name for rule in RULES if rule.of_each_store} >= {"no_gaps", "store_answers", "record_owned"}


def test_a_finding_names_its_store_and_so_does_what_is_pasted(good: Facts) -> None:
    assert isinstance(good.store, StoreFacts)
    facts = of_far(good, store=replace(good.store, gaps=(GAP,)))
    fine, wrong = of(judge(facts), "no_gaps")
    assert (fine.state, wrong.state, wrong.text) == ("ok", "error", "store far: gap on timeline 1: 0/1 to 0/2")
    assert "backup -c" in wrong.fix[0]
    assert "--store far" in wrong.fix[0]
    for line in wrong.fix:
        understood(shlex.split(line, comments=True))
    assert wrong.fix[1].endswith("--store far accept 0/1")
    denied = of_far(good, store=StoreFacts(url="s3://far", problem=StoreDenied("403", hint="Let it in.")))
    assert [(each.state, each.text) for each in of(judge(denied), "store_allows")] == [
        ("ok", "it lets this node create, read and list"),
        ("error", "store far: 403"),
    ]
    unseen = of_far(good, record=Unknown("the DCS was not seen"))
    assert of(judge(unseen), "record_owned")[1].text == "store far: not known, because the DCS was not seen"


@pytest.mark.parametrize(
    ("order", "named"), [((FAR, "main"), "far, main"), (("main",), "main"), (("main", "near"), "others")]
)
def test_a_member_whose_agent_names_other_stores_or_in_another_order_is_named(
    good: Facts, order: tuple[str, ...], named: str
) -> None:
    facts = with_server("n2", stores=brief(order))(good)
    (wrong,) = [each for each in of(judge(facts), "same_stores") if each.state != "ok"]
    assert (wrong.state, wrong.about) == ("warning", "n2")
    assert f"its agent's stores are {named}" in wrong.text
    assert wrong.text.endswith("this node's configuration names main, far")


@pytest.mark.parametrize(("durable_in", "state"), [(1, "ok"), (2, "warning")])
def test_the_hold_slot_follows_as_many_as_durable_in_says(good: Facts, durable_in: int, state: str) -> None:
    assert isinstance(good.record, Record)
    behind = replace(good, config=replace(good.config, durable_in=durable_in))
    (other,) = behind.other_stores
    ahead = structs.replace(good.record, lsn="1/0")
    behind = replace(behind, other_stores=(replace(other, record=ahead),))
    late = with_server(slot=slot(restart_lsn=Lsn.parse("0/F0000000")))(behind)
    assert of(judge(late), "gap_safe")[0].state == state


def test_root_is_told_what_another_user_s_store_holds_and_writes_nothing(
    two: TwoStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = Built.segment(1, 7)
    two.main.archive.record_gap(lost, lost.end)
    place = Path(two.main.store.url.removeprefix("file://"))
    if os.geteuid() == 0:
        os.chown(place, 4711, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    data = two.main.config.source.parent
    config = replace(two.main.config, node=replace(two.main.config.node, data_dir=data))
    record = two.main.dcs.record
    assert record is not None
    found = here.look_at_store(config, decoded(record).record)
    assert isinstance(found.problem, Refused)
    assert isinstance(found.gaps, tuple)
    assert [gap.start for gap in found.gaps] == [str(lost.start)]
    assert not (place / "probe").exists()


def test_without_a_record_it_is_not_known_which_backups_there_are(two: TwoStores, good: Facts) -> None:
    """The DCS may be a new one, before an archive that has many."""
    facts = replace(good, store=here.look_at_store(two.main.config, None))
    facts = replace(facts, config=replace(facts.config, backup_schedule=Schedule.parse("02:00")))
    for rule in ("backup_in_time", "restore_proved", "base_backup"):
        assert [(each.state, "there is no record" in each.text) for each in of(judge(facts), rule)] == [
            ("unknown", True)
        ]


def test_each_is_looked_at_with_its_own_record(two: TwoStores, good: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "connect", lambda *arguments: MemoryRecord(two.dcs, arguments[-1]))
    lost = Built.segment(1, 7)
    two.far.archive.record_gap(lost, lost.end)
    config = replace(two.config, node=replace(two.config.node, data_dir=two.far.config.source.parent))
    far = gather._OtherStore(config.of_store(FAR), None)
    troubles = [{"text": "no answer"}]
    agent = AgentFacts(report={"troubles": [], "stores": [{"name": FAR, "troubles": troubles}]})
    facts = far.facts(replace(good, agent=agent), gather._store(far.config, far.record))
    assert isinstance(facts.store, StoreFacts)
    assert (facts.store.url, facts.store.before_frontier, facts.compare_and_set) == (
        two.far.store.url,
        "000000010000000000000005",
        "",
    )
    assert facts.store.gaps == (Gap(1, "0/700000", "0/800000"),)
    assert isinstance(facts.agent, AgentFacts)
    assert facts.agent.report["troubles"] == troubles
    is_away(two.far)
    away = gather._store(far.config, far.record)
    assert isinstance(away, StoreFacts)
    assert away.problem is not None
    two.dcs.down = True
    unknown = gather._OtherStore(config.of_store(FAR), None)
    assert isinstance(unknown.record, Unknown)
