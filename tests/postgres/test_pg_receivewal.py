"""What is believed of how far pg_receivewal has written: with the kernel's answers written down; a real one is in tests/agent/test_tail."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from walkeeper.config import PostgresqlSettings
from walkeeper.core.wal_page import PAGE_SIZE
from walkeeper.lib.clock import SystemClock
from walkeeper.postgres import pg_receivewal
from walkeeper.postgres.pg_receivewal import Receiver

SIZE = 4 * PAGE_SIZE


def test_a_page_before_the_end_is_believed_once_the_zeros_are_known_to_be_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = Receiver(Path("/bin/true"), tmp_path, cast("PostgresqlSettings", None), tmp_path / "pass", SystemClock())
    receiver._child = cast("Any", SimpleNamespace(pid=1))
    partial, length, at = tmp_path / "one.partial", SIZE, 0
    partial.touch()
    monkeypatch.setattr(pg_receivewal, "_position", lambda *_: at)

    def written() -> int | None:
        partial.write_bytes(bytes(length))
        found = receiver.written(partial, SIZE)
        return None if found is None else found.offset

    before_the_end = SIZE - PAGE_SIZE
    seen = []
    for length, at in (  # noqa: B007 - ``written`` reads them
        (PAGE_SIZE, PAGE_SIZE), (SIZE, before_the_end), (SIZE, SIZE), (SIZE, 100), (SIZE, before_the_end), (SIZE, SIZE),
    ):  # fmt: skip
        seen.append(written())
    assert seen == [None, None, None, 100, before_the_end, None]
    partial, at = tmp_path / "two.partial", before_the_end
    assert written() is None
    receiver._runs += 1
    partial, at = tmp_path / "one.partial", before_the_end
    assert written() is None
