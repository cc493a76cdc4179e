"""A command of walkeeper's own that runs beside the agent, with less claim to the cores, and what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from signal import SIGINT
from typing import Final

from walkeeper.control import spawn
from walkeeper.lib import events
from walkeeper.lib.child import bound

_NICE: Final = 10
_LINES: Final = 20
"""Of what the process said last: a failure's reason is among them."""
_STOP_SECONDS: Final = 10.0
_PROGRESS: Final = re.compile(r"\b(?:backup|proof)_goes_on .*\bbytes=(\d+) of=(\d+)")


class Child:
    """It ends with the thread that has started it."""

    def __init__(self, config: Path, *arguments: str) -> None:
        """Raises OSError."""
        command = bound([sys.executable, "-P", "-m", "walkeeper", *arguments, "--config", config], SIGINT)
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            errors="replace", env=spawn.environment(), cwd="/", start_new_session=True,
        )  # fmt: skip
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self._process.pid, _NICE)
        self._name = arguments[0]
        self._said: deque[str] = deque(maxlen=_LINES)
        self.come, self.of = 0, 0
        self._reader = threading.Thread(target=self._read, name=f"{self._name}-says", daemon=True)
        self._reader.start()

    def poll(self) -> int | None:
        """Its exit code, when everything that it said has been read; None while it runs."""
        return None if self._reader.is_alive() else self._process.wait()

    def why(self) -> str:
        """What it said of its failure, on one line."""
        said = [line for line in self._said if line.startswith(("walkeeper: ", "HINT: "))] or list(self._said)[-2:]
        text = " ".join(line.removeprefix("walkeeper: ") for line in said) or "it said nothing"
        code = self._process.returncode or 0
        return text if code >= 0 else f"it was ended by signal {-code}; the last that it said: {text}"

    def stop(self) -> None:
        """As ^C would, and SIGKILL if that does not help within seconds."""
        self._process.send_signal(SIGINT)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self) -> None:
        assert self._process.stderr is not None  # noqa: S101 - it is a pipe
        with self._process.stderr as lines:
            for line in lines:
                self._said.append(line.strip()[:1000])
                if found := _PROGRESS.search(line):
                    self.come, self.of = int(found[1]), int(found[2])
                else:
                    events.info(f"{self._name}_says", text=self._said[-1])
