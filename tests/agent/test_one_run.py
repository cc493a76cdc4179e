"""What the server's next run writes is not stored before it was compared: its volume may have gone back while it was down (P13)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.values import paged_segment
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.archiver.one_run import OneRun
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.write import Archive
from walkeeper.core.history import History
from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.errors import PostgresError

SYSTEM = 7300000000000000001
SIZE = SegmentSize(MIB)


def begin(data: Path, started: int) -> None:
    (data / "postmaster.pid").write_text(f"4711\n{data}\n{started}\n5432\n/tmp\n")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    begin(tmp_path, 100)
    return tmp_path


def test_p13_what_the_next_run_of_the_server_writes_is_not_stored_before_it_was_compared(data: Path) -> None:
    store = MemoryStore()
    ended: list[str] = []
    run = OneRun(data, lambda: ended.append("ended"))
    archive = run.bound(Archive(store, Layout("demo", None, SYSTEM), SIZE, Codec()))
    one, two = (Segment(1, number, SIZE) for number in (3, 4))
    archive.archive_segment(one, paged_segment(one, SYSTEM, History(1)), History(1))
    begin(data, 101)
    stored = set(store.objects)
    for _ in range(2):
        with pytest.raises(PostgresError, match="started again"):
            archive.archive_segment(two, paged_segment(two, SYSTEM, History(1)), History(1))
    assert set(store.objects) == stored
    assert archive.find(one) is not None
    begin(data, 100)  # the volume goes back once more, with the file of that time
    assert run.over
    assert ended == ["ended"]


@pytest.mark.parametrize("left", ["as it was", "nothing", "half a file", "a server in single-user mode"])
def test_p7_what_a_server_that_is_down_has_written_is_still_archived(data: Path, left: str) -> None:
    run = OneRun(data)
    file = data / "postmaster.pid"
    if left == "nothing":
        file.unlink()
    elif left == "half a file":
        file.write_text("4712\n")
    elif left == "a server in single-user mode":
        file.write_text(f"-4712\n{data}\n101\n5432\n")
    assert not run.over
    run.check()
