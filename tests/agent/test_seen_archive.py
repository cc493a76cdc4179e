"""Where this host has seen the archive: the file that says so, and what does not count."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.twins.memory_store import MemoryStore
from walkeeper.agent.seen_archive import SeenArchive
from walkeeper.archive.codec import Codec
from walkeeper.archive.open import Archives
from walkeeper.core.lsn import MIB
from walkeeper.core.record import Record

SYSTEM = 7300000000000000001
RECORD = Record(
    system_identifier=str(SYSTEM), segment_size=MIB, timeline=1, lsn="0/500000", start="000000010000000000000003",
    owner="a", session="s",
)  # fmt: skip


def of(directory: Path, scope: str = "demo") -> SeenArchive:
    """In an agent that was just started."""
    return SeenArchive(directory, Archives(MemoryStore(), scope, None, Codec()))


def test_an_archive_is_seen_once_something_was_archived_and_in_that_place(tmp_path: Path) -> None:
    seen = of(tmp_path)
    seen.note(SYSTEM, msgspec.structs.replace(RECORD, lsn="0/300000"))
    seen.note(SYSTEM + 1, RECORD)
    assert not any(tmp_path.iterdir())
    seen.note(SYSTEM, RECORD)
    assert of(tmp_path).has(SYSTEM)
    assert not of(tmp_path).has(SYSTEM + 1)
    assert not of(tmp_path, "copy").has(SYSTEM)
    of(tmp_path, "copy").note(SYSTEM, RECORD)  # the last one counts
    assert not of(tmp_path).has(SYSTEM)


def test_p16_a_file_that_others_may_write_or_that_cannot_be_written_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    of(tmp_path).note(SYSTEM, RECORD)
    file = tmp_path / "archive-seen"
    file.chmod(0o666)
    assert not of(tmp_path).has(SYSTEM)
    file.unlink()
    file.mkdir()
    of(tmp_path).note(SYSTEM, RECORD)
    assert not of(tmp_path).has(SYSTEM)
    assert "archive_not_noted" in caplog.text
