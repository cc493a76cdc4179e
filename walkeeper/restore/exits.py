"""What restore-wal's exits say to PostgreSQL, and which of them stops a recovery.

Light: it is imported by what PostgreSQL starts for each file. ``shell/walkeeper-restore-wal``, which cannot import it, has the
rule of ``cannot_tell`` in two lines of its own; a test compares the two.
"""

# ruff: noqa: PTH110 - pathlib costs more than all that this module does

from __future__ import annotations

import os
import sys

DELIVERED = 0
ABSENT = 1
ASK_AGAIN = 2
"""Any failure up to 125 that is not a death: a standby asks again, pg_rewind fails."""
STOP_RECOVERY = 255
"""In archive recovery every exit up to 125 means that the WAL ends here; this one is FATAL, and nothing is lost."""


def in_archive_recovery(*data_directories: str) -> bool:
    """Whether the server there believes an exit up to 125 to be the end of the WAL. With both signal files it is a standby.

    Without either it is pg_rewind that asks, or a server that is being promoted, and any failure will do.
    """
    if any(map(is_standby, data_directories)):
        return False
    return any(os.path.exists(f"{directory}/recovery.signal") for directory in data_directories)


def is_standby(data_directory: str) -> bool:
    return os.path.exists(f"{data_directory}/standby.signal")


def cannot_tell(*data_directories: str) -> int:
    """The exit that makes the server there wait rather than believe that the WAL ends here."""
    return STOP_RECOVERY if in_archive_recovery(*data_directories) else ASK_AGAIN


def hold() -> None:
    """Last of all: where standard error cannot be written, Python makes 120 of every exit, and that is one up to 125."""
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def will_ask_again(data_directory: str) -> bool:
    """Or has the file anyway, as a server that is being promoted: then nobody must wait long for an answer.

    Not in archive recovery, which would end, and not pg_rewind, whose server is down, whatever it left in postmaster.pid.
    """
    if is_standby(data_directory):
        return True
    from walkeeper.postgres import postmaster_pid  # noqa: PLC0415 - seldom needed

    return not in_archive_recovery(data_directory) and postmaster_pid.running(data_directory) is not None
