"""The log in a file."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import pytest

from walkeeper.lib import events


def test_p16_a_log_is_its_users_alone_after_a_rotation_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LOG_FILE_BYTES", 300)
    monkeypatch.setattr(events, "_log", log := logging.getLogger("of this test"))
    path = tmp_path / "agent.log"
    before = os.umask(0o022)
    try:
        events.to_file(path)
        for number in range(6):
            events.info("line", number=number, text="x" * 100)
    finally:
        os.umask(before)
        log.handlers[0].close()
    found = sorted(tmp_path.iterdir())
    assert [each.name for each in found] == ["agent.log", "agent.log.1", "agent.log.2"]
    assert {stat.S_IMODE(each.stat().st_mode) for each in found} == {0o600}
    assert "number=5" in path.read_text()
