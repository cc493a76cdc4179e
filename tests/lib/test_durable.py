"""Small files of this host's own that outlive its power."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from walkeeper.lib import durable


@pytest.mark.parametrize("there", [b"what was there\n", None])
def test_what_is_kept_is_synced_before_it_gets_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bytes | None
) -> None:
    """A rename may be on the disk before what was written: after a power failure that would be an empty file."""
    kept = tmp_path / "kept"
    if there is not None:
        kept.write_bytes(there)
    seen: list[tuple[str, bytes | None]] = []
    fsync = os.fsync

    def synced(fd: int) -> None:
        fsync(fd)
        what = "names" if stat.S_ISDIR(os.fstat(fd).st_mode) else "bytes"
        seen.append((what, kept.read_bytes() if kept.exists() else None))

    monkeypatch.setattr(os, "fsync", synced)
    durable.keep(kept, b"what is kept\n")
    assert seen == [("bytes", there), ("names", b"what is kept\n")]
    assert [*tmp_path.iterdir()] == [kept]


def test_what_cannot_be_synced_does_not_get_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes(b"what was there\n")

    def fails(_: int) -> None:
        raise OSError("the disk is broken")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="broken"):
        durable.keep(kept, b"what is kept\n")
    assert kept.read_bytes() == b"what was there\n"
    assert [*tmp_path.iterdir()] == [kept]
