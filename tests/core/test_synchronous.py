"""What may be acknowledged: only what is stored in one unbroken run, and only while the record is ours."""

from __future__ import annotations

import ast
import random
from pathlib import Path

import pytest

import walkeeper
from walkeeper.core.frontier import Frontier
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt, TailReceipt
from walkeeper.core.synchronous import (
    LEASE,
    LEASE_OVER,
    NOTHING,
    RELEASE,
    Promise,
    StoredRun,
    always_asks,
    standby_name,
)
from walkeeper.core.tail import Piece

SIZE = SegmentSize(MIB)


def receipt(begin: int, end: int, number: int = 3) -> TailReceipt:
    return TailReceipt(Segment(1, number, SIZE), Piece(begin, end, "me"), 0, "")


def test_receipts_count_in_the_order_of_the_wal_whatever_the_order_of_the_answers() -> None:
    parts = [receipt(at, at + 100) for at in range(0, 1000, 100)] + [receipt(0, 7, 4)]
    for seed in range(20):
        run, said = StoredRun(Lsn(3 * MIB)), []
        order = list(enumerate(parts))
        random.Random(seed).shuffle(order)
        stored: set[int] = set()
        for serial, part in order:
            said += run.add(serial, part)
            stored.add(serial)
            first_missing = next(n for n in range(len(parts) + 1) if n not in stored)
            assert run.end == (parts[first_missing - 1].end if first_missing else 3 * MIB)
        assert said == parts
        assert run.end == 4 * MIB + 7


def test_what_is_given_is_stored_and_nothing_is_given_without_the_lease() -> None:
    promise = Promise(None)
    promise.begin(0.0)
    assert promise.give(0.1, Lsn(0), Lsn(50), leased=True) == NOTHING
    assert promise.give(0.2, Lsn(40), Lsn(50), leased=False) == NOTHING
    assert promise.give(0.3, Lsn(40), Lsn(50), leased=True).lsn == 40
    assert promise.give(0.4, Lsn(60), Lsn(60), leased=False).lsn == 40  # what was said once stays true
    assert promise.give(0.5, Lsn(60), Lsn(60), leased=True).lsn == 60


def test_without_movement_the_server_is_released_and_movement_is_told_again() -> None:
    promise = Promise(None)
    promise.begin(0.0)
    assert promise.give(0.1, Lsn(40), Lsn(40), leased=True).lsn == 40
    assert promise.give(5.0, Lsn(40), Lsn(40), leased=True).lsn == 40  # nothing waits
    assert promise.give(5.1, Lsn(40), Lsn(50), leased=True).lsn == 40
    assert promise.give(5.1 + RELEASE, Lsn(40), Lsn(50), leased=True) == NOTHING
    assert promise.waited(5.1 + RELEASE) == pytest.approx(RELEASE)
    assert promise.give(7.0, Lsn(50), Lsn(50), leased=True).lsn == 50
    assert promise.waited(7.0) == 0.0


@pytest.mark.parametrize("after", [None, 10.0])
def test_only_who_says_so_goes_on_without_the_store_and_only_with_the_lease(after: float | None) -> None:
    promise = Promise(after)
    promise.begin(0.0)
    promise.give(0.0, Lsn(40), Lsn(40), leased=True)
    promise.give(1.0, Lsn(40), Lsn(50), leased=True)
    assert promise.give(10.9, Lsn(40), Lsn(60), leased=True) == NOTHING
    assert not promise.degraded
    promise.give(11.1, Lsn(40), Lsn(60), leased=False)
    assert not promise.degraded
    given = promise.give(11.2, Lsn(40), Lsn(60), leased=True)
    assert promise.degraded is (after is not None)
    assert given.lsn == (60 if after else 0)
    if after:
        assert promise.give(11.3, Lsn(40), Lsn(70), leased=True).lsn == 70
        assert promise.give(11.4, Lsn(40), Lsn(80), leased=False).lsn == 70
        assert promise.give(11.4 + 2 * RELEASE, Lsn(40), Lsn(80), leased=False) == NOTHING  # it may shut down
        promise.begin(20.0)
        assert (
            promise.give(20.0, Lsn(0), Lsn(80), leased=True).lsn == 80
        )  # another stream does not make them wait again
        promise.give(21.0, Lsn(80), Lsn(80), leased=True)
        assert not promise.degraded


def test_who_is_degraded_has_not_caught_up_before_all_is_stored_that_was_acknowledged() -> None:
    promise = Promise(10.0)
    promise.begin(0.0)
    promise.give(0.0, Lsn(40), Lsn(50), leased=True)
    assert promise.give(11.0, Lsn(40), Lsn(80), leased=True).lsn == 80
    promise.begin(20.0)  # from the beginning of a segment
    promise.give(20.0, Lsn(30), Lsn(30), leased=True)
    assert promise.degraded
    promise.give(21.0, Lsn(70), Lsn(70), leased=True)
    assert promise.degraded
    promise.give(22.0, Lsn(80), Lsn(80), leased=True)
    assert not promise.degraded


def test_a_load_that_never_ends_is_no_wait() -> None:
    promise = Promise(10.0)
    promise.begin(0.0)
    for tick in range(1, 1000):
        given = promise.give(tick / 10, Lsn((tick - 5) * 100 if tick > 5 else 0), Lsn(tick * 100), leased=True)
        assert given.lsn == max(0, tick - 5) * 100
        assert promise.waited(tick / 10) < 1.0


def test_who_ended_a_session_waits_longer_than_it_may_acknowledge() -> None:
    assert LEASE_OVER > LEASE


def test_each_cluster_has_a_name_of_its_own() -> None:
    assert standby_name(7390123456789012345) != standby_name(7390123456789012346)
    assert standby_name(1) == "walkeeper_00000001"
    assert len(standby_name((1 << 64) - 1)) == len(standby_name(0))


@pytest.mark.parametrize(
    ("setting", "asked"),
    [
        ("walkeeper_00000001", True),
        ("Walkeeper_00000001", True),  # PostgreSQL compares without regard to case
        ('FIRST 1 ("walkeeper_00000001", node2)', True),
        ("FIRST 2 (node2, walkeeper_00000001)", True),
        ("ANY 2 (node2, walkeeper_00000001)", True),
        ("FIRST 1 (node2, walkeeper_00000001)", False),
        ("ANY 1 (node2, walkeeper_00000001)", False),
        ("node2, walkeeper_00000001", False),
        ("", False),
        ("*", False),
        ("walkeeper_000000011", False),
        ("walkeeper", False),
    ],
)
def test_a_commit_waits_for_the_store_only_where_the_setting_never_does_without_it(setting: str, asked: bool) -> None:
    assert always_asks(setting, "walkeeper_00000001") is asked


def test_only_the_promise_makes_acknowledgements() -> None:
    """So that none exists without a receipt: PUT, then acknowledgement."""
    for path in Path(walkeeper.__file__).parent.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        makers = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Acknowledgement"]
        assert not makers or (path.name == "synchronous.py" and path.parent.name == "core"), path


def whole(number: int, timeline: int = 2) -> Receipt:
    return Receipt(Segment(timeline, number, SIZE), f"{number:064x}", 1, was_present=False)


def test_a_suspicion_below_the_fork_does_not_hold_acknowledgements_and_one_above_it_does() -> None:
    history = History(2, (Switch(1, Lsn(5 * MIB + 100)),))
    frontier = Frontier(history, Lsn(2 * MIB), SIZE)
    frontier.suspect(2, 4)
    assert frontier.unbroken() == 4 * MIB  # segment 4 is lacking, and nobody suspects that it is lost
    frontier.add(whole(4, 1))
    frontier.add(whole(5))
    assert (frontier.lsn, frontier.unbroken()) == (2 * MIB, 6 * MIB)
    frontier.add(whole(7))
    assert frontier.unbroken() == 6 * MIB
    frontier.suspect(6, 7)
    assert frontier.unbroken() == 2 * MIB
    frontier = Frontier(history, Lsn(5 * MIB), SIZE)
    frontier.suspect(5, 6)  # the segment of the fork has WAL of this timeline
    assert frontier.unbroken() == 5 * MIB
