"""What others wrote does nothing to a terminal: only what is ours moves its cursor, or paints."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.fixtures.made_backup import made, plan
from tests.twins.memory_store import MemoryStore
from walkeeper.lib.terminal import Progress, aside, tell
from walkeeper.restore.directory import command

EVIL = "\x1b]0;title\x07\x1b[2J\rAll well.\u202e\x9b31m"
SHOWN = "?]0;title??[2J?All well.??31m"


def test_p16_what_is_said_has_no_sequence_of_a_terminals(capsys: pytest.CaptureFixture[str]) -> None:
    tell(f"a {EVIL}\nb")
    aside(f"c {EVIL}\nd")
    assert capsys.readouterr() == (f"a {SHOWN}\nb\n", f"c {SHOWN}\nd\n")
    tell("\x1b[1mBold\x1b[0m", painted=True)
    assert capsys.readouterr().out == "\x1b[1mBold\x1b[0m\n"


def test_p16_nor_has_a_line_of_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    Progress().show(EVIL)
    assert capsys.readouterr().err.strip() == SHOWN


def test_p16_what_a_backup_says_of_itself_is_printed_and_not_obeyed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = MemoryStore()
    planned = plan(made(store, member=EVIL), store, tmp_path)
    command._print(command._told(planned, None), {}, json=False)
    assert "All well." in (out := capsys.readouterr().out)
    assert out.replace("\n", "").isprintable()
