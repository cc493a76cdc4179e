"""Values on the command line. Each raises ValueError, which argparse words."""

from __future__ import annotations

TYPE_CHECKING = False  # as in main
if TYPE_CHECKING:
    import argparse


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(text)
    return int(text)


def add_store(command: argparse.ArgumentParser, meant: str, default: str | None = None) -> None:
    """``--store``, which ``main`` looks at where it loads the configuration. ``meant``: without it."""
    text = f"of several stores, that one (default: {meant})"
    command.add_argument("--store", metavar="NAME", default=default, help=text)
