"""The live status as lines of styled words, in 80 columns. Pure: what was seen at two or more moments becomes what moves."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from walkeeper.core.amounts import counted, size, to_the_second
from walkeeper.core.amounts import rate as per_second
from walkeeper.core.lsn import Lsn
from walkeeper.lib.terminal import printable, wrapped
from walkeeper.status import rows
from walkeeper.status.text import HINT

WIDTH: Final = 80
WINDOW: Final = 10.0
"""Seconds over which a rate is told."""
BARS: Final = "▁▂▃▄▅▆▇█"

Style: TypeAlias = str
"""Of rich: "" is plain."""
Line: TypeAlias = list[tuple[str, Style]]

_COLOURS: Final = ("green", "red", "yellow")
"""By exit code."""
_SHADES: Final = {"Look at": "red", "Unknown": "yellow"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One look: ``at`` is monotonic, in seconds; ``status`` as ``walkeeper status --json`` prints it."""

    at: float
    status: dict[str, Any]


def lines(samples: Sequence[Sample], *, stamp: str, age: float, bars: bool) -> list[Line]:
    """The screen. ``stamp`` is the wall clock, ``age`` how old the newest sample is; oldest sample first, at least one."""
    status = samples[-1].status
    moving = {"speed": _speed(samples, "frontier"), "wal_speed": _speed(samples, "wal"), "uploads": _uploads(samples)}
    found = [
        _title(status, stamp, age),
        [(rows.VERDICTS[status["exit_code"]], _COLOURS[status["exit_code"]])],
        [],
        *_words("Archive", rows.archive(status)),
        *(line for row in rows.summary(status, **moving) for line in _words(*row)),
        *([_bars(samples)] if bars and len(samples) > 2 else []),
        [],
        *(_styled(cells) for cells in rows.table(status, rows.NARROW, WIDTH)),
        *([[], *remarks] if (remarks := _remarks(status)) else []),
    ]
    return [[(printable(text), style) for text, style in line] for line in found]


def cut(found: Sequence[Line], width: int, height: int) -> list[Line]:
    """What a terminal of that size shows, and how much it does not: a screen does not scroll."""
    rooms = [max(1, len(textwrap.wrap("".join(text for text, _ in line), width))) for line in found]
    if sum(rooms) <= height:
        return [*found]
    fit = next(at for at in range(len(found), -1, -1) if sum(rooms[:at]) < height)
    return [*found[:fit], [(f"… {counted(len(found) - fit, 'more line')}: enlarge the window", "yellow")]]


def plain(found: Sequence[Line]) -> str:
    """Without colour and without control characters."""
    return "\n".join("".join(text for text, _ in line).rstrip() for line in found)


def rate(samples: Sequence[Sample], what: str) -> float | None:
    """Bytes per second over the last seconds; None where it was not seen twice, or went back.

    ``what``: ``frontier``, ``wal`` (the leader's), or ``packed`` (stored by this node's agent).
    """
    last = samples[-1]
    value = _value(last.status, what)
    for sample in samples:
        before = _value(sample.status, what)
        if last.at - sample.at <= WINDOW and sample is not last and before is not None and value is not None:
            return (value - before) / (last.at - sample.at) if value >= before else None
    return None


def _value(status: dict[str, Any], what: str) -> int | None:
    if what == "frontier":
        return None if status["record"] is None else int(Lsn.parse(status["record"]["frontier"]))
    if what == "wal":
        leader = rows.leader(status)
        return None if leader is None or leader["lsn"] is None else int(Lsn.parse(leader["lsn"]))
    own = (status["agent"] or {}).get("agent", {})
    return own.get("uploaded_bytes") if own.get("archiving") else None


def _title(status: dict[str, Any], stamp: str, age: float) -> Line:
    late = f", seen {age:.0f} s ago" if age >= 3 else ""
    paused = ", Patroni is paused" if status["paused"] else ""
    return [
        (f"{status['scope']}", "bold"),
        (f"  {to_the_second(stamp)}{late}{paused}", "yellow" if late or paused else ""),
    ]


def _speed(samples: Sequence[Sample], what: str) -> str:
    found = rate(samples, what)
    return "" if found is None else f", {'+' if found else ''}{per_second(found)}"


def _uploads(samples: Sequence[Sample]) -> str:
    agent = samples[-1].status["agent"]
    if agent is None:
        return "unknown: no answer of this node's agent"
    own = agent["agent"]
    spool = rows.spool(own)
    if not own["archiving"]:
        return f"none by {own['name']}, which watches; {spool}"
    flying = own.get("in_flight", [])
    names = f" ({', '.join(flying[:2])}{', …' if len(flying) > 2 else ''})" if flying else ""
    done = f"{own['uploaded_segments']} done, {size(own['uploaded_bytes'])} packed{_speed(samples, 'packed')}"
    return f"{len(flying)} in flight{names}; {done}; {spool}"


def _bars(samples: Sequence[Sample]) -> Line:
    """How fast the frontier moved from look to look, and how much waited, the newest on the right."""
    room = (WIDTH - len("          frontier   waiting ")) // 2
    moved = [rate(samples[: end + 1][-2:], "frontier") or 0.0 for end in range(1, len(samples))][-room:]
    leaders = [rows.leader(sample.status) for sample in samples]
    waits = [float(row["lag_bytes"]) if row and row["lag_bytes"] else 0.0 for row in leaders][-room:]
    record = samples[-1].status["record"]
    segment = float(record["segment_size"]) if record is not None else 0.0
    return [
        ("          frontier ", ""), (_bar(moved), "green"), ("  waiting ", ""), (_bar(waits, segment), "cyan"),
    ]  # fmt: skip


def _bar(values: Sequence[float], least: float = 0.0) -> str:
    """As high as the highest, or as ``least`` if that is more."""
    top = max(least, *values)
    return "".join(BARS[int(value / top * (len(BARS) - 1))] if top else BARS[0] for value in values)


def _styled(cells: Sequence[str]) -> Line:
    head = cells[0].startswith("MEMBER")
    safe = {"yes": "green", "NO": "red", "-": ""}.get(cells[-1].strip(), "yellow")
    return [("  ".join(cells[:-1]) + "  ", "bold" if head else ""), (cells[-1], "bold" if head else safe)]


def _remarks(status: dict[str, Any]) -> list[Line]:
    found = []
    for word, text, hint in rows.remarks(status):
        found += _words(word, text, _SHADES.get(word, ""))
        found += _words("", HINT + hint) if hint else []
    return found


def _words(word: str, text: str, style: Style = "") -> list[Line]:
    return [
        [(line[:10], "bold" if index == 0 else ""), (line[10:], style)]
        for index, line in enumerate(wrapped(word, text, WIDTH))
    ]
