"""A hole in the archive is not its end: what a server in archive recovery is told, and a standby (P6, J11)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.core.test_floor import a_floor
from tests.core.values import history_text, paged_segment, plain_segment
from tests.fixtures.restoring import SEGMENT, SYSTEM, Node, answering
from tests.parts.processes import wait_until
from tests.twins.hand_clock import HandClock
from tests.twins.memory_record import MemoryRecord
from walkeeper.archive import tail
from walkeeper.archive.codec import Codec
from walkeeper.archive.expiry import write_floor
from walkeeper.archive.open import open_archives
from walkeeper.archive.read import Reader
from walkeeper.config import load
from walkeeper.core.floor import Below
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn
from walkeeper.core.names import HistoryFile, Segment
from walkeeper.core.record import Record
from walkeeper.core.tail import Piece
from walkeeper.dcs.base import RECORD
from walkeeper.dcs.furthest import Furthest
from walkeeper.errors import CannotTell, DcsError, StoreUnavailable
from walkeeper.lib.clock import SystemClock
from walkeeper.restore import command, exits
from walkeeper.restore.ends import KEPT, Ends

RECOVERS: Final = ("recovery.signal", "postmaster.pid")
FOLLOWS: Final = ("standby.signal", "postmaster.pid")
HISTORY: Final = History(2, (Switch(1, Lsn(9 * MIB + 100)),))


def segment(number: int, timeline: int = 1) -> Segment:
    return Segment(timeline, number, SEGMENT.size)


class Holed(Node):
    """Its archive has 5 and 6, and whatever a test puts behind the hole at 7."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(directory, monkeypatch)
        self.put(6)
        self.configure(deadline="500ms")

    def put(self, number: int, timeline: int = 1) -> None:
        each = segment(number, timeline)
        self.archive.archive_segment(each, plain_segment(each, SYSTEM), None)

    def record(self, lsn: int, timeline: int = 1) -> None:
        record = Record(
            system_identifier=str(SYSTEM), segment_size=MIB, timeline=timeline, lsn=str(Lsn(lsn)), start=SEGMENT.name,
            owner="a", session="s",
        )  # fmt: skip
        self.dcs.put(record.encode())

    def piece(self, number: int, begin: int = 0) -> str:
        """A page of its tail, and the key."""
        each = segment(number)
        piece = Piece(begin, begin + 8192, "o1")
        plain = paged_segment(each, SYSTEM, History(1))
        return tail.put(self.archive, each, piece, plain[piece.begin : piece.end]).key


@pytest.fixture
def node(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Holed:
    return Holed(short_path, monkeypatch)


@pytest.fixture
def agent(node: Holed) -> Iterator[Holed]:
    with answering(node):
        yield node


BEHIND: Final[dict[str, Callable[[Holed], object]]] = {
    "the next but one": lambda node: node.put(8),
    "one in the next folder": lambda node: node.put(4096 + 2),
    "one far behind, in a folder of its own": lambda node: node.put(4096 * 0x4321),
    "the tail of a later one": lambda node: node.piece(9),
    "a recorded gap": lambda node: node.archive.record_gap(segment(7), Lsn(9 * MIB)),
    "a gap that was recorded behind it": lambda node: node.archive.record_gap(segment(8), Lsn(9 * MIB)),
    "a timeline that left it later": lambda node: node.archive.archive_history(2, history_text(HISTORY)),
    "the frontier": lambda node: node.record(8 * MIB),
    "the frontier, just": lambda node: node.record(7 * MIB + 8),
    "the record's timeline, whose history is missing": lambda node: node.record(9 * MIB, timeline=2),
}


@pytest.mark.parametrize("behind", BEHIND)
def test_p6_j11_a_recovery_stops_at_a_hole_with_more_behind_it(
    agent: Holed, behind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    agent.server(RECOVERS)
    BEHIND[behind](agent)
    assert agent.restore(segment(6).name) == exits.DELIVERED
    assert agent.restore(segment(7).name) == exits.STOP_RECOVERY
    said = capfd.readouterr().err.splitlines()[-1]
    assert f"restore_failed file={segment(7).name} exit=255" in said
    assert "not its end" in said
    assert "recovery_target_lsn" in said
    assert "recovery_prefetch = off" in said


@pytest.mark.parametrize(
    "around",
    [
        "nothing", "only what is before", "the frontier at its start", "a timeline that left it before", "another timeline's segments",
        "the archive's other files", "another cluster's record", "a DCS that does not answer", "a record that cannot be read",
    ],
)  # fmt: skip
def test_p6_where_the_archive_ends_a_recovery_is_told_so(agent: Holed, around: str) -> None:
    agent.server(RECOVERS)
    if around == "the frontier at its start":
        agent.record(7 * MIB)
    elif around == "a timeline that left it before":
        agent.archive.archive_history(2, history_text(History(2, (Switch(1, Lsn(7 * MIB)),))))
        agent.record(20 * MIB, timeline=2)
        agent.put(8, timeline=2)
    elif around == "another timeline's segments":
        agent.archive.archive_history(3, history_text(History(3, (Switch(1, Lsn(5 * MIB + 100)),))))
        agent.put(8, timeline=3)
    elif around == "the archive's other files":
        key = agent.archive.layout.file(segment(8), "")
        for suffix in (".partial.zst", ".00000028.backup.zst", ".zst.old", "x"):
            agent.store.create(key + suffix, b"x", {})
        agent.store.create(f"{agent.archive.layout.gaps}README", b"x", {})
        for name in ("readme.txt", "000000010000000000000000.json", "zzzzzzzzzzzzzzzzzzzzzzzz.json"):
            agent.store.create(agent.archive.layout.starts + name, b'{"segment_size": 1e999}', {})
        agent.store.create(f"{agent.archive.layout.histories}README", b"x", {})
        for name in (
            "0000000400000000/000000040000000000000007.partial.zst",
            "0000000500000000/x",
            "zzzzzzzzzzzzzzzz/x",
        ):
            agent.store.create(agent.archive.layout.wal + name, b"x", {})
    elif around == "another cluster's record":
        agent.record(20 * MIB)
        assert agent.dcs.record is not None
        agent.dcs.put(agent.dcs.record.document.replace(str(SYSTEM).encode(), b"1"))
    elif around == "a DCS that does not answer":
        agent.record(20 * MIB)
        agent.dcs.down = True
    elif around == "a record that cannot be read":
        agent.dcs.put(b"{")
    assert agent.restore(segment(7).name) == exits.ABSENT
    assert agent.restore("00000004.history") == exits.ABSENT
    assert agent.restore("000000010000000000000007.00000028.backup") == exits.ABSENT


@pytest.mark.parametrize("left", ["inside", "at its start", "before", "of another segment"])
def test_p6_a_segment_that_a_newer_timeline_completed_is_delivered_up_to_where_that_begins(
    agent: Holed, left: str
) -> None:
    """Its tail went when the newer one's was stored. A recovery that was begun before the promotion still asks for it."""
    agent.server(RECOVERS)
    fork = {
        "inside": 7 * MIB + 9000,
        "at its start": 7 * MIB,
        "before": 6 * MIB + 9000,
        "of another segment": 8 * MIB + 9000,
    }
    branch = History(2, (Switch(1, Lsn(fork[left])),))
    agent.archive.archive_history(2, history_text(branch))
    heir = branch.segment(8 if left == "of another segment" else 7, SEGMENT.size)
    plain = paged_segment(heir, SYSTEM, branch)
    agent.archive.archive_segment(heir, plain, branch)
    agent.record(9 * MIB, timeline=2)
    asked = segment(7)
    if left == "inside":
        assert agent.restore(asked.name) == exits.DELIVERED
        assert (agent.data / "pg_wal" / "RECOVERYXLOG").read_bytes() == plain[:9000].ljust(SEGMENT.size, b"\0")
        assert agent.restore(segment(8).name) == exits.ABSENT
    else:
        assert agent.restore(asked.name) == (exits.STOP_RECOVERY if left == "of another segment" else exits.ABSENT)


def test_a_hole_that_an_upload_closes_meanwhile_is_waited_for(node: Holed) -> None:
    """At the live end of an archive several segments are on their way at once."""
    node.configure(deadline="30s")
    node.server(RECOVERS)
    node.put(8)
    with answering(node):
        looked = threading.Event()
        node.store.after = lambda method, prefix: looked.set() if prefix.endswith("gap/") else None

        def close() -> None:
            looked.wait(60)
            node.put(7)

        closer = threading.Thread(target=close)
        closer.start()
        assert node.restore(segment(7).name) == exits.DELIVERED
        closer.join()


def test_a_recorded_gap_is_not_waited_for(node: Holed) -> None:
    node.configure(deadline="1h")
    node.server(RECOVERS)
    node.archive.record_gap(segment(7), Lsn(9 * MIB))
    with answering(node):
        assert node.restore(segment(7).name) == exits.STOP_RECOVERY


def test_p6_a_tail_with_more_behind_its_segment_is_a_hole_too(agent: Holed) -> None:
    agent.server(RECOVERS)
    agent.piece(7)
    assert agent.restore(segment(7).name) == exits.DELIVERED
    agent.record(7 * MIB + 8192)
    wait_until(lambda: agent.restore(segment(7).name) == exits.DELIVERED, "the tail")
    agent.put(8)
    wait_until(lambda: agent.restore(segment(7).name) == exits.STOP_RECOVERY, "the hole")


@pytest.mark.parametrize("lost", ["damaged", "removed"])
def test_p6_a_tail_that_lost_a_piece_is_not_the_end(agent: Holed, lost: str, capfd: pytest.CaptureFixture[str]) -> None:
    agent.piece(7)
    key = agent.piece(7, 8192)
    agent.record(7 * MIB + 2 * 8192)
    agent.server(RECOVERS)
    assert agent.restore(segment(7).name) == exits.DELIVERED
    if lost == "damaged":
        agent.dcs.down = True  # the names alone say it, too
        agent.store.objects[key] = (b"x", agent.store.objects[key][1])
    else:
        agent.store.delete(key)
    assert agent.restore(segment(7).name) == exits.STOP_RECOVERY
    said = capfd.readouterr().err.splitlines()[-1]
    assert "0/702000" in said
    assert (key in said) == (lost == "damaged")
    (agent.data / "recovery.signal").unlink()
    agent.server(FOLLOWS)
    assert agent.restore(segment(7).name) == exits.DELIVERED


def test_a_frontier_that_moves_while_one_looks_is_not_held_against_the_tail(agent: Holed) -> None:
    agent.server(RECOVERS)
    agent.piece(7)
    agent.record(7 * MIB + 8192)

    def move(method: str, key: str) -> None:
        if method == "list" and "/tail/" in key:
            agent.store.after = None
            agent.piece(7, 8192)
            agent.record(7 * MIB + 2 * 8192)

    agent.store.after = move
    assert agent.restore(segment(7).name) == exits.DELIVERED
    assert agent.store.after is None


def test_what_the_server_has_itself_is_no_hole_for_it(agent: Holed) -> None:
    """As the WAL that came with a base backup, from before the archive's start."""
    agent.server(RECOVERS)
    agent.put(8)
    local = agent.data / "pg_wal" / segment(7).name
    plain = paged_segment(segment(7), SYSTEM, History(1))
    local.write_bytes(plain)
    assert agent.restore(segment(7).name) == exits.ABSENT
    for other in (
        plain[: MIB // 2],
        paged_segment(segment(6), SYSTEM, History(1)),
        paged_segment(segment(7), 1, History(1)),
        b"",
    ):
        local.write_bytes(other)
        assert agent.restore(segment(7).name) == exits.STOP_RECOVERY


@pytest.mark.parametrize("moved", [False, True], ids=["the damaged one beside it", "the damaged one moved away"])
def test_p6_a_history_that_was_stored_again_tells_where_its_timeline_left(agent: Holed, moved: bool) -> None:
    """The damaged one is a history too: of a branch that left before the hole."""
    agent.server(RECOVERS)
    place = agent.archive.layout.file(HistoryFile(2), "")
    agent.archive.archive_history(2, history_text(HISTORY))
    _, metadata = agent.store.objects[place]
    agent.store.objects[place] = (history_text(History(2, (Switch(1, Lsn(MIB + 100)),))), metadata)
    agent.archive.archive_history(2, history_text(HISTORY))
    if moved:
        agent.store.delete(place)
    assert agent.restore(segment(7).name) == exits.STOP_RECOVERY
    assert agent.restore("00000002.history") == exits.DELIVERED


def test_p6_a_missing_history_of_which_a_newer_timeline_came_is_no_end(agent: Holed) -> None:
    agent.server(RECOVERS)
    four = History(4, (Switch(1, Lsn(5 * MIB + 8)), Switch(2, Lsn(6 * MIB + 8))))
    agent.archive.archive_history(4, history_text(four))
    assert agent.restore("00000002.history") == exits.STOP_RECOVERY
    (agent.data / "pg_wal" / "00000002.history").write_bytes(b"1\t0/50")
    assert agent.restore("00000002.history") == exits.STOP_RECOVERY
    (agent.data / "pg_wal" / "00000002.history").write_bytes(b"1\t0/500008\tx\n")
    assert agent.restore("00000002.history") == exits.ABSENT  # PostgreSQL takes its own
    assert agent.restore("00000003.history") == exits.ABSENT
    assert agent.restore("00000005.history") == exits.ABSENT


@pytest.mark.parametrize("left", ["a segment", "its tail", "a later timeline's segment"])
def test_p6_a_missing_history_whose_timeline_has_wal_is_no_end(
    agent: Holed, left: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is stored before the first byte of its timeline. What absent means: all of that is dropped, and the number taken again."""
    agent.server(RECOVERS)
    assert agent.restore("00000002.history") == exits.ABSENT
    timeline = 3 if left.startswith("a later") else 2
    lost = segment(9, timeline)
    if left == "its tail":
        plain = paged_segment(lost, SYSTEM, HISTORY)
        tail.put(agent.archive, lost, Piece(0, 8192, "o1"), plain[:8192])
    else:
        agent.put(9, timeline)
    # What was found a moment ago is kept for a second.
    wait_until(lambda: agent.restore("00000002.history") == exits.STOP_RECOVERY, "the hole")
    said = capfd.readouterr().err.splitlines()[-1]
    assert f"00000002.history: not in the archive, and WAL of timeline {timeline} is there" in said
    assert agent.restore("00000004.history") == exits.ABSENT
    agent.archive.archive_history(2, history_text(HISTORY))
    assert agent.restore("00000002.history") == exits.DELIVERED


@pytest.mark.parametrize("unreadable", ["denied", "silent", "garbage"])
def test_p6_one_of_several_records_that_cannot_be_read_hides_no_frontier(node: Holed, unreadable: str) -> None:
    ours, far = MemoryRecord(node.dcs), MemoryRecord(node.dcs, f"{RECORD}-far")
    ends = Ends(Reader(node.store, Codec()), lambda: Furthest([far, ours]), SystemClock(), 30)
    node.record(9 * MIB)
    if unreadable == "denied":
        far.read = lambda: (_ for _ in ()).throw(DcsError("not allowed"))  # type: ignore[method-assign]
    elif unreadable == "silent":
        far.cut_off = True
    else:
        node.dcs.put(b"{", f"{RECORD}-far")
    _, hole = ends.look(node.archive.layout, segment(7).name)
    assert "the frontier is at 0/900000" in str(hole)
    ours.cut_off = True
    assert ends.look(node.archive.layout, segment(8).name)[1] is None, "the store alone tells"


@pytest.mark.parametrize("name", [segment(7).name, "00000002.history"])
def test_p6_a_bucket_that_was_emptied_while_a_recovery_runs_is_no_end(node: Holed, name: str) -> None:
    """That an archive is there is asked once for a store that is far."""
    silent = MemoryRecord(node.dcs)
    silent.cut_off = True
    reader = Reader(node.store, Codec(), far=True)
    ends = Ends(reader, lambda: silent, SystemClock(), 30)
    layout = node.archive.layout
    assert reader.deliver(layout, segment(9).name) is None
    assert ends.look(layout, segment(9).name)[1] is None
    node.store.objects.clear()
    assert reader.deliver(layout, name) is None
    with pytest.raises(CannotTell, match="there is no archive"):
        ends.look(layout, name)


def test_p6_a_standby_goes_on_asking_and_its_log_has_one_line(agent: Holed, capfd: pytest.CaptureFixture[str]) -> None:
    agent.server(FOLLOWS)
    agent.put(8)

    def told() -> bool:
        assert agent.restore(segment(7).name) == exits.ABSENT
        return "hole_in_archive" in capfd.readouterr().err

    wait_until(told, "a line")
    for _ in range(5):
        assert not told()


def test_the_end_of_an_archive_is_found_without_listing_what_is_before_it(agent: Holed) -> None:
    agent.server(RECOVERS)
    for folder in range(5):
        agent.put(4096 * folder + 17)
    wal = agent.archive.layout.wal
    assert agent.restore(segment(4096 * 4 + 18).name) == exits.ABSENT
    listed = {key.removeprefix(wal) for method, key in agent.store.calls if method == "list" and key.startswith(wal)}
    assert listed == {"0000000100000004/"}


@pytest.mark.parametrize("tail_of", ["nothing", "the open segment"])
def test_the_end_of_an_archive_costs_one_listing_of_each_prefix(node: Holed, tail_of: str) -> None:
    """And each is paid for, and waited for. Only where it begins is listed last, too: that proves what came before."""
    if tail_of == "the open segment":
        node.piece(7)
    archives = open_archives(load(node.config, {}), node.store, to_read=True)
    source, clock = Reader(archives.store, archives.codec, far=True), HandClock()
    ends, layout = Ends(source, lambda: MemoryRecord(node.dcs), clock, 60), node.archive.layout

    def asked(name: str) -> tuple[int, list[str]]:
        """How many objects are asked for, and what is listed, in any order."""
        before = len(node.store.calls)
        if source.deliver(layout, name) is None:
            assert ends.look(layout, name)[1] is None
        calls = node.store.calls[before:]
        listed = [key.removeprefix(layout.root) for method, key in calls if method in ("list", "folders")]
        return len(calls) - len(listed), sorted(listed)

    assert asked(segment(6).name) == (2, [])
    once = ["expire/", "gap/", "history/", "start/", "tail/00000001", "wal/", "wal/0000000100000000/"]
    pieces = 0 if tail_of == "nothing" else 1
    assert asked(segment(7).name) == (4 + 1 + pieces, sorted([*once, "start/"])), "the first time, with its size"
    again = ["tail/00000001", "history/"] if pieces else ["tail/00000001"]
    assert asked(segment(7).name) == (4 + pieces, sorted(again))
    history = ["history/", "start/", "tail/00000002", "wal/"]
    assert asked("00000002.history") == (2, history)
    assert asked("00000002.history") == (2, []), "and what was found of the other is kept beside it"
    clock.now += KEPT + 0.1
    assert asked("00000002.history") == (2, history)
    assert asked(segment(7).name) == (4 + pieces, once)


def test_p6_a_segment_that_is_stored_whole_while_its_tail_is_looked_at_is_no_end(agent: Holed) -> None:
    """Its pieces are gone by then. Where no record can be read nothing else says that the archive goes on."""
    agent.server(RECOVERS)
    agent.dcs.down = True
    key = agent.piece(7)

    def complete(method: str, asked: str) -> None:
        if method == "list" and "/tail/" in asked:
            agent.store.before = None
            agent.store.delete(key)
            agent.put(7)

    agent.store.before = complete
    assert agent.restore(segment(7).name) == exits.DELIVERED
    assert (agent.data / "pg_wal" / "RECOVERYXLOG").read_bytes() == plain_segment(segment(7), SYSTEM)


def test_a_standby_at_the_archives_end_costs_one_look_a_minute_and_no_record(agent: Holed) -> None:
    agent.server(FOLLOWS)
    agent.record(20 * MIB)
    for _ in range(10):
        assert agent.restore(segment(7).name) == exits.ABSENT
    wait_until(lambda: ("list", f"{agent.archive.layout.root}gap/") in agent.store.calls, "the look")
    assert agent.store.calls.count(("list", f"{agent.archive.layout.root}gap/")) == 1


def test_pg_rewind_is_told_what_the_archive_lacks_and_nothing_more(agent: Holed) -> None:
    agent.put(8)
    assert agent.restore(segment(7).name) == exits.ABSENT
    assert ("list", f"{agent.archive.layout.root}gap/") not in agent.store.calls


def test_p6_what_cannot_be_looked_at_is_no_end(agent: Holed) -> None:
    agent.server(RECOVERS)

    def fail(method: str, key: str) -> None:
        if method == "list" and key.endswith("gap/"):
            raise StoreUnavailable(key)

    agent.store.before = fail
    assert agent.restore(segment(7).name) is None  # the slow way, which tries until the deadline
    agent.store.before = None
    assert agent.restore(segment(7).name) == exits.ABSENT


# ------------------------------------------------------------------------------------------------------- without an agent


@pytest.fixture
def alone(node: Holed, monkeypatch: pytest.MonkeyPatch) -> Holed:
    """restore-wal does it by itself, on that store and DCS."""

    node.configure(deadline="2s")
    monkeypatch.setattr(command, "open_all", lambda *_, **__: node.store)
    monkeypatch.setattr(command, "_records", lambda _, key=RECORD: MemoryRecord(node.dcs, key))
    return node


def run_alone(node: Holed, name: str) -> int:
    return command.main(node.config, name, "pg_wal/RECOVERYXLOG", dict(os.environ))


@pytest.mark.parametrize("behind", BEHIND)
def test_p6_j11_without_an_agent_a_recovery_stops_there_too(
    alone: Holed, behind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    alone.server(RECOVERS)
    BEHIND[behind](alone)
    assert run_alone(alone, segment(7).name) == exits.STOP_RECOVERY
    assert "recovery_target_lsn" in capfd.readouterr().err
    assert run_alone(alone, segment(6).name) == exits.DELIVERED


def test_p6_without_an_agent_a_standby_is_told_too(alone: Holed, capfd: pytest.CaptureFixture[str]) -> None:
    alone.server(FOLLOWS)
    alone.put(8)
    assert run_alone(alone, segment(7).name) == exits.ABSENT
    assert capfd.readouterr().err.count("hole_in_archive") == 1


@pytest.mark.parametrize("signal", [RECOVERS, FOLLOWS])
def test_what_is_before_the_archive_begins_is_no_hole(
    alone: Holed, signal: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    """A standby that restarts where the archive is young asks for WAL that it has."""
    alone.server(signal)
    recovers = signal is RECOVERS
    assert run_alone(alone, segment(4).name) == (exits.STOP_RECOVERY if recovers else exits.ABSENT)
    said = capfd.readouterr().err
    assert ("which begins with 000000010000000000000005" in said) is recovers
    assert "hole_in_archive" not in said


def test_a_start_that_no_segment_of_this_size_has_does_not_hide_where_the_archive_begins(
    alone: Holed, capfd: pytest.CaptureFixture[str]
) -> None:
    alone.server(RECOVERS)
    alone.store.create(f"{alone.archive.layout.starts}0000000100000000FFFFFFFF.json", b"{}", {})
    assert run_alone(alone, segment(4).name) == exits.STOP_RECOVERY
    assert "which begins with 000000010000000000000005" in capfd.readouterr().err


def test_without_an_agent_the_end_is_the_end(alone: Holed) -> None:
    alone.server(RECOVERS)
    assert run_alone(alone, segment(7).name) == exits.ABSENT


def test_p6_what_expire_gave_up_is_never_an_end_to_a_recovery_and_a_line_to_a_standby(
    agent: Holed, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also where nothing is behind it any more: a recovery along a branch that was given up must not open its server."""
    floor = a_floor(
        system_identifier=str(SYSTEM), below=(Below(1, "0/800000"),), kept=(), start=segment(8).name, backups=()
    )
    write_floor(agent.store, agent.archive.layout, floor)
    agent.server(RECOVERS)
    assert agent.restore(segment(6).name) == exits.DELIVERED  # what is there still is delivered
    assert agent.restore(segment(7).name) == exits.STOP_RECOVERY
    said = capfd.readouterr().err
    assert f"{segment(7)}: given up: it is below the floor" in said
    assert "walkeeper expire --revoke" in said
    assert agent.restore(segment(8).name) == exits.ABSENT
    agent.server(FOLLOWS)
    assert agent.restore(segment(7).name) == exits.ABSENT
    wait_until(
        lambda: agent.restore(segment(7).name) == exits.ABSENT and "given up" in capfd.readouterr().err, "its line"
    )
