"""Where this host has seen the archive: the file that says so, and what does not count."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.twins.hand_clock import HandClock
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.seen_archive import AGAIN_SECONDS, SeenArchive
from walkeeper.archive.codec import Codec
from walkeeper.archive.open import Archives
from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.record import Record

SYSTEM = 7300000000000000001
RECORD = Record(
    system_identifier=str(SYSTEM), segment_size=MIB, timeline=1, lsn="0/500000", start="000000010000000000000003",
    owner="a", session="s",
)  # fmt: skip


class Host:
    """Its agent was just started, with one configuration or another."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = HandClock()
        self.store = MemoryStore()
        self.begun("demo")
        self.begun("copy")

    def begun(self, scope: str, store: MemoryStore | None = None) -> None:
        archive = Archives(store or self.store, scope, None, Codec()).archive(SYSTEM, SegmentSize(MIB))
        archive.state_start(Segment.parse(RECORD.start, SegmentSize(MIB)))

    def agent(self, scope: str = "demo", store: MemoryStore | None = None) -> SeenArchive:
        archives = Archives(store or self.store, scope, None, Codec())
        return SeenArchive(self.directory, archives, self.clock, lambda _, look: look())


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_an_archive_is_seen_once_something_was_archived_and_in_that_place(host: Host) -> None:
    seen = host.agent()
    seen.note(SYSTEM, msgspec.structs.replace(RECORD, lsn="0/300000"), there=True)
    seen.note(SYSTEM + 1, RECORD, there=True)
    assert not any(host.directory.iterdir())
    seen.note(SYSTEM, RECORD, there=False)
    assert host.agent().has(SYSTEM)
    assert not host.agent().has(SYSTEM + 1)
    assert not host.agent("copy").has(SYSTEM)
    host.agent("copy").note(SYSTEM, RECORD, there=False)  # the last one counts
    assert not host.agent().has(SYSTEM)


def test_p13_no_archive_is_seen_where_there_is_none_though_the_record_speaks_of_one(host: Host) -> None:
    """It is of the store that was configured before; or the store is away."""
    empty = MemoryStore()
    seen = host.agent("new", empty)
    seen.note(SYSTEM, RECORD, there=False)
    empty.down = True
    host.clock.now += AGAIN_SECONDS
    seen.note(SYSTEM, RECORD, there=False)
    assert not seen.has(SYSTEM)
    empty.down = False
    host.begun("new", empty)
    asked = len(empty.calls)
    seen.note(SYSTEM, RECORD, there=False)
    assert len(empty.calls) == asked, "not at each look"
    host.clock.now += AGAIN_SECONDS
    seen.note(SYSTEM, RECORD, there=False)
    assert seen.has(SYSTEM)


def test_p16_a_file_that_others_may_write_or_that_cannot_be_written_changes_nothing(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host.agent().note(SYSTEM, RECORD, there=False)
    file = host.directory / "archive-seen"
    file.chmod(0o666)
    assert not host.agent().has(SYSTEM)
    file.unlink()
    file.mkdir()
    seen = host.agent()
    for _ in range(3):
        seen.note(SYSTEM, RECORD, there=False)
        host.clock.now += AGAIN_SECONDS
    assert not seen.has(SYSTEM)
    assert caplog.text.count("archive_not_noted") == 1
    file.rmdir()
    seen.note(SYSTEM, RECORD, there=False)
    assert seen.has(SYSTEM), "it is tried again"
