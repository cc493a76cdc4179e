"""``postmaster.pid`` of a data directory (``src/include/utils/pidfile.h``): which run of a server it is, and its state."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_PID: Final = 0
_STARTED: Final = 2
_STATUS: Final = 7


def run_of(data_directory: Path) -> str | None:
    """The server's pid and the second of its start, ``PID-SECONDS``: no two runs share both. None while none runs."""
    lines = _lines(data_directory)
    if len(lines) <= _STARTED or not lines[_PID].isdecimal() or not lines[_STARTED].isdecimal():
        return None
    return f"{lines[_PID]}-{lines[_STARTED]}"


def is_starting(data_directory: Path) -> bool:
    """Whether nobody can connect yet: it has not got to a consistent state."""
    return _status(data_directory) == "starting"


def is_out_of_recovery(data_directory: Path) -> bool:
    """Whether it runs as a primary, and was not told to stop."""
    return _status(data_directory) == "ready"


def is_stopping(data_directory: Path) -> bool:
    """Whether the server was told to stop; it then waits for its archive_command."""
    return _status(data_directory) == "stopping"


def _status(data_directory: Path) -> str:
    lines = _lines(data_directory)
    return lines[_STATUS].strip() if len(lines) > _STATUS else ""


def _lines(data_directory: Path) -> list[str]:
    try:
        with (data_directory / "postmaster.pid").open("rb") as file:
            return file.read(8192).decode("ascii", "replace").splitlines()
    except OSError:
        return []
