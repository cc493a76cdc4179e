"""The live status as lines of styled words, in 80 columns. Pure: what was seen at two or more moments becomes what moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from walkeeper.core.lsn import Lsn
from walkeeper.lib.terminal import size, wrapped
from walkeeper.status.text import gaps_in_words

WIDTH: Final = 80
WINDOW: Final = 10.0
"""Seconds over which a rate is told."""
BARS: Final = "▁▂▃▄▅▆▇█"

Style: TypeAlias = str
"""Of rich: "" is plain."""
Line: TypeAlias = list[tuple[str, Style]]

_VERDICT: Final = (("All well.", "green"), ("Something needs a look.", "red"), ("Not everything is known.", "yellow"))


@dataclass(frozen=True, slots=True)
class Sample:
    """One look: ``at`` is monotonic, in seconds; ``status`` as ``walkeeper status --json`` prints it."""

    at: float
    status: dict[str, Any]


def lines(samples: Sequence[Sample], *, stamp: str, age: float, bars: bool) -> list[Line]:
    """The screen. ``stamp`` is the wall clock, ``age`` how old the newest sample is; oldest sample first, at least one."""
    status = samples[-1].status
    found = [
        _title(status, stamp, age),
        [],
        *_words("Archive", _archive(status)),
        *_words("Frontier", _frontier(samples)),
        *_words("WAL", _wal(samples)),
        *_words("Uploads", _uploads(samples)),
        *_words("Gaps", gaps_in_words(status["gaps"])),
        *([_bars(samples)] if bars and len(samples) > 2 else []),
        [],
        *_table(status),
        [],
        *(line for text in status["attention"] for line in _words("Look at", text, "red")),
        *(line for text in status["unknown"] for line in _words("Unknown", text, "yellow")),
        *_last_error(status["agent"]),
        [_VERDICT[status["exit_code"]]],
    ]
    return [[(_plain(text), style) for text, style in line] for line in found]


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
        leader = _leader(status)
        return None if leader is None or leader["lsn"] is None else int(Lsn.parse(leader["lsn"]))
    own = (status["agent"] or {}).get("agent", {})
    return own.get("uploaded_bytes") if own.get("archiving") else None


def _leader(status: dict[str, Any]) -> dict[str, Any] | None:
    return next((row for row in status["members"] if row["name"] == status["leader"]), None)


def _title(status: dict[str, Any], stamp: str, age: float) -> Line:
    late = f", seen {age:.0f} s ago" if age >= 3 else ""
    paused = ", Patroni is paused" if status["paused"] else ""
    return [(f"{status['scope']}", "bold"), (f"  {stamp}{late}{paused}", "yellow" if late or paused else "")]


def _archive(status: dict[str, Any]) -> str:
    begins = f", from {status['record']['start']} on" if status["record"] is not None else ""
    return f"{status['store'] or 'unknown'}{begins}"


def _frontier(samples: Sequence[Sample]) -> str:
    record = samples[-1].status["record"]
    if record is None:
        return "unknown"
    age = record["age_seconds"]
    ago = "" if age is None else f" {age:.0f} s ago"
    return (
        f"{record['frontier']} on timeline {record['timeline']}{_speed(samples, 'frontier')}, by {record['owner']}{ago}"
    )


def _wal(samples: Sequence[Sample]) -> str:
    leader = _leader(samples[-1].status)
    if leader is None or leader["lsn"] is None:
        return "unknown"
    lag, late = leader["lag_bytes"], leader["lag_seconds_at_most"]
    waits = "" if lag is None else f"; {size(lag)} not archived" + (f", for {late:.0f} s" if late else "")
    return f"{leader['lsn']} on {leader['name']}{_speed(samples, 'wal')}{waits}"


def _speed(samples: Sequence[Sample], what: str) -> str:
    found = rate(samples, what)
    return "" if found is None else f", {'+' if found else ''}{size(int(found))}/s"


def _uploads(samples: Sequence[Sample]) -> str:
    agent = samples[-1].status["agent"]
    if agent is None:
        return "unknown: no answer of this node's agent"
    own = agent["agent"]
    spool = f"spool {'?' if own['spool_bytes'] is None else size(own['spool_bytes'])} of {size(own['spool_limit'])}"
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
    leaders = [_leader(sample.status) for sample in samples]
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


def _table(status: dict[str, Any]) -> list[Line]:
    rows: list[tuple[str, ...]] = [("MEMBER", "ROLE", "TL", "WAL UP TO", "NOT ARCHIVED", "HOLD SLOT", "SAFE")]
    rows += [_row(row, status["leader"]) for row in status["members"]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for column, least in ((0, 8), (1, 7)):  # what can be cut without being misread
        excess = sum(widths) + 2 * (len(widths) - 1) - WIDTH
        widths[column] = min(widths[column], max(least, widths[column] - max(0, excess)))
    return [_styled(row, widths) for row in rows]


def _row(row: dict[str, Any], leader: str | None) -> tuple[str, ...]:
    role = "leader" if row["name"] == leader else row["role"]
    state = "" if row["state"] in ("running", "streaming") else f", {row['state']}"
    return (
        row["name"],
        f"{role}{state}",
        str(row["timeline"] or "?"),
        row["lsn"] or "?",
        "?" if row["lag_bytes"] is None else size(row["lag_bytes"]),
        row["hold_slot"] or ("?" if row["lsn"] is None else "none"),
        {True: "yes", False: "NO", None: "?"}[row["gap_safe"]],
    )


def _styled(row: tuple[str, ...], widths: Sequence[int]) -> Line:
    cells = [
        (cell if len(cell) <= width else cell[: width - 1] + "…").ljust(width)
        for cell, width in zip(row, widths, strict=True)
    ]
    head = row[0] == "MEMBER"
    safe = "" if head else {"yes": "green", "NO": "red"}.get(row[-1], "yellow")
    return [("  ".join(cells[:-1]) + "  ", "bold" if head else ""), (cells[-1], "bold" if head else safe)]


def _last_error(agent: dict[str, Any] | None) -> list[Line]:
    last = (agent or {}).get("last_error")
    if agent is None or last is None or agent["troubles"]:
        return []
    return _words("Last", f"error of this agent, at {last['since']}, is over: {last['text']}")


def _words(word: str, text: str, style: Style = "") -> list[Line]:
    return [
        [(line[:10], "bold" if index == 0 else ""), (line[10:], style)]
        for index, line in enumerate(wrapped(word, text, WIDTH))
    ]


def _plain(text: str) -> str:
    """Names and texts come from other machines."""
    return "".join(c if c.isprintable() else "?" for c in text)
