"""Who asked for a file, and whether it still waits: a server that was killed may be back, and want another one under that name.

PostgreSQL's process leads a session of its own, to which whatever it runs belongs, however many shells lie between. Light: it is
imported by what PostgreSQL starts for each file.
"""

from __future__ import annotations

import os


class Asker:
    """Made when the work begins."""

    def __init__(self) -> None:
        self._parent = os.getppid()
        self._session = os.getsid(0)
        self._led = _runs(self._session)
        """False where nobody leads it: a daemon's, whose first process has ended."""

    @property
    def gone(self) -> bool:
        return os.getppid() != self._parent or (self._led and not _runs(self._session))


def _runs(pid: int) -> bool:
    """As the number of a session that has members, it is not given to another process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] not in (b"Z", b"X")
    except OSError:
        return False
