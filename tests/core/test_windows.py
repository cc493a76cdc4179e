"""Complete backups and their windows (P14), held against a model that looks at one quarter of a segment after the other."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.values import a_backup
from walkeeper.core.backup import Backup, BackupId, Place, WalRange
from walkeeper.core.coverage import Archived, Ranges, merged
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.windows import Choice, Holdings, Judged, NoChoice, Window, all_histories, choose, look, stopped_at

SIZE = SegmentSize(MIB)
QUARTER = MIB // 4
MOST = 6
"""Segments of a timeline in these tests."""
AT = datetime(2026, 11, 28, 2, 0, tzinfo=UTC)


def backup(
    number: int, history: History, start: int, stop: int, parent: Backup | None = None, damage: tuple[str, ...] = ()
) -> Backup:
    """From quarter ``start`` to ``stop`` on that chain; the n-th is n minutes younger."""
    begins = [0, *(switch.lsn // QUARTER for switch in history.switches), 1 << 30]
    parts = [
        WalRange(timeline, str(Lsn(max(start, begin) * QUARTER)), str(Lsn(min(stop, end) * QUARTER)))
        for timeline, begin, end in zip(history.timelines, begins, begins[1:], strict=False)
        if max(start, begin) < min(stop, end)
    ]
    at = (AT + timedelta(minutes=number)).isoformat()
    return a_backup(
        BackupId(f"20261128T02{number:02}00Z", parts[-1].timeline, "1a2b3c4d"),
        start=Place(parts[0].timeline, parts[0].start, at),
        stop=Place(parts[-1].timeline, parts[-1].end, at),
        wal=tuple(parts),
        kind="incremental" if parent else "full",
        parent=parent.id if parent else "",
        damage=damage,
    )


def archived(stored: set[tuple[int, int]], gaps: set[tuple[int, int]] = frozenset()) -> Archived:  # type: ignore[assignment]
    def by_timeline(files: set[tuple[int, int]]) -> dict[int, Ranges]:
        return {
            timeline: merged((number, number + 1) for each, number in files if each == timeline)
            for timeline in {timeline for timeline, _ in files}
        }

    return Archived(by_timeline(stored), by_timeline(gaps), frozenset())


@dataclass(frozen=True)
class World:
    """Whole segments, tails in quarters, what is given up: by (timeline, number)."""

    histories: dict[int, History]
    kept: History
    stored: set[tuple[int, int]]
    partly: dict[tuple[int, int], int]
    given_up: set[tuple[int, int]]
    backups: list[Backup]

    @property
    def holdings(self) -> Holdings:
        return Holdings(
            archived=archived(self.stored),
            size=SIZE,
            system_identifier=7,
            kept=self.kept,
            histories=self.histories,
            partly={
                Segment(timeline, number, SIZE): Lsn(number * SIZE + quarters * QUARTER)
                for (timeline, number), quarters in self.partly.items()
            },
            given_up=archived(self.given_up).segments,
        )

    def has(self, history: History, quarter: int) -> bool:
        """Whether a recovery along that chain finds this quarter of a segment."""
        number = quarter // 4
        file = (history.timeline_of(number, SIZE), number)
        return file not in self.given_up and (file in self.stored or quarter % 4 < self.partly.get(file, 0))

    def reached(self, each: Backup, history: History) -> range:
        """The quarters before which a restore of that backup can stop on that chain, whatever of it is damaged."""
        needed = [
            (part.timeline, at)
            for part in each.wal
            for at in range(Lsn.parse(part.start) // QUARTER, Lsn.parse(part.end) // QUARTER)
        ]
        if not all(history.has(timeline, Lsn(at * QUARTER)) for timeline, at in needed):
            return range(0)
        end = needed[0][1]
        while self.has(history, end):
            end += 1
        return range(needed[-1][1] + 1, end + 1)

    def counts(self, each: Backup) -> bool:
        parent = next((other for other in self.backups if other.id == each.parent), None)
        return (
            not each.damage
            and (
                each.kind == "full"
                or (parent is not None and self.counts(parent) and parent.start.position <= each.start.position)
            )
            and any(self.reached(each, history) for history in self.histories.values())
        )


@st.composite
def worlds(draw: st.DrawFn) -> World:
    trees = {1: History(1)}
    for timeline in range(2, 2 + draw(st.integers(0, 3))):
        parent = trees[draw(st.sampled_from(sorted(trees)))]
        begun = parent.switches[-1].lsn // QUARTER if parent.switches else 0
        at = draw(st.integers(max(1, begun), 4 * MOST))
        trees[timeline] = History(timeline, (*parent.switches, Switch(parent.timeline, Lsn(at * QUARTER))))
    files = [(timeline, number) for timeline in trees for number in range(MOST)]
    missing = draw(st.sets(st.sampled_from(files), max_size=6))
    backups: list[Backup] = []
    for number in range(draw(st.integers(0, 4))):
        chain = trees[draw(st.sampled_from(sorted(trees)))]
        start = draw(st.integers(0, 4 * MOST - 2))
        stop = draw(st.integers(start + 1, min(start + 9, 4 * MOST)))
        parent_backup = draw(st.sampled_from([None, None, *backups]))
        damage = draw(st.sampled_from([(), (), (), ("base/5/1: a page",)]))
        backups.append(backup(number, chain, start, stop, parent_backup, damage))
    return World(
        trees,
        trees[draw(st.sampled_from(sorted(trees)))],
        set(files) - missing,
        {file: draw(st.integers(1, 4)) for file in sorted(missing) if draw(st.booleans())},
        draw(st.sets(st.sampled_from(files), max_size=4)),
        backups,
    )


@settings(deadline=None)
@given(worlds())
def test_p14_complete_is_what_a_look_at_each_byte_of_its_wal_finds(world: World) -> None:
    found = look(world.backups, world.holdings)
    assert {each.backup.id: each.counts for each in found.judged} == {
        each.id: world.counts(each) for each in world.backups
    }
    assert all(each.counts == (each.why == "") for each in found.judged)


@settings(deadline=None)
@given(worlds())
def test_p14_windows_are_the_positions_that_a_complete_backup_reaches(world: World) -> None:
    found = look(world.backups, world.holdings)
    good = [each for each in world.backups if world.counts(each)]
    for timeline, history in world.histories.items():
        reached = [(each, world.reached(each, history)) for each in good]
        for quarter in range(4 * MOST + 2):
            position = Lsn(quarter * QUARTER)
            able = [each for each, quarters in reached if quarter in quarters]
            inside = [window for window in found.chains[timeline] if window.start <= position <= window.end]
            assert len(inside) == bool(able)
            choice = choose(found, position, timeline=timeline)
            if able:
                newest = max(able, key=lambda each: (Lsn.parse(each.wal[-1].end), each.id))
                assert choice == Choice(newest, inside[0])
            else:
                assert isinstance(choice, NoChoice)
                assert not any(window in inside for window in choice.near)


@settings(deadline=None)
@given(worlds())
def test_what_is_shown_has_each_chain_from_where_it_parts_from_the_kept_one(world: World) -> None:
    found = look(world.backups, world.holdings)
    assert [each for each in found.shown if each.timeline == world.kept.timeline] == list(
        found.chains[world.kept.timeline]
    )
    for timeline, history in world.histories.items():
        parted = history.parts_from(world.kept)
        if parted is None:
            continue
        beyond = {
            quarter
            for quarter in range(4 * MOST + 2)
            for window in found.chains[timeline]
            if max(parted, window.start) <= quarter * QUARTER <= window.end and window.end > parted
        }
        shown = [window for window in found.shown if window.timeline == timeline]
        assert beyond == {
            quarter
            for quarter in range(4 * MOST + 2)
            for window in shown
            if window.start <= quarter * QUARTER <= window.end
        }
        assert all(window.dead is not history.includes(world.kept.timeline) for window in shown)


ONE = History(1)
TWO = History(2, (Switch(1, Lsn(5 * MIB + 2 * QUARTER)),))


def holdings(
    stored: set[tuple[int, int]],
    kept: History = ONE,
    *,
    gaps: set[tuple[int, int]] = frozenset(),  # type: ignore[assignment]
    given_up: set[tuple[int, int]] = frozenset(),  # type: ignore[assignment]
    partly: dict[Segment, Lsn] | None = None,
    start: int = 2,
) -> Holdings:
    return Holdings(
        archived=archived(stored, gaps),
        size=SIZE,
        system_identifier=7,
        kept=kept,
        histories=all_histories({} if kept == ONE else {kept.timeline: kept}, 1),
        partly=partly or {},
        given_up=archived(given_up).segments,
        start=Segment(1, start, SIZE),
    )


def numbers(timeline: int, first: int, end: int) -> set[tuple[int, int]]:
    return {(timeline, number) for number in range(first, end)}


def why(each: Backup, what: Holdings, broken: dict[str, str] | None = None) -> tuple[str, str]:
    (judged,) = look([each], what, broken).judged
    return judged.verdict, judged.why


def test_p14_what_a_backup_lacks_is_said_by_its_name() -> None:
    each = backup(0, ONE, 9, 18)  # from inside segment 2 to inside segment 4
    assert why(each, holdings(numbers(1, 2, 6))) == ("complete", "")
    assert why(each, holdings({(1, 2), (1, 4), (1, 5)})) == (
        "incomplete",
        "000000010000000000000003 is missing in the store",
    )
    assert why(each, holdings({(1, 2), (1, 4)}, gaps={(1, 3)})) == (
        "incomplete",
        "its WAL is lost: 000000010000000000000003 is in a recorded gap",
    )
    assert why(each, holdings(numbers(1, 2, 6), given_up=numbers(1, 0, 4))) == (
        "incomplete",
        "its WAL was given up: 000000010000000000000002 is below the floor",
    )
    assert why(each, holdings(numbers(1, 3, 6), start=3)) == (
        "incomplete",
        "it needs 000000010000000000000002, and the archive begins with 000000010000000000000003",
    )
    assert why(each, holdings(numbers(1, 2, 4))) == (
        "incomplete",
        "its WAL is stored up to 0/400000, and it needs it up to 0/480000",
    )


def test_p14_the_tail_of_the_open_segment_completes_a_backup() -> None:
    each = backup(0, ONE, 9, 18)
    assert why(each, holdings(numbers(1, 2, 4), partly={Segment(1, 4, SIZE): Lsn(0x480000)})) == ("complete", "")
    verdict, _ = why(each, holdings(numbers(1, 2, 4), partly={Segment(1, 4, SIZE): Lsn(0x47FFFF)}))
    assert verdict == "incomplete"


def test_p14_a_backup_of_before_a_failover_is_complete_on_the_chain_that_has_its_stop() -> None:
    each = backup(0, ONE, 9, 21)  # up to inside segment 5, which timeline 2 goes on with
    found = look([each], holdings(numbers(1, 2, 5) | {(2, 5)}, TWO))
    assert [judged.verdict for judged in found.judged] == ["complete"]
    assert found.shown == (Window(2, Lsn(0x540000), Lsn(0x600000), (each,)),)
    assert isinstance(choose(found, timeline=1), NoChoice)


def test_p14_damage_another_cluster_and_an_unknown_timeline_never_count() -> None:
    each, all_there = backup(0, ONE, 9, 18, damage=("base/5/1259: 3 pages", "base/5/1260: 1 page")), numbers(1, 2, 9)
    assert why(each, holdings(all_there)) == ("damaged", "base/5/1259: 3 pages; base/5/1260: 1 page")
    each = backup(0, ONE, 9, 18)
    assert why(each, holdings(all_there), {each.id: "2 pieces are missing"}) == ("damaged", "2 pieces are missing")
    other = a_backup(BackupId.parse(each.id), system_identifier="8")
    assert why(other, holdings(all_there)) == ("damaged", "it is of another cluster, system identifier 8")
    other = a_backup(BackupId.parse(each.id), segment_size=2 * MIB)
    assert why(other, holdings(all_there))[0] == "damaged"
    assert why(a_backup(BackupId.parse(each.id)), holdings(all_there)) == (
        "incomplete",
        "timeline 3: the archive has no history with its WAL",
    )


def test_p14_an_incremental_counts_with_its_parent_only() -> None:
    full, good = backup(0, ONE, 9, 18), numbers(1, 2, 9)
    child = backup(1, ONE, 20, 24, full)
    assert [each.verdict for each in look([child, full], holdings(good)).judged] == ["complete", "complete"]
    assert why(child, holdings(good)) == ("damaged", f"it builds on {full.id}, which is not there")
    told = {full.id: "its backup.json is not JSON"}
    assert why(child, holdings(good), told) == ("damaged", f"it builds on {full.id}, which is damaged: {told[full.id]}")
    lacks = f"it builds on {full.id}, which is incomplete: 000000010000000000000003 is missing in the store"
    assert look([child, full], holdings(good - {(1, 3)})).judged[1] == Judged(child, "incomplete", lacks)
    broken = look([child, full], holdings(good), {full.id: "a piece is not there"})
    assert [each.verdict for each in broken.judged] == ["damaged", "damaged"]
    assert broken.judged[1].why == f"it builds on {full.id}, which is damaged: a piece is not there"
    earlier = backup(1, ONE, 8, 24, full)
    assert look([earlier, full], holdings(good)).judged[1].why == f"its parent {full.id} is not older"
    other = a_backup(BackupId.parse(child.id), kind="incremental", parent=full.id, start=child.start, version=170005)
    assert look([other, full], holdings(good)).judged[1].why.endswith("is of another cluster or version")


def test_a_kept_island_below_the_floor_is_a_window_of_its_own() -> None:
    old, new = backup(0, ONE, 9, 11), backup(1, ONE, 25, 27)
    found = look([old, new], holdings(numbers(1, 2, 9), given_up=numbers(1, 0, 2) | numbers(1, 3, 6), start=6))
    assert [(str(each.start), str(each.end)) for each in found.shown] == [
        ("0/2C0000", "0/300000"),
        ("0/6C0000", "0/900000"),
    ]
    assert choose(found, Lsn(0x500000)) == NoChoice(
        "0/500000 lies between two windows: no backup reaches from 0/300000 to 0/6C0000", found.shown
    )


def test_a_target_is_reached_from_the_newest_backup_before_it_or_it_is_said_why_not() -> None:
    first, second = backup(0, ONE, 9, 11), backup(10, ONE, 25, 27)
    found = look([first, second], holdings(numbers(1, 2, 9)))
    (window,) = found.shown
    assert choose(found) == Choice(second, window)
    assert choose(found, Lsn(0x6BFFFF)) == Choice(first, window)
    assert choose(found, Lsn(0x6C0000)) == Choice(second, window)
    assert choose(found, had_stopped=lambda each: each.backup == first) == Choice(first, window)
    assert choose(found, had_stopped=lambda _: True) == Choice(second, window)
    for target, text in (
        (choose(found, Lsn(0x2BFFFF)), "0/2BFFFF is before the stop of the oldest complete backup, 0/2C0000"),
        (choose(found, Lsn(0x900001)), "0/900001 is beyond 0/900000, up to where WAL is stored without a break"),
        (
            choose(found, had_stopped=lambda _: False),
            f"that is before the stop of the oldest complete backup, {first.id} ({AT.isoformat()} by its server's clock)",
        ),
        (choose(found, timeline=4), "timeline 4: the archive knows no history of it"),
    ):
        assert target == NoChoice(text, (window,))
    assert choose(look([], holdings(set()))) == NoChoice("no backup on the chain of timeline 1 is complete")


@pytest.mark.parametrize("text", ["", "yesterday", "2026-11-28T02:00:00"])
def test_a_stop_without_a_time_is_chosen_by_position_only(text: str) -> None:
    each = a_backup(BackupId("20261128T020000Z", 3, "1a2b3c4d"), stop=Place(3, "0/2000100", text))
    assert stopped_at(each) is None
