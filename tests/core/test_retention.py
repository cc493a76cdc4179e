"""What may be given up, and what never (P15)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest

from tests.core.test_floor import a_pin
from tests.core.test_windows import AT, ONE, QUARTER, SIZE, archived, backup, numbers
from walkeeper.core.backup import Backup, BackupId, Place, WalRange
from walkeeper.core.elapsed import Elapsed
from walkeeper.core.floor import EVERYTHING, Below, Retained
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import Lsn
from walkeeper.core.retention import Needs, Plan, Policy, not_needed_for, plan
from walkeeper.core.windows import Holdings, all_histories, look
from walkeeper.errors import Unsafe

DAY = timedelta(days=1)
NOW = AT + 20 * DAY


def taken(number: int, start: int, *, days_ago: float, history: History = ONE, **changed: Any) -> Backup:
    """From quarter ``start`` on, two quarters long."""
    at = (NOW - timedelta(days=days_ago)).isoformat()
    made = backup(number, history, start, start + 2, **changed)
    return msgspec.structs.replace(made, stop=Place(made.stop.timeline, made.stop.lsn, at))


def planned(
    backups: list[Backup],
    stored: set[tuple[int, int]] | None = None,
    policy: Policy | None = None,
    *,
    kept: History = ONE,
    others: dict[int, History] | None = None,
    **needs: Any,
) -> Plan:
    histories = {**({kept.timeline: kept} if kept != ONE else {}), **(others or {})}
    holdings = Holdings(
        archived=archived(numbers(1, 2, 20) if stored is None else stored),
        size=SIZE,
        system_identifier=7,
        kept=kept,
        histories=all_histories(histories, 1),
    )
    return plan(
        look(backups, holdings), holdings, policy or Policy(keep=14 * DAY), Needs(**{"elapsed": Elapsed(NOW), **needs})
    )


OLD, OLDER, FIRST = (
    taken(3, 41, days_ago=15),
    taken(2, 25, days_ago=16),
    taken(1, 9, days_ago=17),
)
NEW, NEWER = taken(4, 57, days_ago=8), taken(5, 73, days_ago=1)
ALL = [FIRST, OLDER, OLD, NEW, NEWER]


def test_p15_the_newest_backup_that_is_old_enough_stays_with_all_that_follows_it() -> None:
    found = planned(ALL)
    assert found.oldest == OLD
    assert found.first.number == 10
    assert found.below == (Below(1, "0/A00000"),)
    assert found.backups == (FIRST.id, OLDER.id)
    assert [(str(each.start), str(each.end)) for each in found.remains.shown] == [("0/AC0000", "0/1400000")]


def test_p15_a_number_keeps_as_many_fulls_whatever_their_age() -> None:
    assert planned(ALL, policy=Policy(keep=DAY, number=4)).oldest == OLDER
    assert planned(ALL, policy=Policy(number=1)).oldest == NEW  # two always stay
    assert planned(ALL, policy=Policy(number=99)).backups == ()


def test_p15_two_complete_fulls_on_the_chain_always_stay_and_fewer_are_no_reason_to_delete() -> None:
    assert planned(ALL[:2]).oldest == FIRST
    for few in ([], [NEW], [NEW, taken(6, 60, days_ago=2, damage=("base/5/1: a page",))]):
        with pytest.raises(Unsafe, match="2 always stay"):
            planned(few)
    with pytest.raises(Unsafe, match="nothing says what is to be kept"):
        planned(ALL, policy=Policy())


def test_for_how_long_a_backup_has_not_been_needed() -> None:
    """The next full one must be old enough, and two must be left."""
    keep = 14 * 86400.0

    def days(*ages: float) -> float:
        return not_needed_for([age * 86400 for age in ages], keep) / 86400

    assert days() == days(400) == days(400, 300) == 0
    assert days(20, 13, 6) == days(15, 14, 7) == 0
    assert days(40, 20, 10) == 6
    assert days(400, 300, 10) == 10  # only since there are two others


def test_p15_a_clock_that_is_behind_makes_no_backup_old() -> None:
    wrong = [taken(number, 9 + 16 * number, days_ago=400) for number in range(4)]
    stored = {each.id: NOW - DAY for each in wrong}
    assert planned(wrong, stored_at=stored).oldest == wrong[0]
    nobody_knows = [msgspec.structs.replace(each, stop=Place(1, each.stop.lsn, "")) for each in wrong]
    assert planned(nobody_knows).oldest == nobody_knows[0]


def test_p15_what_is_pinned_and_all_that_follows_it_stays() -> None:
    pin = a_pin(
        backup=OLDER.id, timeline=1, lsn=OLDER.wal[0].start, at="2026-12-17T02:00:00Z", until="2026-12-19T02:00:00Z"
    )
    found = planned(ALL, pins=[pin])
    assert (found.first.number, found.backups, found.pinned) == (6, (FIRST.id,), (pin.id,))
    over = a_pin(backup=OLDER.id, timeline=1, at="2026-12-16T02:00:00Z", until="2026-12-18T01:59:59Z")
    assert planned(ALL, pins=[over]).backups == (FIRST.id, OLDER.id)
    running = a_pin(kind="backup", timeline=1, lsn="0/300000", at="2026-12-17T02:00:00Z", until="2026-12-19T02:00:00Z")
    assert planned(ALL, pins=[running]).first.number == 3


def test_p15_of_a_pin_on_a_timeline_without_a_history_all_stays_that_it_may_come_from() -> None:
    """Another store has the history: a restore reads the WAL of all. Once the whole run was refused for it."""
    known = {2: History(2, (Switch(1, Lsn(0x700000)),)), 3: History(3, (Switch(1, Lsn(0x800000)),))}
    pin = a_pin(backup="", timeline=9, lsn=OLDER.wal[0].start, at="2026-12-17T02:00:00Z", until="2026-12-19T02:00:00Z")
    low = str(Lsn.parse(OLDER.wal[0].start).floor(SIZE))
    assert planned(ALL, others=known, pins=[pin]).below == tuple(Below(each, low) for each in (1, 2, 3))
    assert Below(2, EVERYTHING) in planned(ALL, others=known).below, "else nobody needs it"


def word(each: Backup, until: datetime) -> Retained:
    return Retained(number=1, backup=each.id, at="2026-11-28T02:00:00Z", until=until.strftime("%Y-%m-%dT%H:%M:%SZ"))


def test_p15_a_retained_backup_stays_with_its_own_wal_only() -> None:
    found = planned(ALL, retained=[word(FIRST, NOW + DAY), word(OLDER, NOW)])
    assert found.backups == (OLDER.id,)
    assert found.retained == (FIRST.id,)
    assert found.kept == (WalRange(1, "0/200000", "0/300000"),)
    assert [(str(each.start), str(each.end)) for each in found.remains.shown] == [
        ("0/2C0000", "0/300000"),
        ("0/AC0000", "0/1400000"),
    ]


def test_p15_an_incremental_keeps_its_parent_and_goes_with_it() -> None:
    child = taken(3, 41, days_ago=15, parent=OLDER)
    assert planned([FIRST, OLDER, child, NEW, NEWER]).oldest == child
    assert planned([FIRST, OLDER, child, NEW, NEWER]).backups == (FIRST.id,)
    late = taken(6, 60, days_ago=14.5, parent=FIRST)
    found = planned([FIRST, OLDER, late, NEW, NEWER], policy=Policy(number=2))
    assert (found.backups, found.oldest) == ((), NEW)  # it follows what is kept, and so its parent is


def test_p15_dead_branches_go_with_the_point_where_they_were_left() -> None:
    two = History(2, (Switch(1, Lsn(8 * 4 * QUARTER + QUARTER)),))
    dead_early = History(3, (Switch(1, Lsn(4 * 4 * QUARTER)),))
    dead_late = History(4, (*two.switches, Switch(2, Lsn(15 * 4 * QUARTER))))
    backups = [
        FIRST,
        *(
            taken(number, start, days_ago=days, history=two)
            for number, start, days in ((3, 41, 15), (4, 57, 8), (5, 73, 1))
        ),
    ]
    stored = numbers(1, 2, 12) | numbers(2, 8, 20) | numbers(3, 4, 7) | numbers(4, 15, 18) | numbers(9, 1, 5)
    found = planned(backups, stored, kept=two, others={3: dead_early, 4: dead_late})
    assert found.below == (
        Below(1, EVERYTHING),
        Below(2, "0/A00000"),
        Below(3, EVERYTHING),
        Below(4, "0/A00000"),
    )  # and nothing of 9, of which nobody knows where it comes from
    assert found.first.name == "00000002000000000000000A"
    pin = a_pin(backup=FIRST.id, timeline=3, lsn="0/240000", at="2026-12-17T02:00:00Z", until="2026-12-19T02:00:00Z")
    pinned = planned(backups, stored, kept=two, others={3: dead_early, 4: dead_late}, pins=[pin])
    assert {each.lsn for each in pinned.below} == {"0/200000"}


def test_attempts_go_when_they_are_old_and_nobody_pins_them() -> None:
    old, young = BackupId("20261201T020000Z", 1, "00000000"), BackupId("20261217T020000Z", 1, "00000000")
    assert planned(ALL[-2:], attempts=[old, young]).backups == (str(old),)
    pin = a_pin(
        kind="backup",
        backup=str(old),
        timeline=1,
        lsn="0/F00000",
        at="2026-12-17T02:00:00Z",
        until="2026-12-19T02:00:00Z",
    )
    assert planned(ALL[-2:], attempts=[old], pins=[pin]).backups == ()


def test_p15_a_plan_that_would_lose_something_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("walkeeper.core.retention._below", lambda *_: [Below(1, "0/F00000")])
    with pytest.raises(Unsafe, match="could not be restored any longer"):
        planned(ALL)
