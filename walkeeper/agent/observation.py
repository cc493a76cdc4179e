"""What the observer saw of the local server last, for the archiver's threads."""

from __future__ import annotations

from dataclasses import dataclass

from walkeeper.core.lsn import Lsn


@dataclass(slots=True)
class Observed:
    """Written by the observer, read by others. ``lsn`` is how far the server's WAL is flushed."""

    server_up: bool
    lsn: Lsn
