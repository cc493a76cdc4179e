"""Timeline numbers that only the DCS knows: which server is told of them while the store is away, and which is not."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec
import pytest

from tests.core.values import control_file, history_text
from tests.fixtures.restoring import SEGMENT, SYSTEM, Node, answering, restore_command
from tests.parts.binaries import all_postgres
from tests.parts.postgres import Postgres
from tests.parts.processes import new_directory
from tests.twins.hand_clock import HandClock
from tests.twins.memory_record import MemoryRecord
from walkeeper.archive.authentic import Trust
from walkeeper.archive.histories import remembered
from walkeeper.archive.layout import Layout
from walkeeper.archive.open import open_archives
from walkeeper.config import load
from walkeeper.core.history import History, Switch, parse_history
from walkeeper.core.lsn import MIB, Lsn
from walkeeper.core.record import Record
from walkeeper.core.remembered import Remembered, encode
from walkeeper.dcs.base import REMEMBERED
from walkeeper.errors import StoreError
from walkeeper.restore import command, exits, serving
from walkeeper.restore.command import restore
from walkeeper.restore.numbers import Numbers

TWO: Final = History(2, (Switch(1, Lsn(5 * MIB + 100)),))
TEXT: Final = history_text(TWO)
NAME: Final = "00000002.history"
RECORD: Final = Record(
    system_identifier=str(SYSTEM), segment_size=MIB, timeline=1, lsn=str(Lsn(5 * MIB)), start=SEGMENT.name, owner="a", session="s"
)  # fmt: skip


class Promoted(Node):
    """``c``, on timeline 1, which has the leader key by now. ``b`` had it before, was promoted to 2, and noted that; then it died."""

    def configure(self, **restore: object) -> None:
        super().configure(**restore)
        self.config.write_text("name: c\n" + self.config.read_text())
        self.begin()

    def note(self, text: bytes = TEXT, system: int = SYSTEM, timeline: int = 2) -> None:
        noted = remembered(Layout("demo", None, system), Trust(), timeline, text)
        self.dcs.put(encode(Remembered(system_identifier=str(system), texts=(noted,))), REMEMBERED)

    def state(self, status: str) -> None:
        lines = f"{os.getpid()}\n{self.data}\n1700000000\n5432\n/tmp\n*\n1 2\n{status:<8}\n"
        (self.data / "postmaster.pid").write_text(lines)

    def told(self, name: str = NAME) -> bytes | int | None:
        """What is delivered, or the exit."""
        code = self.restore(name)
        return (self.data / "pg_wal" / "RECOVERYXLOG").read_bytes() if code == exits.DELIVERED else code


@pytest.fixture
def promoted(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Promoted]:
    monkeypatch.setattr(serving, "RETRY_SECONDS", 0.0)
    made = Promoted(short_path, monkeypatch)
    (made.data / "global" / "pg_control").write_bytes(control_file(1, Lsn(5 * MIB)))
    (made.data / "standby.signal").touch()
    made.state("ready")
    made.dcs.put(RECORD.encode())
    made.dcs.set_leader("c")
    made.note()
    made.store.down = True
    with answering(made):
        yield made


def test_p13_a_number_that_was_used_is_not_chosen_again_because_the_store_is_away(promoted: Promoted) -> None:
    assert promoted.told() == TEXT
    assert promoted.told("00000003.history") == exits.ASK_AGAIN  # nobody knows


def test_a_store_that_hangs_is_as_good_as_away(promoted: Promoted, monkeypatch: pytest.MonkeyPatch) -> None:
    promoted.store.down = False
    monkeypatch.setattr(serving, "SILENCE", 0.0)
    assert promoted.told() == TEXT


def test_a_store_that_has_not_got_it_yet_is_no_reason_to_use_the_number_again(promoted: Promoted) -> None:
    promoted.store.down = False
    assert promoted.told() == TEXT
    assert promoted.told("00000003.history") == exits.ABSENT
    promoted.archive.archive_history(2, TEXT + b"\n# as it is stored\n")
    assert promoted.told() == TEXT + b"\n# as it is stored\n"


def test_a_promotion_by_hand_in_a_pause_is_told_too(promoted: Promoted) -> None:
    promoted.dcs.set_leader("a")
    promoted.dcs.paused = True
    assert promoted.told() == TEXT


@pytest.mark.parametrize("store_down", [True, False])
def test_who_only_follows_hears_what_the_store_says(promoted: Promoted, *, store_down: bool) -> None:
    """Told of a branch that the cluster left, it would follow that."""
    promoted.store.down = store_down
    as_today = exits.ASK_AGAIN if store_down else exits.ABSENT
    promoted.dcs.set_leader("a")
    assert promoted.told() == as_today
    promoted.dcs.set_leader("c")
    promoted.state("starting")
    assert promoted.told() == as_today
    promoted.state("ready")
    (promoted.data / "standby.signal").unlink()
    assert promoted.told() == as_today


def test_without_a_record_the_leader_is_whom_a_standby_follows(promoted: Promoted) -> None:
    promoted.dcs.wipe()
    assert promoted.told() == TEXT
    promoted.dcs.set_leader("b")
    assert promoted.told() == exits.ASK_AGAIN


def test_p6_it_is_exactly_what_was_noted_or_nothing(promoted: Promoted) -> None:
    for garbage in (b"", b"{}", b"\xff", b"null"):
        promoted.dcs.put(garbage, REMEMBERED)
        assert promoted.told() == exits.ASK_AGAIN
    promoted.note(b"3\t0/100\tno history of this one\n")
    assert promoted.told() == exits.ASK_AGAIN
    promoted.note(system=1)
    assert promoted.told() == exits.ASK_AGAIN
    promoted.dcs.wipe(REMEMBERED)
    assert promoted.told() == exits.ASK_AGAIN
    promoted.note()
    record = msgspec.structs.replace(RECORD, timeline=2, history_sha256="ab" * 32)
    promoted.dcs.put(record.encode())  # whose store has other words for it
    assert promoted.told() == exits.ASK_AGAIN


def test_with_a_key_only_its_holder_says_that_a_number_was_used(promoted: Promoted) -> None:
    archives = open_archives(replace(load(promoted.config, {}), authentication_keys=("k" * 64,)), promoted.store)
    numbers = Numbers("c", archives, lambda key: MemoryRecord(promoted.dcs, key))
    assert numbers.text(NAME, promoted.data) is None
    noted = remembered(Layout("demo", None, SYSTEM), archives.trust, 2, TEXT)
    promoted.dcs.put(encode(Remembered(system_identifier=str(SYSTEM), texts=(noted,))), REMEMBERED)
    assert numbers.text(NAME, promoted.data) == TEXT


def test_a_dcs_that_says_nothing_leaves_the_answer_as_it_is(promoted: Promoted) -> None:
    promoted.dcs.down = True
    assert promoted.told() == exits.ASK_AGAIN
    promoted.store.down = False
    assert promoted.told() == exits.ABSENT


def test_a_dcs_that_hangs_is_told_with_what_helps(promoted: Promoted, caplog: pytest.LogCaptureFixture) -> None:
    archives, goes_on = open_archives(load(promoted.config, {}), promoted.store), threading.Event()

    def connect(key: str) -> MemoryRecord:
        goes_on.wait(30)
        return MemoryRecord(promoted.dcs, key)

    with caplog.at_level("ERROR"):
        assert Numbers("c", archives, connect, seconds=0.01).text(NAME, promoted.data) is None
    goes_on.set()
    assert re.search("number_not_looked_up .* HINT: .*This node must reach the DCS", caplog.text)


def test_a_dcs_that_is_away_is_told_once_a_minute_and_at_once_the_next_time(
    promoted: Promoted, caplog: pytest.LogCaptureFixture
) -> None:
    """A standby asks every five seconds."""
    archives, clock = open_archives(load(promoted.config, {}), promoted.store), HandClock()
    numbers = Numbers("c", archives, lambda key: MemoryRecord(promoted.dcs, key), clock=clock)
    promoted.dcs.down = True
    told = []
    for _ in range(26):
        assert numbers.text(NAME, promoted.data) is None
        told.append(caplog.text.count("number_not_looked_up"))
        clock.sleep(5)
    assert told == [1] * 12 + [2] * 12 + [3] * 2
    promoted.dcs.down = False
    with caplog.at_level("INFO"):
        assert numbers.text(NAME, promoted.data) == numbers.text(NAME, promoted.data) == TEXT
    assert caplog.text.count("number_not_looked_up_over") == 1
    promoted.dcs.down = True
    assert numbers.text(NAME, promoted.data) is None
    assert caplog.text.count("number_not_looked_up ") == 4


def test_without_an_agent_the_command_asks_the_dcs_itself(promoted: Promoted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "open_all", lambda *_, **__: promoted.store)
    monkeypatch.setattr(command, "_records", lambda _, key="walkeeper": MemoryRecord(promoted.dcs, key))
    assert restore(promoted.config, NAME, promoted.data, {}) == TEXT
    with pytest.raises(StoreError):
        restore(promoted.config, "00000003.history", promoted.data, {})
    promoted.store.down = False
    assert restore(promoted.config, NAME, promoted.data, {}) == TEXT
    assert restore(promoted.config, "00000003.history", promoted.data, {}) is None


@pytest.mark.postgres
@pytest.mark.parametrize("major", sorted(all_postgres()))
def test_p13_a_real_server_that_is_promoted_while_the_store_is_away_takes_the_next_number(
    promoted: Promoted, major: int
) -> None:
    with Postgres(new_directory("c"), all_postgres()[major], segment_size_mb=1) as server:
        system = server.system_identifier
        server.stop()
        promoted.dcs.put(msgspec.structs.replace(RECORD, system_identifier=str(system)).encode())
        promoted.note(system=system)
        (server.data / "standby.signal").touch()
        server.configure({"restore_command": restore_command(promoted.config, "served")})
        server.start()
        server.promote()
        server.checkpoint()
        assert server.timeline() == 3
        assert parse_history(3, (server.pg_wal / "00000003.history").read_bytes()).timelines == (1, 3)
