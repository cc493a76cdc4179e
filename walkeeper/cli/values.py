"""Values on the command line. Each raises ValueError, which argparse words."""

from __future__ import annotations


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(text)
    return int(text)
