"""What status sends a person to look at, and what it says to do about it."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.status.test_status import PROBLEM, REPLICA, REPORT, ROW, WHOLE
from walkeeper.core.lsn import MIB
from walkeeper.core.record import Record
from walkeeper.core.room import Disk
from walkeeper.lib.clock import timestamp
from walkeeper.status import rows
from walkeeper.status.ages import ahead_of, described
from walkeeper.status.attention import attention
from walkeeper.status.gather import with_own_disk
from walkeeper.status.text import render


def texts(**changes: Any) -> list[str]:
    return [each["text"] for each in attention({**WHOLE, **changes})]


def hints(**changes: Any) -> str:
    return "\n".join(each["hint"] for each in attention({**WHOLE, **changes}))


def record(**changes: Any) -> dict[str, Any]:
    return {**WHOLE["record"], **changes}


def test_a_cluster_that_is_well_has_nothing_to_look_at() -> None:
    assert texts() == []


def test_how_long_the_frontier_has_stood_is_not_how_old_the_record_is() -> None:
    """The record is written whenever the text of a problem changes, and each 30 s by an idle owner."""
    stood = record(moved_seconds_ago=138.0, age_seconds=19.0)
    assert texts(record=stood) == ["the frontier has stood for 2 min 18 s, and 3 MiB wait for it"]
    assert "moved by node1 2 min 18 s ago" in render({**WHOLE, "record": stood})
    assert "Look at the agent on node1" in hints(record=stood)


@pytest.mark.parametrize(
    ("moved", "row"),
    [
        (20.0, ROW),
        (138.0, {**ROW, "lag_bytes": 1000}),
        (7200.0, {**ROW, "lag_seconds_at_most": 2.0}),  # an idle cluster that has just begun to write
    ],
)
def test_a_frontier_that_has_no_reason_to_move_is_not_a_standstill(moved: float, row: dict[str, Any]) -> None:
    assert texts(record=record(moved_seconds_ago=moved), members=[row]) == []


def test_a_record_of_an_older_version_says_when_it_was_written_and_no_more() -> None:
    old = record(moved_seconds_ago=None, age_seconds=95.0)
    late = {**ROW, "lag_seconds_at_most": None}
    assert texts(record=old, members=[late]) == ["the frontier has stood for 95 s, and 3 MiB wait for it"]
    assert "Frontier  2/4A000000 on timeline 2, moved by node1\n" in render({**WHOLE, "record": old})


def test_a_session_that_was_ended_and_a_promotion_that_does_not_come_is_said() -> None:
    assert texts(record=record(closed_by=record()["owner"])) == []  # its server was shut down
    assert texts(record=record(closed_by="node2"), leader="node2") == [
        "node2 has ended the session of node1, to be promoted, and has not taken over"
    ]
    assert "Patroni's log on node2" in hints(record=record(closed_by="node2"))


ENDS = ": WAL that is suspected lost is not waited for, and one store is enough"


def disk(free: int, growth: float | None) -> dict[str, Any]:
    return {**ROW, "disk": Disk(free, 500 << 30, growth).described()}


def test_a_disk_that_is_full_within_hours_is_told_before_it_is() -> None:
    """PostgreSQL stops on a full disk, and fails over to a member whose disk is as full."""
    assert texts(members=[disk(20 << 30, 1 << 20), REPLICA]) == [
        f"the disk of pg_wal on node1 has 20 GiB free, and it is full in 5 h 41 min if this goes on{ENDS}"
    ]
    assert "Disk full" in hints(members=[disk(20 << 30, 1 << 20)])
    assert texts(members=[disk(60 << 30, 4 << 20)]) == [
        "the disk of pg_wal on node1 has 60 GiB free, and it is full in 4 h 16 min if this goes on"
    ]
    assert texts(members=[disk(60 << 30, 500_000)]) == []
    assert texts(members=[disk(60 << 30, None)]) == []
    assert texts(members=[disk(60 << 30, -1e6)]) == []
    assert texts(members=[disk(9 * MIB, None)]) == [f"the disk of pg_wal on node1 has 9 MiB free{ENDS}"]


def test_a_disk_below_the_reserve_is_told_as_doctor_does() -> None:
    """From there on gap.patience and durable_in no longer count."""
    assert texts(members=[disk(50 << 30, None)]) == []
    assert texts(members=[disk((50 << 30) - 1, None)]) == [f"the disk of pg_wal on node1 has 50 GiB free{ENDS}"]
    assert texts(record=None, members=[disk((50 << 30) - 1, None)]) == [
        f"the disk of pg_wal on node1 has 50 GiB free{ENDS}"
    ]


def test_a_server_that_a_full_disk_has_stopped_is_said_with_its_disk() -> None:
    """It answers nobody, so that its agent alone knows the disk: of other nodes nothing is known."""
    rows = [{**ROW, "state": "crashed", "disk": None}, {**REPLICA, "disk": None}]
    full = Disk(0, 500 << 30).described()
    with_own_disk(rows, "node1", {**REPORT, "disk": full})
    assert [row["disk"] for row in rows] == [full, None]
    assert texts(members=rows) == [
        "node1's PostgreSQL does not run: Patroni says crashed", f"the disk of pg_wal on node1 has 0 B free{ENDS}",
    ]  # fmt: skip
    with_own_disk(rows, "node1", None)
    assert rows[0]["disk"] == full


def test_disks_and_the_last_commit_stand_in_the_text() -> None:
    said = render({**WHOLE, "agent": REPORT, "members": [disk(20 << 30, 1 << 20), REPLICA]})
    assert "Disks     node1 20 GiB of 500 GiB free, full in 5 h 41 min\n" in said
    assert "Restore   to times before 2026-11-28 08:10:23.059674 UTC, the last commit, with a base backup\n" in said
    assert "Restore" not in render(WHOLE)
    assert "Disks" not in render(WHOLE)


@pytest.mark.parametrize(
    ("window", "gaps", "said"),
    [
        ({}, 1, "to times before 2026-11-28 08:10:23.059674 UTC, the last commit"),
        ({"to_frontier": False}, 1, "up to 2/4A000000 where a gap begins; a new base backup restores from behind it on"),
        ({"start_lsn": "2/49FFFF08"}, 0, "up to 2/4A000000 without a transaction since the base backup"),
        (None, 0, "nothing until a base backup is complete"),
        ("none", 0, "to times before 2026-11-28 08:10:23.059674 UTC, the last commit, with a base backup"),
        ("none", 1, "to times before 2026-11-28 08:10:23.059674 UTC, the last commit, with a base backup from after the last gap"),
        ("none", None, "to times before 2026-11-28 08:10:23.059674 UTC, the last commit, with a base backup from after the last gap"),
    ],
)  # fmt: skip
def test_times_can_be_restored_where_the_newest_window_has_them(window: Any, gaps: int | None, said: str) -> None:
    whole = {"start_lsn": "2/100", "end_lsn": "2/4A000000", "to_frontier": True}
    backups = None if window == "none" else {"window": None if window is None else {**whole, **window}}
    found: list[dict[str, Any]] | None = None if gaps is None else [{}] * gaps
    assert rows.commit({**WHOLE, "agent": REPORT, "backups": backups, "gaps": found}) == said


def test_one_fault_is_one_line_on_the_node_whose_agent_reports_it() -> None:
    agent = {**REPORT, "troubles": [PROBLEM]}
    (only,) = attention({**WHOLE, "record": record(trouble="PUT: 403"), "agent": agent})
    assert only == {
        "text": "agent on this node, since 2026-11-28 07:00:00 UTC: PUT: 403",
        "hint": "The credentials need s3:PutObject.",
    }
    assert attention({**WHOLE, "record": record(trouble="PUT: 403"), "agent": REPORT}) == []  # over for seconds
    assert len(attention({**WHOLE, "record": record(trouble="PUT: 403"), "agent": None})) == 1
    (only,) = attention({**WHOLE, "node": "node2", "record": record(trouble="PUT: 403"), "agent": REPORT})
    assert only == {"text": "node1, which archives: PUT: 403", "hint": "walkeeper status on node1 says what to do."}


def test_a_store_that_is_away_is_said_once_whatever_it_keeps_from_its_work() -> None:
    """The record has the text of a moment ago, and uploads, signs of life and looks all fail of it."""
    away = [{**PROBLEM, "what": what, "text": f"{what}: no answer"} for what in ("archiver_store", "archiver_life")]
    stood = record(trouble="archiver_store: no answ", moved_seconds_ago=91.0, age_seconds=19.0)
    found = attention({**WHOLE, "record": stood, "agent": {**REPORT, "troubles": away}})
    assert [each["text"] for each in found] == [
        "the frontier has stood for 91 s, and 3 MiB wait for it, because of what node1 reports",
        "agent on this node, since 2026-11-28 07:00:00 UTC: archiver_store: no answer",
    ]
    assert [bool(each["hint"]) for each in found] == [False, True]


def test_a_gap_is_one_line_also_where_the_agent_reports_it() -> None:
    gap = {"timeline": 1, "start": "0/1800000", "end": "0/9000000", "accepted": False}
    lost = {**PROBLEM, "reason": "gap", "text": "gap 0/1800000 to 0/9000000 of timeline 1: this WAL is lost"}
    (only,) = attention({**WHOLE, "gaps": [gap], "agent": {**REPORT, "troubles": [lost]}})
    assert only["text"] == "gap on timeline 1: 0/1800000 to 0/9000000"
    assert only["hint"].endswith("walkeeper gap accept 0/1800000")
    assert attention({**WHOLE, "gaps": [{**gap, "accepted": True}]}) == [], "it is shown, and nothing is to be done"


def test_what_is_suspected_lost_has_a_line_of_its_own() -> None:
    """On every node: the record has it, and the owner's agent says who is waited for."""
    lost = [{"timeline": 3, "start": "0/3C000000", "end": "0/3F000000"}]
    assert "Missing   0/3C000000 to 0/3F000000 of timeline 3\n" in render({**WHOLE, "record": record(suspected=lost)})
    assert "Missing" not in render(WHOLE)


def test_a_hint_that_came_already_is_not_repeated() -> None:
    """Of three disks that are short, and of all that could not be asked of one store."""
    short = [{**disk(9 * MIB, None), "name": name} for name in ("node1", "node2")]
    unknown = [{"text": what, "hint": "Is the store up?"} for what in ("gaps", "base backups")]
    status = {**WHOLE, "members": short, "unknown": unknown}
    said = render({**status, "attention": attention(status)})
    assert said.count("HINT: Make room there") == said.count("HINT: Is the store up?") == 1


def test_what_was_not_tried_again_since_is_not_told_as_the_present() -> None:
    agent = {**REPORT, "troubles": [{**PROBLEM, "seen_seconds_ago": 50.0}]}
    assert texts(agent=agent) == ["agent on this node, since 2026-11-28 07:00:00 UTC, last met 50 s ago: PUT: 403"]


def test_an_error_that_is_over_says_since_when_and_goes_after_an_hour() -> None:
    def shown(over: float | None) -> str:
        last = {**PROBLEM, "over_seconds_ago": over}
        return render({**WHOLE, "agent": {**REPORT, "last_error": last}})

    assert "Last      error of this node's agent, over for 5 min: PUT: 403" in shown(300.0)
    assert "s3:PutObject" not in shown(300.0)  # there is nothing to be done
    assert "403" not in shown(rows.LAST_ERROR + 1)


@pytest.mark.parametrize(
    ("next_wal", "says"),
    [
        ("gap 0/3000000 to 0/7000000", "the WAL that it needs next is lost in a gap"),
        ("absent", "the WAL that it needs next is not in the archive"),
    ],
)
def test_a_member_that_can_never_come_back_is_named(next_wal: str, says: str) -> None:
    stuck = {**REPLICA, "receives": False, "state": "not streaming", "behind_bytes": 358 * MIB, "next_wal": next_wal}
    members = [ROW, stuck]
    assert texts(members=members) == [f"node2 is 358 MiB behind the leader and does not stream: {says}"]
    assert "patronictl reinit demo node2" in hints(members=members)
    assert "node2   replica  not streaming  2   2/4A1F9D88  358 MiB" in render({**WHOLE, "members": members})


@pytest.mark.parametrize("next_wal", ["archived", None])
def test_a_member_that_catches_up_is_not_an_alarm(next_wal: str | None) -> None:
    late = {**REPLICA, "receives": False, "state": "not streaming", "behind_bytes": 358 * MIB, "next_wal": next_wal}
    assert texts(members=[ROW, late]) == []


def test_a_server_that_takes_writes_beside_the_leader_is_seen_from_every_node_and_once_on_its_own() -> None:
    """Promoted by hand in a pause, for instance: its WAL is not archived, and the leader's archive is well."""
    beside = {**ROW, "name": "node2", "timeline": 3}
    told = "node2 takes writes, and node1 leads: what is written there is not archived"
    assert texts(members=[ROW, beside]) == [told]
    assert "Patroni rewinds node2" in hints(members=[ROW, beside])
    problem = {
        **PROBLEM,
        "what": "no_leadership",
        "reason": "no_leadership",
        "text": "node2: PostgreSQL accepts writes here",
    }
    for troubles, said in (([], told), ([problem], "node2: PostgreSQL accepts writes here")):
        (found,) = texts(members=[ROW, beside], node="node2", agent={**REPORT, "troubles": troubles})
        assert found.endswith(said)
    assert texts(members=[ROW, REPLICA]) == []
    assert texts(members=[{**ROW, "in_recovery": None}], leader="node2", record=record(owner="node2")) == []


@pytest.mark.parametrize(("ahead", "word"), [(18000.0, "ahead of"), (-18000.0, "behind")])
def test_a_clock_that_is_hours_off_is_said_and_makes_nothing_older_or_younger(ahead: float, word: str) -> None:
    """The record's moments are by its owner's clock."""
    assert texts(members=[{**ROW, "clock_ahead_seconds": 59.0}]) == []
    off = {**ROW, "clock_ahead_seconds": ahead}
    assert texts(members=[off]) == [f"the clock of node1 is 5 h {word} this node's"]
    moved = timestamp(ahead - 7)
    kept = Record(
        system_identifier="7", segment_size=MIB, timeline=1, lsn="0/500000", start="000000010000000000000003", owner="node1",
        session="s", updated_at=moved, moved_at=moved, wal_at=moved,
    )  # fmt: skip
    told = described(kept, ahead_of([REPLICA, off], kept))
    assert told is not None
    assert (7 <= told["moved_seconds_ago"] < 60, 7 <= told["age_seconds"] < 60) == (True, True)
    assert ahead_of([{**ROW, "clock_ahead_seconds": None}], kept) == ahead_of([], kept) == ahead_of([off], None) == 0.0


def test_a_member_that_is_never_promoted_is_not_held_to_being_gap_safe() -> None:
    tagged = {**REPLICA, "held": False, "gap_safe": None, "hold_slot": None}
    assert texts(members=[ROW, tagged]) == []
    assert "  none        -\n" in render({**WHOLE, "members": [ROW, tagged]})


COMMITS: Final[dict[str, Any]] = {
    "state": "store", "acknowledged": "2/4A1F9D88", "waited_seconds": 0.0, "waiting_commits": 3, "standby_name": "walkeeper_00000007",
    "waited_for": True,
}  # fmt: skip


def test_what_commits_wait_for_is_a_line_where_that_is_the_store() -> None:
    def shown(durability: dict[str, Any] | None, of_record: str) -> str:
        agent = {**REPORT, "durability": durability}
        return render({**WHOLE, "record": record(durability=of_record, owner="node2"), "agent": agent})

    assert "Commits" not in shown(None, "local")
    assert "Commits   return when the store has them; acknowledged up to 2/4A1F9D88; 3 wait now\n" in shown(
        COMMITS, "store"
    )
    elsewhere = {
        **COMMITS,
        "state": None,
        "acknowledged": None,
        "waited_seconds": None,
        "waiting_commits": None,
        "waited_for": None,
    }
    for durability in (elsewhere, None):
        assert "Commits   return when the store has them; walkeeper status on node2 says how they fare\n" in shown(
            durability, "store"
        )


def test_commits_that_nobody_acknowledges_are_told_on_every_node() -> None:
    """Too little WAL comes then for the frontier to stand, and the dead agent says nothing."""
    commits = {"waited_for": True, "waiting": 12, "acknowledged": False, "standby_name": "walkeeper_00000007"}
    of_store = record(durability="store", owner="node1")
    members = [{**ROW, "commits": commits}, {**REPLICA, "commits": None}]
    assert texts(members=members) == ["commits on node1 wait, and no agent streams from it to acknowledge them"]
    assert "walkeeper status on node1" in hints(members=members)
    assert "Commits   return when the store has them; 12 wait now; walkeeper status on node1" in render(
        {**WHOLE, "record": of_store, "members": members}
    )
    for fine in ({**commits, "acknowledged": True}, {**commits, "waited_for": False}):
        assert texts(members=[{**ROW, "commits": fine}]) == []


def test_commits_that_do_not_wait_although_the_configuration_says_so_are_told() -> None:
    commits = {"waited_for": False, "waiting": None, "acknowledged": True, "standby_name": "walkeeper_00000007"}
    members = [{**ROW, "commits": commits}]
    assert texts(members=members, record=record(durability="store")) == [
        "commits on node1 do not wait for the store: synchronous_standby_names does not demand walkeeper_00000007"
    ]
    assert "walkeeper doctor" in hints(members=members, record=record(durability="store"))
    assert texts(members=members, record=record(durability="local")) == []


def test_members_whose_keys_have_expired_are_missed() -> None:
    gone = [{"name": "node3", "last_seen": "2026-11-28T07:00:00Z"}]
    assert texts(gone=gone) == ["node3 was a member until 2026-11-28 07:00:00 UTC, and its key in the DCS has expired"]


def test_a_wrong_scope_is_said_and_is_not_an_empty_table() -> None:
    found = texts(members=[], record=None, leader=None)
    assert "no member of a cluster demo is in the DCS" in found
    assert not any("does not declare" in text for text in found)


def test_why_a_member_is_not_gap_safe_comes_with_what_to_do_and_once() -> None:
    unsafe = {**ROW, "gap_safe": False, "why": "it has no hold slot", "hint": "Patroni makes it."}
    agent = {**REPORT, "troubles": [{**PROBLEM, "text": "node1: it has no hold slot"}]}
    assert attention({**WHOLE, "members": [unsafe], "agent": agent}) == [
        {"text": "node1 is not gap-safe: it has no hold slot", "hint": "Patroni makes it."}
    ]
