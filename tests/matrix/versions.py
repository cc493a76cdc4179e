"""What ``make matrix`` runs on. docs/limits.md shows it, and a test compares the two."""

from __future__ import annotations

from typing import Final

MAJORS: Final = (13, 15, 16, 17, 18, 19)
"""PostgreSQL's. Of 14 no wheel and no suite of Debian has a server."""

TRIED: Final = ("kill -9 under load", "switchover", "tail", "restore", "verify --deep")
"""What a cell does."""

PATRONIS: Final = ("3.2", "3.3", "4.0", "4.1")
"""Of each the newest that pip finds."""

SEGMENTS: Final = (1, 16, 64, 1024)
"""Sizes in MiB."""
