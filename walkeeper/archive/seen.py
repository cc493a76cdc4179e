"""Where this host has seen the archive of its cluster: a file beside the spool, which outlives the whole DCS.

A store that is empty where there was an archive is no new one: its disk is not mounted, or somebody emptied it (promise P13).
"""

from __future__ import annotations

from pathlib import Path

from walkeeper.archive.open import Archives
from walkeeper.lib import durable
from walkeeper.lib.trust import UnusableSecret, Us, read_secret


class Seen:
    """``directory``: the spool's."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "archive-seen"

    def place(self) -> str:
        """Of the last one; "" where none was seen, or others could have written that."""
        try:
            return read_secret(self.path, Us.here())[0]
        except UnusableSecret:
            return ""

    def keep(self, place: str) -> None:
        """Raises OSError."""
        durable.keep(self.path, f"{place}\n".encode())


def place_of(archives: Archives, system_identifier: int) -> str:
    """Of that cluster's archive in the store that is configured now."""
    return f"{archives.store.url}/{archives.layout(system_identifier).root}"
