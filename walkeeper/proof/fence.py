"""The restored server of a proof stays in the proof's directory, whatever tablespaces its WAL makes.

``CREATE TABLESPACE`` is replayed with its absolute path, which may be a live server's. The server gets there through a link in
pg_tblspc and in no other way, and it makes that before it writes a file there. So it may make none
(``create_tablespace_directories`` in ``tablespace.c``, which gives the place mode 0700 and an empty ``PG_…`` before).
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def shut(data: Path) -> None:
    """After the backup's own links are there: PostgreSQL would make those again, too, by tablespace_map."""
    (data / "tablespace_map").unlink(missing_ok=True)
    (data / "pg_tblspc").chmod(0o500)


def lift(data: Path) -> None:
    """So that it can be looked at and removed. A tablespace that was dropped meanwhile has left its link, which is removed."""
    with suppress(FileNotFoundError):
        (data / "pg_tblspc").chmod(0o700)
        for link in (data / "pg_tblspc").iterdir():
            if link.is_symlink() and not any(os.scandir(link)):
                link.unlink()
