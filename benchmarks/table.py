"""Tables for people: Markdown, with columns that line up."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

NONE = "-"


def show(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print one table."""
    lines = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    print(f"\n{title}\n")
    for number, line in enumerate(lines):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")
        if number == 0:
            print("| " + " | ".join("-" * width for width in widths) + " |")
    print(flush=True)


def median_and_worst(values: Iterable[float | None], digits: int = 2) -> str:
    """``0.41 (0.93)``; what is not known is left out."""
    known = [value for value in values if value is not None]
    if not known:
        return NONE
    return f"{statistics.median(known):.{digits}f} ({max(known):.{digits}f})"


def lowest_to_highest(values: Sequence[int]) -> str:
    """``0``, or ``1–11``."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def median(values: Iterable[float], digits: int = 0) -> str:
    return f"{statistics.median(values):,.{digits}f}"
