"""WAL of a PostgreSQL that is newer than this walkeeper: it is archived like any other, and the log says once what that means."""

from __future__ import annotations

import threading
from typing import Final

from walkeeper.core.names import Segment
from walkeeper.core.wal_page import MAGIC, SegmentHeader
from walkeeper.lib import events

_HINT: Final = (
    "It is archived and restored byte for byte. Not vouched for: what is read in WAL records (a tail that is compared with a "
    "standby's own copy, a segment that restore-wal made of a tail) and in pg_control (which timelines a server can follow); "
    "where that cannot be read, the server's own copy stays, and PostgreSQL decides. Look for a newer walkeeper."
)
_told: Final[set[int]] = set()
_lock: Final = threading.Lock()


def tell(header: SegmentHeader, segment: Segment) -> None:
    """One warning for each magic in the life of this process. Nothing for what is known."""
    if header.postgres_major is not None:
        return
    with _lock:
        if header.magic in _told:
            return
        _told.add(header.magic)
    known = f"{min(MAGIC.values())} to {max(MAGIC.values())}"
    events.warning("postgresql_not_known", magic=f"{header.magic:04X}", known=known, file=segment, hint=_HINT)
