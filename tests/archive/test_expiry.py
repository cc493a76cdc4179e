"""Floors, retained backups and pins in a store in memory."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from tests.core.test_floor import ID, RETAINED, a_floor, a_pin
from tests.core.values import a_backup
from tests.twins.memory_store import MemoryStore
from walkeeper.archive import expiry
from walkeeper.archive.expiry import (
    Expiry,
    Lasting,
    begins_since,
    below_floors,
    let_go,
    new_pin,
    note_floor,
    pin_for_backup,
    pinned,
    read_expiry,
    read_pins,
    renewed,
    write_floor,
    write_pin,
    write_retained,
)
from walkeeper.archive.layout import Layout
from walkeeper.core.backup import BackupId
from walkeeper.core.floor import LONGEST_PIN, Retained, encode, moment
from walkeeper.core.lsn import Lsn
from walkeeper.errors import BadFloor, StoreError, StoreUnavailable
from walkeeper.lib import events, retry

LAYOUT = Layout("demo", None, 7)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def test_the_newest_floor_that_was_not_revoked_counts_and_those_that_are_not_done(store: MemoryStore) -> None:
    for number in range(1, 6):
        assert write_floor(store, LAYOUT, a_floor(number=number))
    note_floor(store, LAYOUT, 5, "revoked", "2026-11-28T02:10:00Z")
    note_floor(store, LAYOUT, 1, "done", "2026-11-28T04:10:00Z")
    note_floor(store, LAYOUT, 4, "done", "2026-11-28T05:10:00Z")
    found = read_expiry(store, LAYOUT)
    assert [floor.number for floor in found.floors] == [2, 3, 4]
    assert found.newest == a_floor(number=4)
    assert (sorted(found.done), sorted(found.numbers)) == ([1, 4], [1, 2, 3, 4, 5])


def test_the_archive_begins_with_a_floor_once_all_below_it_is_deleted(store: MemoryStore) -> None:
    assert begins_since(store, LAYOUT) is None
    write_floor(store, LAYOUT, a_floor())
    assert begins_since(store, LAYOUT) is None
    note_floor(store, LAYOUT, 1, "done", "2026-11-28T04:10:00Z")
    assert begins_since(store, LAYOUT) == a_floor().first
    write_floor(store, LAYOUT, a_floor(number=2, start="000000030000000000000007"))
    assert begins_since(store, LAYOUT) == a_floor().first  # the next one, in its grace
    note_floor(store, LAYOUT, 2, "revoked", "2026-11-28T04:20:00Z")
    note_floor(store, LAYOUT, 2, "done", "2026-11-28T04:30:00Z")
    assert begins_since(store, LAYOUT) == a_floor().first
    note_floor(store, LAYOUT, 4, "done", "2026-11-28T04:40:00Z")  # of which there is no floor
    assert begins_since(store, LAYOUT) == a_floor().first
    store.create("demo/7/expire/00000003.json", b"{}", {})
    assert begins_since(store, LAYOUT) is None
    assert below_floors(store, LAYOUT) == {}


def test_a_floors_number_is_taken_once(store: MemoryStore) -> None:
    assert write_floor(store, LAYOUT, a_floor())
    assert write_floor(store, LAYOUT, a_floor())  # the same again: an answer that was lost
    assert not write_floor(store, LAYOUT, a_floor(member="node2"))
    assert read_expiry(store, LAYOUT).floors == (a_floor(),)


def test_the_newest_word_about_a_backup_counts(store: MemoryStore) -> None:
    later = Retained(number=2, backup=ID, at="2026-12-01T02:00:00Z", until="2026-12-01T02:00:00Z")
    assert write_retained(store, LAYOUT, RETAINED)
    assert write_retained(store, LAYOUT, later)
    assert read_expiry(store, LAYOUT).retained == (later,)


def test_nothing_is_read_into_what_lies_there(store: MemoryStore) -> None:
    store.create("demo/7/expire/notes.txt", b"x", {})
    store.create("demo/7/expire/00000001.later.json", b"x", {})
    store.create("demo/7/expire/retain-20261128T020000Z-00000001.json", b"x", {})
    store.create("demo/7/expire/retain-20261128T020000Z-00000000-1a2b3c4d-00000001.json", b"x", {})
    assert read_expiry(store, LAYOUT) == Expiry()
    store.create("demo/7/expire/00000002.json", encode(a_floor(number=1)), {})
    with pytest.raises(BadFloor, match=r"expire/00000002\.json: it says that it is floor 1"):
        read_expiry(store, LAYOUT)
    del store.objects["demo/7/expire/00000002.json"]
    store.create("demo/7/expire/00000002.json", encode(a_floor(number=2, system_identifier="8")), {})
    with pytest.raises(BadFloor, match="system identifier 8"):
        read_expiry(store, LAYOUT)
    store.create("demo/7/pin/0123456789abcdef-0002.json", encode(a_pin()), {})
    with pytest.raises(BadFloor, match=r"pin/0123456789abcdef-0002\.json"):
        read_pins(store, LAYOUT)


def test_a_pin_states_its_end_by_the_stores_clock_is_renewed_and_let_go(store: MemoryStore) -> None:
    backup = a_backup(BackupId.parse(ID))
    pin, ahead = new_pin(backup, 3, "host1", 0.0), new_pin(backup, 3, "host1", 7200.0)
    assert (moment(pin.until) - moment(pin.at)).total_seconds() == LONGEST_PIN
    assert (moment(ahead.at) - moment(pin.at)).total_seconds() >= 7199
    assert (pin.backup, pin.lsn, pin.timeline) == (ID, backup.wal[0].start, 3)
    write_pin(store, LAYOUT, pin)
    after = renewed(pin, 60.0)
    write_pin(store, LAYOUT, after)
    let_go(store, LAYOUT, pin.id)
    assert read_pins(store, LAYOUT) == [after]
    assert after.id.endswith("-0002")
    assert moment(after.until) > moment(pin.until)


@pytest.mark.parametrize("at", ["get", "list"])
def test_p15_a_pin_that_is_renewed_while_pins_are_read_is_seen(store: MemoryStore, at: str) -> None:
    pin = new_pin(a_backup(BackupId.parse(ID)), 3, "host1", 0.0)
    write_pin(store, LAYOUT, pin)
    after = renewed(pin, 60.0)

    def renew(what: str, _: str) -> None:
        if what == at:
            store.before = store.after = None
            write_pin(store, LAYOUT, after)
            let_go(store, LAYOUT, pin.id)

    store.before, store.after = (renew, None) if at == "get" else (None, renew)
    assert read_pins(store, LAYOUT) == [after]


def test_pins_that_never_stand_still_are_not_taken_for_what_is_there(store: MemoryStore) -> None:
    pins = [new_pin(a_backup(BackupId.parse(ID)), 3, "host1", 0.0) for _ in range(99)]

    def another(what: str, key: str) -> None:
        if what == "list":
            write_pin(store, LAYOUT, pins.pop())

    store.after = another
    with pytest.raises(StoreUnavailable, match="no two listings are the same"):
        read_pins(store, LAYOUT)


def test_a_backup_is_pinned_while_it_runs_whatever_becomes_of_it(store: MemoryStore) -> None:
    pin = pin_for_backup(BackupId.parse(ID), 3, Lsn(0x200028), "node1", 0.0)

    def take() -> None:
        with pinned(store, LAYOUT, pin):
            assert read_pins(store, LAYOUT) == [pin]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take()
    assert read_pins(store, LAYOUT) == []


def test_without_a_right_to_pin_it_is_done_all_the_same(
    store: MemoryStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    events.to_stderr()
    monkeypatch.setattr(retry, "_WAIT", 0.0)
    pin, done = pin_for_backup(BackupId.parse(ID), 3, Lsn(0x200028), "node1", 0.0), []
    store.down = True
    with pinned(store, LAYOUT, pin):
        done.append(True)
    assert done
    assert "not_pinned" in capsys.readouterr().err
    store.down = False
    with pinned(store, LAYOUT, pin):
        store.down = True
    assert "pin_left" in capsys.readouterr().err


def test_what_must_be_pinned_is_not_done_without_and_a_failure_that_passes_is_none(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "_WAIT", 0.0)
    pin = pin_for_backup(BackupId.parse(ID), 3, Lsn(0x200028), "node1", 0.0)
    store.down = True
    with pytest.raises(StoreError), pinned(store, LAYOUT, pin, must=True):
        pytest.fail("done without a pin")

    def lost(what: str, asked: str) -> None:
        store.after = None
        raise StoreUnavailable("the answer was lost")

    store.down, store.after = False, lost
    with pinned(store, LAYOUT, pin, must=True):
        assert read_pins(store, LAYOUT) == [pin]


def test_p15_whoever_works_for_longer_than_a_pin_lasts_renews_it_each_day(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    events.to_stderr()
    boot = [1000.0]
    monkeypatch.setattr(expiry, "since_boot", lambda: boot[0])
    pin = pin_for_backup(BackupId.parse(ID), 3, Lsn(0x200028), "node1", 0.0)
    write_pin(store, LAYOUT, pin)
    held = Lasting(store, LAYOUT, pin)
    noted: list[str] = []
    boot[0] += 86399
    held.tend(noted.append)
    assert (read_pins(store, LAYOUT), noted) == ([pin], [])
    store.down = True
    boot[0] += 1
    held.tend(noted.append)
    store.down = False
    boot[0] += 3599
    held.tend(noted.append)  # what the store refused is tried again in an hour
    assert (read_pins(store, LAYOUT), noted) == ([pin], [])
    assert "pin_not_renewed" in capsys.readouterr().err
    boot[0] += 1
    held.tend(noted.append)
    (after,) = read_pins(store, LAYOUT)
    assert (noted, after.id) == ([after.id], f"{pin.id[:-4]}0002")
    assert moment(after.until) - moment(pin.until) == timedelta(seconds=86400 + 3600)
    for _ in range(10):
        boot[0] += 86400
        held.tend()
    (last,) = read_pins(store, LAYOUT)
    assert moment(last.at) - moment(after.at) == timedelta(days=10)


def test_p15_a_pin_is_renewed_beside_what_it_is_for(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    boot = [1000.0]
    monkeypatch.setattr(expiry, "since_boot", lambda: boot[0])
    monkeypatch.setattr(expiry, "_LOOKS", 0.001)
    pin = pin_for_backup(BackupId.parse(ID), 3, Lsn(0x200028), "node1", 0.0)
    gone = threading.Event()

    def after(what: str, key: str) -> None:
        if (what, key) == ("delete", LAYOUT.pin(pin.id)):
            gone.set()

    store.after = after
    with pinned(store, LAYOUT, pin):
        boot[0] += 86401
        assert gone.wait(60)
        assert [each.id for each in read_pins(store, LAYOUT)] == [f"{pin.id[:-4]}0002"]
    assert read_pins(store, LAYOUT) == []
