"""What somebody may have meant."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, among: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """Those that look most like it, the nearest first; ``cutoff`` is how much, from 0 to 1 for the same."""
    import difflib  # noqa: PLC0415 - for who mistypes: a running agent needs none of it

    return difflib.get_close_matches(word, list(among), count, cutoff)
