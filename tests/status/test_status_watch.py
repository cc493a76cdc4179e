"""``walkeeper status --watch``: what moves, in 80 columns; on a terminal, in a pipe, and its end."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.parts.processes import CHECKOUT
from tests.status.test_status import ROW, WHOLE, unreachable
from walkeeper.cli import main as cli
from walkeeper.core.lsn import MIB, Lsn
from walkeeper.status import screen
from walkeeper.status.attention import remark
from walkeeper.status.screen import Sample, cut, lines, plain, rate

AGENT: Final[dict[str, Any]] = {
    "agent": {
        "name": "node1", "archiving": True, "uploaded_segments": 41, "uploaded_bytes": 10 * MIB, "spool_bytes": 3 * MIB,
        "spool_limit": 1024 * MIB, "in_flight": ["00000002000000020000004A", "00000002000000020000004B"],
    },
    "troubles": [], "last_error": None,
}  # fmt: skip


def sample(at: float, frontier: int, wal: int, **changes: Any) -> Sample:
    record = {**WHOLE["record"], "frontier": str(Lsn(frontier)), "moved_seconds_ago": 1.0}
    row = {**ROW, "lsn": str(Lsn(wal)), "lag_bytes": wal - frontier, "lag_seconds_at_most": 0.0}
    return Sample(at, {**WHOLE, "record": record, "members": [row], "agent": AGENT, **changes})


def shown(*samples: Sample, age: float = 0.0, bars: bool = False) -> str:
    return plain(lines(samples, stamp="2026-11-23T08:00:00Z", age=age, bars=bars))


def test_it_says_what_moves_and_how_fast() -> None:
    text = shown(sample(0, 10 * MIB, 12 * MIB), sample(2, 14 * MIB, 18 * MIB))
    assert "Frontier  0/E00000 on timeline 2, +2 MiB/s, moved by node1 1 s ago" in text
    assert "WAL       0/1200000 on node1, +3 MiB/s; 4 MiB not archived" in text
    assert "Uploads   2 in flight (00000002000000020000004A, 00000002000000020000004B);" in text
    assert "41 done, 10 MiB" in text.replace("\n          ", " ")
    assert text.splitlines()[:3] == ["demo  2026-11-23 08:00:00 UTC", "All well.", ""]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 20), (40, 3)])
def test_a_window_that_is_too_small_has_the_verdict_and_says_how_much_it_lacks(width: int, height: int) -> None:
    remarks = [remark(f"fault {number} " + "x " * 40, f"do this {number} " + "y " * 80) for number in range(4)]
    found = lines([sample(0, 0, 0, attention=remarks, exit_code=1)], stamp="now", age=0.0, bars=False)
    shown = [
        line for each in plain(cut(found, width, height)).splitlines() for line in textwrap.wrap(each, width) or [""]
    ]
    assert len(shown) <= height
    assert shown[1] == "Something needs a look."
    missing = int(re.fullmatch("… ([0-9]+) more lines: enlarge the window", shown[-1])[1])  # type: ignore[index]
    assert len(found) == len(cut(found, width, height)) - 1 + missing
    assert cut(found, width, 1000) == found


def test_a_rate_is_of_the_last_seconds_and_never_negative() -> None:
    many = [sample(float(second), second * MIB if second < 10 else 9 * MIB, 40 * MIB) for second in range(30)]
    assert rate(many, "frontier") == 0.0
    assert rate(many[:10], "frontier") == MIB
    assert rate(many[:1], "frontier") is None
    assert rate([many[5], many[1]], "frontier") is None  # a rebuilt record may be behind
    assert rate([many[0], sample(1, 0, 0, record=None)], "frontier") is None


def test_what_is_not_known_is_not_guessed() -> None:
    text = shown(
        sample(0, 0, 0, record=None, leader=None, agent=None, gaps=None, exit_code=2, unknown=[remark("gaps: away")])
    )
    assert "Frontier  unknown" in text
    assert "WAL       unknown" in text
    assert "Uploads   unknown: no answer of this node's agent" in text
    assert "Gaps      unknown" in text
    assert "Unknown   gaps: away" in text


def test_problems_and_the_last_error_are_shown() -> None:
    last = {"since": "2026-11-23T07:00:00Z", "text": "store: refused", "over_seconds_ago": 250.0}
    text = shown(
        sample(
            0,
            0,
            0,
            attention=[remark("the store is away", "look at it")],
            exit_code=1,
            agent={**AGENT, "last_error": last},
        ),
        age=7,
    )
    assert "Look at   the store is away\n          HINT: look at it" in text
    assert "Last      error of this node's agent, over for 4 min 10 s: store: refused" in text
    assert "seen 7 s ago" in text.splitlines()[0]


def test_it_fits_80_columns_whatever_the_names_are() -> None:
    long = {
        **ROW, "name": "node-with-a-name-that-is-very-long-1", "role": "standby_leader", "state": "in archive recovery",
        "lsn": "FFFFFFFF/FFFFFFFF", "hold_slot": "FFFFFFFF/FFFFFFFF", "lag_bytes": 1 << 40, "lag_seconds_at_most": 86400.0,
        "gap_safe": False,
    }  # fmt: skip
    samples = [
        sample(float(at), at * MIB, 2 * at * MIB, members=[ROW, long], attention=[remark("x " * 90, "y " * 90)])
        for at in range(60)
    ]
    text = shown(*samples, bars=True)
    assert max(map(len, text.splitlines())) <= screen.WIDTH
    assert "FFFFFFFF/FFFFFFFF" in text


def test_names_from_elsewhere_print_no_control_characters() -> None:
    evil = {**ROW, "name": "node\x1b[31m2"}
    text = shown(sample(0, 0, 0, members=[evil], attention=[remark("two\nlines\x07")]))
    assert all(line.isprintable() for line in text.splitlines())
    assert "node?[31m2" in text


def test_bars_show_the_last_looks() -> None:
    samples = [sample(float(at), (0, 1, 3, 7)[at] * MIB, 9 * MIB) for at in range(4)]
    text = shown(*samples, bars=True)
    assert "frontier ▂▄█  waiting █▇▅▂" in text


# -------------------------------------------------------------------------------------------------- as a process


@contextmanager
def watching(
    directory: Path, *arguments: str, stdout: int, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Of a cluster of which nothing answers: what it shows is that."""
    process = subprocess.Popen(
        [sys.executable, "-m", "walkeeper", "-c", unreachable(directory), "status", "--watch", "--interval", "0.2", *arguments],
        env={"PYTHONPATH": str(CHECKOUT), "WALKEEPER_RUN_DIR": str(directory), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **(env or {})},
        stdout=stdout, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_in_a_pipe_it_is_a_block_a_look_and_ctrl_c_ends_it_quietly(short_path: Path) -> None:
    with watching(short_path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        text = b""
        while text.count(b"Not everything is known.") < 3:
            text += process.stdout.read1()  # type: ignore[attr-defined]
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=60)
    assert said == b""
    assert process.returncode == 0
    assert all(line.isprintable() for line in (text + rest).decode().splitlines())
    assert text.decode().count("\n\ndemo  ") >= 2


def test_as_json_it_is_a_line_a_look(short_path: Path) -> None:
    with watching(short_path, "--json", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        found = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.terminate()
        assert process.communicate(timeout=60)[1] == b""
    assert [each["exit_code"] for each in found] == [2, 2]
    assert process.returncode == 0


def test_a_reader_that_leaves_ends_it_quietly(short_path: Path) -> None:
    with watching(short_path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


@pytest.mark.parametrize("rich", [True, False])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_on_a_terminal_it_is_a_screen_that_is_left_as_it_was(short_path: Path, rich: bool, number: int) -> None:
    if rich:
        pytest.importorskip("rich")
    else:
        (short_path / "rich.py").write_text("raise ImportError\n")
    path = os.pathsep.join([str(short_path), str(CHECKOUT)])
    ours, theirs = pty.openpty()
    try:
        with watching(short_path, stdout=theirs, env={"TERM": "xterm", "PYTHONPATH": path}) as process:
            text = read_until(ours, b"Not everything is known.")
            process.send_signal(number)
            process.wait(60)
            text += read_until(ours, b"")
            assert process.stderr is not None
            assert process.stderr.read() == b""
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.returncode == 0
    assert text.count(b"\033[?1049h") == text.count(b"\033[?1049l") == rich
    assert text.count(b"\033[?25l") == text.count(b"\033[?25h")
    assert (b"\033[H\033[2J" in text) or rich


def test_q_ends_it_and_the_terminal_is_as_it_was(short_path: Path) -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    try:
        process = subprocess.Popen(
            ["setsid", "--ctty", sys.executable, "-m", "walkeeper", "-c", unreachable(short_path), "status", "--watch"],
            env={"PYTHONPATH": str(CHECKOUT), "WALKEEPER_RUN_DIR": str(short_path), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TERM": "xterm"},
            stdin=theirs, stdout=theirs, stderr=subprocess.PIPE,
        )  # fmt: skip
        read_until(ours, b"Not everything is known.")
        os.write(ours, b"xq")
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (0, b"")
        assert termios.tcgetattr(theirs) == before
    finally:
        os.close(ours)
        os.close(theirs)


def read_until(descriptor: int, what: bytes) -> bytes:
    """What comes until that was read; with nothing to wait for, what is there."""
    text, until = b"", time.monotonic() + 20
    while what not in text or not what:
        ready, _, _ = select.select([descriptor], [], [], 0.5 if what else 0.1)
        if not ready and not what:
            break
        assert time.monotonic() < until, text
        text += os.read(descriptor, 65536) if ready else b""
    return text


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "x", "1e9"])
def test_an_interval_that_is_none_is_refused(
    short_path: Path, seconds: str, capsys: pytest.CaptureFixture[str]
) -> None:

    assert cli.main(["-c", str(unreachable(short_path)), "status", "--watch", "--interval", seconds]) == 2
    assert "--interval" in capsys.readouterr().err
