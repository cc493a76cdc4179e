"""Each version of Patroni in an environment of its own, with what walkeeper needs; walkeeper itself is this checkout."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

from tests.parts.binaries import cache_folder
from tests.parts.processes import CHECKOUT


def patroni_python(version: str) -> Path:
    """Its Python, with the newest Patroni of that version; made or brought up to date with pip."""
    place = cache_folder() / f"patroni-{version}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / f"{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        python = place / "bin" / "python"
        _run(sys.executable, "-m", "venv", place)
        wanted = f"patroni[etcd3]=={version}.*"
        _run(python, "-m", "pip", "install", "--quiet", "--upgrade", "--editable", CHECKOUT, wanted)
    return python


def _run(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
