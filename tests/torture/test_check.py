"""That the torture's checks notice what they are there for, without a cluster: each new breach is made up."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from tests.parts.ledger import Acknowledged
from tests.parts.node import Node
from tests.torture.beliefs import FAULTS, strays
from tests.torture.check import Crossing, Verdict, of_second_lives, on_the_way, who_has
from tests.torture.faults import EXCLUSIVE, MOVING, STAGED, clash
from tests.torture.rig import SecondLife
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.record import Gap, Record

SIZE = SegmentSize(4 * MIB)
RECORD = Record(
    system_identifier="7300000000000000001", segment_size=int(SIZE), timeline=1, lsn="0/3000000",
    start="000000010000000000000001", owner="a", session="s",
)  # fmt: skip
LINE = (
    'restore_failed file=000000010000000000000005 exit=255 error="000000010000000000000005: not in the archive, and not its end: '
    '000000010000000000000006 is there; the last record before it begins at 0/13FFF20"'
)


def segment(number: int, timeline: int = 1) -> Segment:
    return Segment(timeline, number, SIZE)


def gap(first: int, end: int, timeline: int = 1) -> Gap:
    return Gap(timeline, str(Lsn(first * SIZE)), str(Lsn(end * SIZE)))


class Holder:
    """As much of a node as is asked."""

    def __init__(self, name: str, *segments: Segment) -> None:
        self.name = name
        self._names = [segment.name for segment in segments]

    def segments(self) -> list[str]:
        return self._names


def test_rows_of_a_second_life_in_the_archive_are_a_breach() -> None:
    rows = [
        Acknowledged(number, 1, Lsn(number), at=float(number), port=port)
        for number, port in ((1, 7), (5, 7), (6, 8), (9, 7))
    ]
    assert of_second_lives(rows, [SecondLife(7, since=4.0, until=8.0)]) == {5}
    assert of_second_lives(rows, [SecondLife(7, since=4.0)]) == {5, 9}
    assert Verdict(RECORD, 3, []).sound
    assert not Verdict(RECORD, 3, [], spliced=[5]).sound
    assert "1 are of a second life" in str(Verdict(RECORD, 3, [], spliced=[5]))


def test_what_was_stored_in_a_directory_that_is_not_the_archive_is_a_breach(tmp_path: Path) -> None:
    (tmp_path / "other" / "8" / "start").mkdir(parents=True)
    (tmp_path / "other" / "8" / "start" / "1.json").write_text("{}")
    before = strays(tmp_path, set())
    assert strays(tmp_path, before) == set()
    (tmp_path / "other" / ".tmp-1").write_text("")
    assert strays(tmp_path, before) == set()  # nobody takes it for an object
    (tmp_path / "other" / "8" / "piece.zst").write_text("")
    assert strays(tmp_path, before) == {"other/8/piece.zst"}


def test_a_gap_that_somebody_had_is_a_breach_though_it_is_recycled_by_now() -> None:
    nodes = [cast("Node", Holder("a", segment(3), segment(9))), cast("Node", Holder("b", segment(9)))]
    assert who_has(gap(4, 6), SIZE, nodes, {}) == []
    assert who_has(gap(3, 6), SIZE, nodes, {}) == ["a"]
    assert who_has(gap(4, 6), SIZE, nodes, {segment(5): "b"}) == ["b"]
    assert who_has(gap(4, 6), SIZE, nodes, {segment(5, timeline=2): "b", segment(5): ""}) == []


def test_a_gap_is_in_the_way_of_those_restores_only_that_need_it() -> None:
    chain = [segment(3), segment(4), segment(5, timeline=2), segment(6, timeline=2)]
    assert on_the_way([gap(4, 6)], chain, SIZE) == [segment(4)]
    assert on_the_way([gap(5, 7)], chain, SIZE) == []  # of a branch that was left before
    assert on_the_way([gap(6, 7, timeline=2), gap(4, 5)], chain, SIZE) == [segment(4), segment(6, timeline=2)]


@pytest.mark.parametrize(
    ("crossing", "objection"),
    [
        (Crossing(segment(5).name, opened=False, log=LINE), ""),
        (Crossing(segment(5).name, opened=True, log=LINE), "it opened for writes"),
        (Crossing(segment(5).name, opened=False, log="FATAL: it stopped"), "without a line"),
        (Crossing(segment(5).name, opened=False, log=LINE.replace("exit=255", "exit=1")), "without a line"),
        (Crossing(segment(4).name, opened=False, log=LINE), "without a line"),
        (Crossing(segment(5).name, opened=False, log=LINE.partition(";")[0]), "without a line"),
    ],
    ids=["stopped and said so", "opened", "silent", "another exit", "another file", "without a position"],
)
def test_a_restore_that_comes_to_a_hole_must_stop_and_say_where(crossing: Crossing, objection: str) -> None:
    assert (objection in crossing.objection) if objection else crossing.objection == ""
    assert crossing.target == (Lsn.parse("0/13FFF20") if LINE in crossing.log or "begins" in crossing.log else None)


def test_a_staged_fault_comes_alone_among_those_that_move_its_actors() -> None:
    assert set(FAULTS) >= STAGED | MOVING
    assert all(names <= set(FAULTS) for names in EXCLUSIVE)
    for name in STAGED:
        assert clash(name, {"switchover"})
        assert clash("switchover", {name})
        assert all(clash(name, {other}) for other in STAGED)
    assert not clash("leader_put_back", {"kill_agent", "store_away"})
    assert not clash("switchover", {"reinit", "kill_host"})
