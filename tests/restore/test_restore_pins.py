"""The pin of a restore: renewed while its server recovers, let go after it, and never in anybody's way."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.core.values import a_backup
from tests.fixtures.worlds import config_of
from tests.parts.postgres import Postgres
from tests.twins.memory_store import MemoryStore
from walkeeper.archive.authentic import believing
from walkeeper.archive.expiry import new_pin, read_pins, write_pin
from walkeeper.archive.layout import Layout
from walkeeper.core.backup import BackupId
from walkeeper.core.floor import moment
from walkeeper.dcs.base import RecordStore
from walkeeper.errors import ConfigError, StoreDenied
from walkeeper.lib.clock import SystemClock
from walkeeper.restore import state
from walkeeper.restore.pins import Pins
from walkeeper.restore.serving import Restoring
from walkeeper.restore.state import Asked, State
from walkeeper.store.base import Store
from walkeeper.store.several import Several

LAYOUT = Layout("demo", None, 7)
DAY = 86400.0


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def restored(directory: Path, store: Store, use: str = "server") -> str:
    """A directory with a restore's note, and its pin, which is new. The pin's id."""
    pin = new_pin(a_backup(BackupId("20261128T020000Z", 3, "1a2b3c4d")), 3, "host", 0.0)
    write_pin(store, LAYOUT, pin)
    asked = Asked(
        to="latest", scope="demo", group=None, system_identifier=7, backup=None, timeline=None, exclusive=False,
        action=None, tablespaces=(), use=use,
    )  # fmt: skip
    note = State(
        asked=asked, backup=pin.backup, timeline=3, recovery={}, pin=pin.id, began=pin.at,
        inode=directory.stat().st_ino, phase="placing",
    )  # fmt: skip
    (directory / state.NAME).write_bytes(state.encode(note))
    return pin.id


def noted(directory: Path) -> str:
    found = state.read(directory)
    assert found is not None
    return found.pin


def test_a_pin_of_a_recovery_is_renewed_once_a_day(store: MemoryStore, tmp_path: Path) -> None:
    first = restored(tmp_path, store)
    pins = Pins(store, SystemClock(), lambda: DAY / 2)
    pins.tend(LAYOUT, tmp_path, True)
    assert noted(tmp_path) == first
    later = Pins(store, SystemClock(), lambda: 2 * DAY)
    (before,) = read_pins(store, LAYOUT)
    later.tend(LAYOUT, tmp_path, True)
    (after,) = read_pins(store, LAYOUT)
    assert noted(tmp_path) == after.id != first
    assert moment(after.until) - moment(before.until) >= timedelta(days=1)


def test_one_with_a_code_is_renewed_with_one(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else expire would not believe it, and the first one is gone."""
    server = cast(Postgres, SimpleNamespace(data=tmp_path, port=1, bin_dir=None))
    config = config_of(server, "a", tmp_path, authentication_keys=("k" * 64,))
    believed = believing(store, config)
    first = restored(tmp_path, believed)
    pins = Restoring(config, store, tmp_path, SystemClock(), no_dcs)._pins
    monkeypatch.setattr(pins, "_ahead", lambda: 2 * DAY)
    pins.tend(LAYOUT, tmp_path, True)
    (after,) = read_pins(believed, LAYOUT)
    assert noted(tmp_path) == after.id != first


def test_a_store_that_does_not_take_the_next_one_is_named_and_keeps_the_one_before(
    store: MemoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its expire knows of nothing else. Once that was said only where no store took it."""
    far = MemoryStore()
    both = Several([store, far])
    first = restored(tmp_path, both)
    far.before = denied
    Pins(both, SystemClock(), lambda: 2 * DAY).tend(LAYOUT, tmp_path, True)
    assert {pin.id for pin in read_pins(store, LAYOUT)} == {first, noted(tmp_path)}
    assert [pin.id for pin in read_pins(far, LAYOUT)] == [first]
    assert "far/pin: access denied" in caplog.text


def denied(what: str, _: str) -> None:
    if what == "create":
        raise StoreDenied("far/pin: access denied")


def no_dcs(key: str) -> RecordStore:
    raise ConfigError(f"{key}: there is no DCS here")


def test_a_replicas_runs_out_by_itself(store: MemoryStore, tmp_path: Path) -> None:
    restored(tmp_path, store, "replica")
    before = read_pins(store, LAYOUT)
    for recovers in (False, True):
        Pins(store, SystemClock(), lambda: 2 * DAY).tend(LAYOUT, tmp_path, recovers)
    assert read_pins(store, LAYOUT) == before


def test_one_that_was_renewed_and_not_noted_before_a_kill_is_noted(store: MemoryStore, tmp_path: Path) -> None:
    restored(tmp_path, store)
    pins = Pins(store, SystemClock(), lambda: 2 * DAY)
    store.after = killed
    with pytest.raises(KeyboardInterrupt):
        pins.tend(LAYOUT, tmp_path, True)
    store.after = None
    pins.tend(LAYOUT, tmp_path, True)
    (after,) = read_pins(store, LAYOUT)
    assert noted(tmp_path) == after.id


def killed(what: str, _: str) -> None:
    if what == "create":
        raise KeyboardInterrupt


def test_after_the_recovery_it_goes(store: MemoryStore, tmp_path: Path) -> None:
    restored(tmp_path, store)
    Pins(store, SystemClock(), lambda: 0.0).tend(LAYOUT, tmp_path, False)
    assert read_pins(store, LAYOUT) == []
    assert noted(tmp_path) == ""


def test_a_store_that_is_away_another_cluster_and_no_note_change_nothing(store: MemoryStore, tmp_path: Path) -> None:
    pins = Pins(store, SystemClock(), lambda: 2 * DAY)
    pins.tend(LAYOUT, tmp_path, True)
    first = restored(tmp_path, store)
    pins.tend(Layout("demo", None, 8), tmp_path, True)
    store.down = True
    pins.tend(LAYOUT, tmp_path, True)
    store.down = False
    assert noted(tmp_path) == first
    assert [pin.id for pin in read_pins(store, LAYOUT)] == [first]


def test_it_is_looked_at_seldom(store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[bool] = []
    monkeypatch.setattr(Pins, "tend", lambda _, layout, directory, recovers: looked.append(recovers))
    pins = Pins(store, SystemClock(), lambda: 0.0)
    for _ in range(3):
        pins.look(LAYOUT, tmp_path, recovers=True)
    assert looked == [True]
