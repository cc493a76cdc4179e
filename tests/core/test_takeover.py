import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.core.desired import Desired, ServerView, View, desired
from walkeeper.core.history import History, Switch
from walkeeper.core.hold_slot import SlotState, slot_target, why_not_gap_safe
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.record import MAX_GAPS, MAX_RECORD_BYTES, MAX_SUSPECTED, SMALL, Gap, Record, decode_record
from walkeeper.core.takeover import LocalServer, resume_at
from walkeeper.errors import BadRecord, BeyondServer, StandbyLags, WrongCluster, WrongSegmentSize, WrongTimeline

SIZE = SegmentSize(16 * MIB)
ONE = History(1)
TWO = History(2, (Switch(1, Lsn.parse("0/5000100")),))
RECORD = Record(
    system_identifier="7300000000000000001", segment_size=int(SIZE), timeline=1, lsn="0/4000000", start="000000010000000000000002",
    owner="a", session="s",
)  # fmt: skip


def local(history: History = ONE, lsn: str = "0/8000000", system_identifier: int = 7300000000000000001) -> LocalServer:
    return LocalServer(system_identifier, SIZE, history, Lsn.parse(lsn))


def at(lsn: str, timeline: int = 1) -> Record:
    return msgspec.structs.replace(RECORD, lsn=lsn, timeline=timeline)


def test_the_same_timeline_goes_on_at_the_frontier() -> None:
    assert resume_at(RECORD, ONE, local()) == Lsn.parse("0/4000000")


def test_a_promoted_node_goes_on_at_the_frontier_never_at_now() -> None:
    assert resume_at(RECORD, ONE, local(TWO)) == Lsn.parse("0/4000000")


def test_a_frontier_beyond_the_fork_goes_back_to_the_forks_segment() -> None:
    """The dead primary archived what nobody had replicated."""
    assert resume_at(at("0/7000000"), ONE, local(TWO)) == Lsn.parse("0/5000000")


def test_a_sibling_timeline_goes_back_to_where_the_two_part() -> None:
    three = History(3, (Switch(1, Lsn.parse("0/7000000")),))
    assert resume_at(at("0/9000000", timeline=2), TWO, local(three, "0/A000000")) == Lsn.parse("0/5000000")


def test_an_older_timeline_never_takes_over() -> None:
    with pytest.raises(WrongTimeline):
        resume_at(at("0/6000000", timeline=2), TWO, local(ONE))


def test_another_cluster_never_takes_over() -> None:
    with pytest.raises(WrongCluster):
        resume_at(RECORD, ONE, local(system_identifier=1))


def test_another_segment_size_never_takes_over() -> None:
    with pytest.raises(WrongSegmentSize):
        resume_at(RECORD, ONE, LocalServer(7300000000000000001, SegmentSize(MIB), ONE, Lsn(0)))


def test_a_frontier_that_the_server_has_not_reached_is_not_believed() -> None:
    for lsn in ("1/0", "0/8000004"):
        with pytest.raises(BeyondServer):
            resume_at(at(lsn), ONE, local(lsn="0/8000000"))
    assert resume_at(at("0/8000000"), ONE, local(lsn="0/8000000")) == Lsn.parse("0/8000000")


def test_a_standby_leader_that_lags_waits() -> None:
    with pytest.raises(StandbyLags) as caught:
        resume_at(
            at("0/9000000"), ONE, LocalServer(7300000000000000001, SIZE, ONE, Lsn.parse("0/8000000"), in_recovery=True)
        )
    assert caught.value.waiting_helps


def test_the_system_identifier_is_looked_at_before_the_timeline() -> None:
    with pytest.raises(WrongCluster):
        resume_at(at("0/6000000", timeline=2), TWO, local(ONE, system_identifier=1))


def test_a_record_is_small_with_the_largest_values_and_keeps_its_newest_gaps() -> None:
    gaps = tuple(Gap(0xFFFFFFFF, f"FFFFFFFF/{n:X}000000", "FFFFFFFF/FF000000") for n in range(MAX_GAPS))
    large = msgspec.structs.replace(
        RECORD, system_identifier="9" * 20, segment_size=1 << 30, timeline=0xFFFFFFFF, lsn="FFFFFFFF/FFFFFFFC", owner="n" * 40,
        session="s" * 32, gaps=gaps, gaps_total=1000, trouble="t" * 200, updated_at="2026-11-28T05:02:41Z",
        below_sha256="a" * 64, history_sha256="b" * 64, start="FFFFFFFFFFFFFFFF00000003",
    )  # fmt: skip
    assert len(large.encode()) <= SMALL
    kept = decode_record(large.encode()).gaps
    assert 0 < len(kept) < MAX_GAPS
    assert kept[-1] == gaps[-1]


def test_a_record_is_small_while_much_is_suspected_and_names_the_lowest() -> None:
    """That one holds the frontier up, and members look for what the record names."""
    ranges = tuple(
        Gap(0xFFFFFFFF, f"FFFFFFFF/{n:X}000000", f"FFFFFFFF/{n:X}800000") for n in range(16, 16 + MAX_SUSPECTED)
    )
    large = msgspec.structs.replace(
        RECORD, system_identifier="9" * 20, segment_size=1 << 30, timeline=0xFFFFFFFF, lsn="FFFFFFFF/FFFFFFFC", owner="n" * 40,
        session="s" * 32, gaps=ranges, gaps_total=1000, suspected=ranges, trouble="t" * 200, updated_at="2026-11-28T05:02:41Z",
        moved_at="2026-11-28T05:02:41Z", wal_at="2026-11-28T05:02:41Z", below_sha256="a" * 64, history_sha256="b" * 64,
        life="c" * 16, start="FFFFFFFFFFFFFFFF00000003", durability="store", waits_for="far", closed_by="n" * 40,
    )  # fmt: skip
    assert len(large.encode()) <= SMALL
    kept = decode_record(large.encode())
    assert 0 < len(kept.suspected) < MAX_SUSPECTED
    assert kept.suspected[0] == ranges[0]


@pytest.mark.parametrize(("suspected", "gaps"), [(6, 0), (3, 3), (1, 5)])
def test_p4_members_are_told_of_what_is_lost_rather_than_of_the_trouble_in_all_its_words(
    suspected: int, gaps: int
) -> None:
    """They copy aside what the record names."""
    ranges = tuple(Gap(3, f"1C/{n:X}000000", f"1C/{n + 2:X}000000") for n in range(0x30, 0x90, 4))
    trouble = (
        f"WAL {ranges[0].start} to {ranges[0].end} of timeline 3 and {suspected - 1} more ranges: neither this server nor the "
        "store has it; waiting for pg-node-2, pg-node-3 until 2026-11-28T06:02:41Z"
    )
    large = msgspec.structs.replace(
        RECORD, system_identifier="7" * 19, segment_size=16 * MIB, timeline=3, lsn=ranges[0].start, owner="pg-node-1",
        session="s" * 32, gaps=ranges[-gaps or len(ranges) :], gaps_total=gaps, suspected=ranges[:suspected], trouble=trouble,
        updated_at="2026-11-28T05:02:41Z", moved_at="2026-11-28T05:02:41Z", wal_at="2026-11-28T05:02:41Z",
        below_sha256="a" * 64, history_sha256="b" * 64, life="c" * 16, start="000000010000000000000003", durability="store",
    )  # fmt: skip
    assert len(msgspec.json.encode(large)) > SMALL
    assert len(large.encode()) <= SMALL
    kept = decode_record(large.encode())
    assert (kept.suspected, kept.gaps) == (large.suspected, large.gaps)
    assert kept.trouble.startswith(f"WAL {ranges[0].start} to {ranges[0].end}")


def test_a_record_of_an_older_walkeeper_states_no_sums() -> None:
    document = {
        key: value for key, value in msgspec.json.decode(RECORD.encode()).items() if not key.endswith("_sha256")
    }
    found = decode_record(msgspec.json.encode(document))
    assert (found.below_sha256, found.history_sha256) == ("", "")


@given(st.binary(max_size=300))
def test_a_record_is_read_or_refused(document: bytes) -> None:
    try:
        decode_record(document)
    except BadRecord as problem:
        assert problem.hint


@pytest.mark.parametrize(
    "change",
    [
        {"lsn": "0/4000001"}, {"lsn": "-1/0"}, {"lsn": 5}, {"timeline": 0}, {"timeline": -1}, {"timeline": "1"}, {"schema": 2},
        {"schema": 0}, {"segment_size": 5}, {"system_identifier": "x"}, {"system_identifier": 7}, {"start": "x"}, {"owner": None},
        {"gaps": [{"timeline": 1}]}, {"gaps": [{"timeline": 1, "start": "0/5; id", "end": "0/6"}]},
        {"suspected": [{"timeline": 1, "start": "0/5", "end": ""}]}, {"below_sha256": "x"}, {"history_sha256": "A" * 64},
    ],
)  # fmt: skip
def test_a_record_with_a_value_that_cannot_be_is_refused(change: dict[str, object]) -> None:
    document = {**msgspec.json.decode(RECORD.encode()), **change}
    with pytest.raises(BadRecord):
        decode_record(msgspec.json.encode(document))


def test_a_record_that_is_huge_or_not_json_is_refused() -> None:
    for document in (b"", b"null", b"[]", b'"x"', b"NaN", b"\xff", b" " * (MAX_RECORD_BYTES + 1), b'{"lsn": NaN}'):
        with pytest.raises(BadRecord):
            decode_record(document)


def test_a_record_with_more_fields_than_we_know_is_read() -> None:
    document = {**msgspec.json.decode(RECORD.encode()), "tail": {"x": 1}}
    assert decode_record(msgspec.json.encode(document)) == RECORD


UP = ServerView(in_recovery=False, timeline=1)
STANDBY = ServerView(in_recovery=True, timeline=1)


@pytest.mark.parametrize(
    ("server", "leads", "archiving", "fenced", "standby_cluster", "expected"),
    [
        (UP, True, None, False, False, Desired.TAKE_OVER),
        (UP, False, None, False, False, Desired.WATCH),       # a stale primary
        (UP, None, None, False, False, Desired.WATCH),        # the DCS does not answer
        (STANDBY, True, None, False, False, Desired.WATCH),   # the promotion has not ended
        (STANDBY, True, None, False, True, Desired.TAKE_OVER),  # a standby leader
        (None, True, None, False, False, Desired.WATCH),
        (UP, True, 1, False, False, Desired.GO_ON),
        (UP, None, 1, False, False, Desired.GO_ON),           # DCS outage
        (UP, False, 1, False, False, Desired.GO_ON),          # not fenced yet: the record decides, not the leader key
        (None, None, 1, False, False, Desired.GO_ON),         # the spool still has WAL
        (None, None, 1, True, False, Desired.STOP),
        (UP, True, 1, True, False, Desired.STOP),
        (STANDBY, False, 1, False, False, Desired.STOP),
        (ServerView(in_recovery=False, timeline=2), True, 1, False, False, Desired.STOP),
        (STANDBY, True, 1, False, True, Desired.GO_ON),
    ],
)  # fmt: skip
def test_the_desired_state_follows_from_what_is_seen(
    server: ServerView | None,
    leads: bool | None,
    archiving: int | None,
    fenced: bool,
    standby_cluster: bool,
    expected: Desired,
) -> None:
    assert desired(View(server, leads, standby_cluster, archiving, fenced)) is expected


def slot(
    restart_lsn: str | None = "0/4000028", *, physical: bool = True, pid: int | None = None, **given_up: bool
) -> SlotState:
    return SlotState(
        physical, None if restart_lsn is None else Lsn.parse(restart_lsn), pid, **{"lost": False, **given_up}
    )


@pytest.mark.parametrize(
    ("frontier", "target"),
    [("0/4000000", "0/3000000"), ("0/4FFFFF8", "0/3000000"), ("0/1000000", "0/0"), ("0/0", "0/0")],
)
def test_the_hold_slot_keeps_one_whole_segment_below_the_frontier(frontier: str, target: str) -> None:
    assert slot_target(Lsn.parse(frontier), SIZE) == Lsn.parse(target)
    assert why_not_gap_safe(slot(target), Lsn.parse(frontier), SIZE) == ""


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (slot(), ""), (slot("0/3000000"), ""), (slot("0/4FFFFFF"), ""), (slot("0/5000000"), "begins at"), (None, "no hold slot"),
        (slot(None), "reserves no WAL"), (slot(physical=False), "logical"), (slot(pid=17), "process 17"), (slot(lost=True), "invalidated"),
        (slot(unreserved=True), "about to invalidate"),
    ],
)  # fmt: skip
def test_a_node_is_gap_safe_when_its_slot_keeps_all_that_is_not_archived(state: SlotState | None, why: str) -> None:
    answer = why_not_gap_safe(state, Lsn.parse("0/4000000"), SIZE)
    assert (answer == "") == (why == "")
    assert why in answer
