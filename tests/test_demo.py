"""The demo, as a user runs it, with less load. It must prove its point, and leave nothing, however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.parts.processes import CHECKOUT, describe, wait_until

pytestmark = pytest.mark.cluster

NO_STORY: Final = """
import sys
from examples.demo import __main__ as demo
demo.Story.tell = demo.Story._start_cluster
demo.Ending.tell = demo.Ending.verdict = lambda self: True
sys.exit(demo.main())
"""


class Demo:
    """``python -m examples.demo`` with a temporary directory of its own, by which what it leaves is found.

    ``program``: Python text to run in place of ``-m examples.demo``.
    """

    def __init__(self, place: Path, *options: str, program: str | None = None) -> None:
        self._place = place
        self._log = place.with_suffix(".out")
        python = [sys.executable, *(("-c", program) if program else ("-m", "examples.demo"))]
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [*python, "--short", *options],
                cwd=CHECKOUT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(place)},
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        """All of it, as one line: where it wraps depends on the terminal."""
        return " ".join(self._log.read_text().split())

    def wait_for(self, text: str, timeout: float = 120) -> None:
        wait_until(lambda: text in self.said or self.process.poll() is not None, text, timeout, logs=[self._log])
        assert text in self.said, self.said

    def end(self, timeout: float = 150) -> int:
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.said) from None

    def left(self) -> list[str]:
        """Files and processes that are still there."""
        return [*map(str, self._place.iterdir()), *(describe(pid) for pid in self.pids())]

    def pids(self) -> set[int]:
        """Every process that works in its directory, or has it in its command line or environment."""
        return {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal() and self._is_its(entry)}

    def _is_its(self, entry: Path) -> bool:
        needle = f"{self._place}".encode()
        try:
            if entry.joinpath("stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return False
            where = bytes(entry.joinpath("cwd").readlink())
            return any(
                needle in text
                for text in (where, entry.joinpath("cmdline").read_bytes(), entry.joinpath("environ").read_bytes())
            )
        except OSError:
            return False


@pytest.fixture
def start_demo() -> Iterator[Callable[..., Demo]]:
    """Starts one demo; a test that fails does not leave it."""
    started: list[Demo] = []
    # In /tmp itself: a directory of this run would make paths too long for the demo's Unix sockets.
    with tempfile.TemporaryDirectory(prefix="wkd", dir="/tmp") as above:
        place = Path(above) / "t"
        place.mkdir()

        def start(*options: str, program: str | None = None) -> Demo:
            started.append(Demo(place, *options, program=program))
            return started[-1]

        yield start
        for demo in started:
            demo.process.kill()
            demo.process.wait()
            wait_until(lambda demo=demo: not demo.pids(), "the demo's end")  # type: ignore[misc]


@pytest.mark.timeout(240)
def test_the_demo_proves_its_point_and_leaves_nothing(start_demo: Callable[..., Demo]) -> None:
    demo = start_demo()

    code = demo.end()

    assert "PROVEN. The primary died" in demo.said, demo.said
    assert code == 0, demo.said
    assert "NO   " not in demo.said
    missing = re.search(r"of them missing after the restore +([\d,]+) +([\d,]+)", demo.said)
    assert missing is not None
    assert missing[2] == "0"
    died = re.search(r"(\d+) complete segments that were received, but not in the store yet, died", demo.said)
    assert died is not None
    assert int(died[1]) >= 4, "nothing is proven unless something was at stake"
    assert demo.left() == []


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGTERM, "1. A Patroni cluster"),
        (signal.SIGKILL, "2. Load"),
        (signal.SIGINT, "kill -9: everything"),
    ],
)
def test_a_demo_that_is_interrupted_leaves_nothing(
    start_demo: Callable[..., Demo], number: signal.Signals, moment: str
) -> None:
    demo = start_demo()
    demo.wait_for(moment)

    demo.process.send_signal(number)

    assert demo.end(60) == (130 if number != signal.SIGKILL else -signal.SIGKILL), demo.said
    try:
        wait_until(lambda: demo.left() == [], "everything to be gone")
    except TimeoutError:
        assert demo.left() == []


@pytest.mark.timeout(240)
def test_a_kept_cluster_lives_until_its_process_is_killed(start_demo: Callable[..., Demo]) -> None:
    demo = start_demo("--keep", program=NO_STORY)
    demo.wait_for(", as it is now", 180)
    command = re.search(r"kill (\d+)\.", demo.said)
    assert command is not None
    shown = re.search(r"(\S*patronictl) -c (\S+) list", demo.said)
    assert shown is not None

    members = subprocess.run([shown[1], "-c", shown[2], "list"], capture_output=True, text=True, check=True)
    assert members.stdout.count("| node") == 3
    assert len(demo.pids()) > 20

    os.kill(int(command[1]), signal.SIGTERM)
    assert demo.end(60) == 0
    wait_until(lambda: demo.left() == [], "everything to be gone")


def test_the_demo_refuses_root_and_says_what_to_do() -> None:
    result = subprocess.run(
        [sys.executable, "-c", "import os; os.geteuid = lambda: 0\nfrom examples.demo.__main__ import main; raise SystemExit(main([]))"],
        cwd=CHECKOUT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert result.returncode == 1
    assert "make demo" in result.stderr
