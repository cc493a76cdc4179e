"""``postmaster.pid`` (``src/include/utils/pidfile.h``): which run of a server there is in a data directory, and its state.

The one reader of it, and light, because restore-wal's client asks: built-in modules only. The shell scripts read it by the
same rule, and ``tests/postgres/test_postmaster_pid.py`` holds them to it.

A server that crashed leaves the file behind, and the number in it may be another process's by now. A postmaster's working
directory is its data directory: that tells them apart.
"""

# ruff: noqa: PTH116 - pathlib costs more than all that this module does

from __future__ import annotations

import os

_PID = 0
_STARTED = 2
_SOCKETS = 4
_STATUS = 7
_LONGEST = 20
"""Digits of a number."""


def running(data_directory: str) -> tuple[int, str, str] | None:
    """Its pid, the second of its start and its state, as it wrote them; None while no server runs there.

    No two runs share pid and start. The state is empty before there is one.
    """
    lines = _lines(data_directory)
    if not lines or not _works_in(lines[_PID], data_directory):
        return None
    return int(lines[_PID]), lines[_STARTED], lines[_STATUS] if len(lines) > _STATUS else ""


def last_run(data_directory: str) -> str:
    """Pid and second of the start of the server that began last there, whether it still runs or crashed; "" after a clean end.

    A postmaster writes them before it recovers, so before anybody can connect. No two runs share both.
    """
    lines = _lines(data_directory)
    return f"{lines[_PID]}-{lines[_STARTED]}" if lines else ""


def socket_directory(data_directory: str) -> str:
    """The first directory in which the server there has its Unix socket; "" where none runs, or it has none.

    A process that /proc does not show may be a server in another container, or another user's: the file is believed.
    """
    lines = _lines(data_directory)
    known = len(lines) > _SOCKETS + 1 and _works_in(lines[_PID], data_directory) is not False
    return lines[_SOCKETS] if known else ""


def _lines(data_directory: str) -> list[str]:
    """Empty where the third is not ended yet, or for a server in single-user mode, whose number is negative."""
    try:
        with open(f"{data_directory}/postmaster.pid", "rb") as file:
            lines = [line.strip() for line in file.read(8192).decode("utf-8", "replace").split("\n")]
    except OSError:
        return []
    whole = len(lines) > _STARTED + 1 and _is_number(lines[_PID]) and _is_number(lines[_STARTED])
    return lines if whole else []


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _LONGEST


def _works_in(pid: str, data_directory: str) -> bool | None:
    """None where that cannot be seen."""
    try:
        return os.path.samestat(os.stat(f"/proc/{pid}/cwd"), os.stat(data_directory))
    except OSError:
        return None
