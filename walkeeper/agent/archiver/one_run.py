"""One run of the local server. What its next run writes nobody has compared yet: while it was down, its volume may have gone back
to a snapshot. Then it has a second life, on the same timeline, and nothing of it belongs into the archive.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from walkeeper.archive.write import Archive
from walkeeper.errors import PostgresError
from walkeeper.postgres.postmaster_pid import last_run
from walkeeper.store.guarded import Guarded


class OneRun:
    """The run that there is when this is made, before anything of it is compared. Safe from every thread."""

    def __init__(self, data_directory: Path, ended: Callable[[], None] = lambda: None) -> None:
        """``ended`` is called by whoever notices first."""
        self._data_directory = str(data_directory)
        self._began = last_run(self._data_directory)
        self._ended = ended
        self._over = False

    @property
    def over(self) -> bool:
        """Whether another one has begun. While the server is down none has: what this one wrote is still to be archived."""
        if not self._over and last_run(self._data_directory) not in ("", self._began):
            self._over = True
            self._ended()
        return self._over

    def check(self) -> None:
        """Raises PostgresError once it is over."""
        if self.over:
            raise PostgresError(
                "the local server was started again: what it writes now was not compared with the archive yet",
                hint="The agent compares it, and takes the archive over again automatically.",
            )

    def bound(self, archive: Archive) -> Archive:
        """The same, which takes nothing once this run is over: told after the bytes were read, so they are this run's."""
        return Archive(Guarded(archive.store, self.check), archive.layout, archive.size, archive.codec, far=archive.far)
