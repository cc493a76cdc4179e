"""A real browser, headless: Debian's package ``chromium``, or Google's Chrome."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
_QUIET: Final = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--disable-extensions", "--hide-scrollbars",
    "--enable-logging=stderr",
)  # fmt: skip


def find_chromium() -> str | None:
    return next(filter(None, map(shutil.which, _NAMES)), None)


@dataclass
class Chromium:
    """Each call is a browser of its own, with a profile that it leaves nothing of."""

    program: str

    def text(self, url: str, seconds: float, *options: str) -> tuple[str, list[str]]:
        """The document as it stands after that many seconds of the page's own time, and what its console complained of."""
        budget = f"--virtual-time-budget={int(seconds * 1000)}"
        found, said = self._run(budget, "--dump-dom", *options, url)
        return found, [line for line in said.splitlines() if "CONSOLE" in line]

    def screenshot(self, url: str, target: Path, width: int, height: int, *options: str) -> None:
        self._run(f"--window-size={width},{height}", f"--screenshot={target}", *options, url)

    def _run(self, *arguments: str) -> tuple[str, str]:
        with tempfile.TemporaryDirectory() as profile:
            done = subprocess.run(
                [self.program, *_QUIET, f"--user-data-dir={profile}", *arguments],
                env={"HOME": profile, "PATH": "/usr/bin:/bin", "TMPDIR": profile, "LANG": "C.UTF-8"},
                capture_output=True, text=True, timeout=120, check=True,
            )  # fmt: skip
        return done.stdout, done.stderr
