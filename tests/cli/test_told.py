"""What a command prints may reach nobody: that is no traceback, and its exit code still says what was done."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

import pytest

from tests.parts.processes import CHECKOUT
from tests.status.test_status import unreachable
from walkeeper.errors import WalkeeperError
from walkeeper.lib import terminal
from walkeeper.promote.lose import Word
from walkeeper.verify import answer

ANSWERS: Final = {
    "help": ["--help"],
    "help of a command": ["expire", "--help"],
    "version": ["--version"],
    "status": ["status"],
    "status as JSON": ["status", "--json"],
    "doctor": ["doctor", "--verbose"],
    "can it restore": ["doctor", "--restore", "nowhere"],
    "verify": ["verify", "--json"],
    "unbuffered help": ["--help"],
    "unbuffered status": ["status"],
}
"""Of a cluster of which nothing answers."""
EACH_ANSWER: Final = pytest.mark.parametrize("what", ANSWERS)
WORK: Final = ("pre-promote", "--lose")
ONE_LINE: Final = "walkeeper: standard output: {}\nHINT: What was to be printed is lost, and only that."


def walkeeper(directory: Path, *arguments: str, out: int | IO[Any] | None, **more: str) -> tuple[int, str]:
    """The exit code, and what it says on standard error. ``out``: None for a standard output that is closed."""
    shell = [] if out is not None else ["sh", "-c", 'exec "$@" >&-', "sh"]
    done = subprocess.run(
        [*shell, sys.executable, "-m", "walkeeper", *arguments],
        env={
            "PYTHONPATH": str(CHECKOUT), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "WALKEEPER_RUN_DIR": str(directory),
            "WALKEEPER_CONFIG": str(unreachable(directory)), **more,
        },
        stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


def with_reader_gone(directory: Path, *arguments: str, **more: str) -> tuple[int, str]:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as out:
        return walkeeper(directory, *arguments, out=out, **more)


@EACH_ANSWER
def test_a_reader_that_has_left_changes_nothing(short_path: Path, what: str) -> None:
    arguments, more = ANSWERS[what], {"PYTHONUNBUFFERED": "1"} if "unbuffered" in what else {}
    code, _ = walkeeper(short_path, *arguments, out=subprocess.DEVNULL)
    got, said = with_reader_gone(short_path, *arguments, **more)
    assert (got, "Traceback" in said, "standard output" in said) == (code, False, False)


@EACH_ANSWER
def test_an_answer_that_is_lost_is_no_answer(short_path: Path, what: str) -> None:
    arguments, more = ANSWERS[what], {"PYTHONUNBUFFERED": "1"} if "unbuffered" in what else {}
    code, _ = walkeeper(short_path, *arguments, out=subprocess.DEVNULL)
    with open("/dev/full", "wb") as full:
        got, said = walkeeper(short_path, *arguments, out=full, **more)
    assert (got, "Traceback" in said) == (code or 2, False)
    assert said.count(ONE_LINE.format("No space left on device")) == 1
    got, said = walkeeper(short_path, *arguments, out=None)
    assert (got, "Traceback" in said) == (code or 2, False)
    assert said.count(ONE_LINE.format("it is closed")) == 1


@pytest.mark.real_clock
def test_what_was_done_is_done_whether_that_can_be_told_or_not(short_path: Path) -> None:
    word = Word(short_path / "data.walkeeper")
    with open("/dev/full", "wb") as full:
        code, said = walkeeper(short_path, *WORK, out=full)
    assert (code, said.count(ONE_LINE.format("No space left on device"))) == (0, 1)
    assert word.take()
    assert walkeeper(short_path, *WORK, out=None)[0] == 0
    assert word.take()
    assert with_reader_gone(short_path, *WORK) == (0, "")
    assert word.take()


@pytest.mark.parametrize(
    "arguments",
    [
        ["walkeeper", "restore-wal", "too", "many", "words"],
        ["walkeeper", "restore-wal", "-c", "nowhere", "0" * 24, "x"],
        ["walkeeper.restore.command", "nowhere", "0" * 24, "x"],
    ],
    ids=["a wrong call", "an error", "for the script"],
)
def test_p6_a_standard_error_that_is_full_does_not_end_the_wal(short_path: Path, arguments: list[str]) -> None:
    """Exit 1 would, and the 120 that Python makes of each exit then: logs may fill a disk of their own."""
    (short_path / "recovery.signal").touch()
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", *arguments], env={"PYTHONPATH": str(CHECKOUT), "PATH": os.environ["PATH"]},
            cwd=short_path, stderr=full, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 255


def test_what_comes_behind_a_loss_is_lost_too_and_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with suppress(OSError), open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert terminal.listened()
        terminal.tell("one")
        terminal.tell("two")
        assert not terminal.listened()
        assert [terminal.answered(code) for code in (0, 1, 2)] == [2, 1, 2]
        assert answer.say(lambda: ("three", 0)) == 2
        assert answer.say(lambda: ("three", 0), does=True) == 0
        assert capsys.readouterr().err.count("standard output") == 1
    monkeypatch.undo()
    terminal.tell("four")
    assert (terminal.answered(0), capsys.readouterr().out) == (0, "four\n")


def test_a_name_that_the_encoding_lacks_is_printed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "said").open("w", encoding="ascii") as file:
        monkeypatch.setattr(sys, "stdout", file)
        terminal.tell("gr\u00fcn \udcff")
    assert (tmp_path / "said").read_text() == "gr?n ?\n"


def test_an_error_that_cannot_be_said_keeps_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> tuple[str, int]:
        raise WalkeeperError("x: y", hint="Do z.")

    with suppress(OSError), open("/dev/full", "w", buffering=1) as full:
        for stream in (full, None):
            monkeypatch.setattr(sys, "stderr", stream)
            assert answer.say(fails) == 2
            monkeypatch.undo()
    assert capsys.readouterr() == ("", "")


def test_all_that_commands_print_goes_one_way() -> None:
    """But for what prints a page of docs/ to whoever writes them."""
    writers = {
        path.relative_to(CHECKOUT).as_posix()
        for path in (CHECKOUT / "walkeeper").rglob("*.py")
        if re.search(r"(?<![\w.])print\(|stdout\.write\(", path.read_text())
    }
    pages = {f"walkeeper/{room}/reference.py" for room in ("cli", "config", "doctor")} | {
        "walkeeper/agent/http/metrics.py"
    }
    assert writers - pages == set()
