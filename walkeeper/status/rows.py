"""What both screens of status show, in words: lines under a word at the margin, and the table of members. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from walkeeper.core import commit_words, job_words
from walkeeper.core.amounts import duration, size

WIDE: Final = ("MEMBER", "ROLE", "STATE", "TL", "WAL UP TO", "BEHIND", "NOT ARCHIVED", "HOLD SLOT", "GAP-SAFE")
NARROW: Final = ("MEMBER", "ROLE", "TL", "WAL UP TO", "BEHIND", "WAITS", "HOLD SLOT", "SAFE")
VERDICTS: Final = ("All well.", "Something needs a look.", "Not everything is known.")
"""By exit code."""
SOME_TIME: Final = 30 * 24 * 3600.0
"""Seconds beyond which it is not said when a disk is full."""
LAST_ERROR: Final = 3600.0
"""Seconds after which an error that is over is no longer shown."""
_CUT: Final = {"MEMBER": 8, "ROLE": 7}
"""Columns that can be cut without being misread, and down to which width."""
_USUAL: Final = ("running", "streaming")


def summary(
    status: dict[str, Any], speed: str = "", wal_speed: str = "", uploads: str = ""
) -> Iterator[tuple[str, str]]:
    """Word and text of each line, in order; what has no text is not shown."""
    yield "Frontier", frontier(status, speed)
    yield "WAL", wal(status, wal_speed)
    yield "Uploads", uploads
    yield "Commits", durability(status)
    yield "Restore", commit(status)
    yield "Gaps", gaps(status)
    yield "Missing", missing(status)
    yield from ((("" if number else "Backups"), each) for number, each in enumerate(backups(status)))
    yield from (("Store", each) for each in stores(status))
    yield "Disks", disks(status)


def archive(status: dict[str, Any]) -> str:
    begins = f", from {status['record']['start']} on" if status["record"] is not None else ""
    name = f"{status['store_name']}, " if status["stores"] else ""
    return f"{name}{status['store'] or 'unknown'}{begins}"


def frontier(status: dict[str, Any], speed: str = "") -> str:
    record = status["record"]
    if record is None:
        return "unknown"
    moved = record["moved_seconds_ago"]
    ago = "" if moved is None else f" {duration(moved)} ago"
    by = record["owner"] or "verify --rebuild"
    return f"{record['frontier']} on timeline {record['timeline']}{speed}, moved by {by}{ago}"


def wal(status: dict[str, Any], speed: str = "") -> str:
    row = leader(status)
    if row is None or row["lsn"] is None:
        return "unknown"
    waits = "" if row["lag_bytes"] is None else f"; {_waits(row)} not archived"
    late = row["lag_seconds_at_most"]
    return f"{row['lsn']} on {row['name']}{speed}{waits}" + (f", for at most {duration(late)}" if late else "")


def durability(status: dict[str, Any]) -> str:
    """What they wait for, where that is the store; as this node's agent says, where it archives."""
    record, told = status["record"], (status["agent"] or {}).get("durability") or {}
    if told.get("state") is not None:
        return f"{commit_words.now(told)}; {commit_words.more(told)}"
    if (record or {}).get("durability") != "store":
        return ""
    waiting = ((leader(status) or {}).get("commits") or {}).get("waiting")
    number = "" if waiting is None else f"; {waiting} wait now"
    return f"return when the store has them{number}; walkeeper status on {record['owner'] or 'the leader'} says how they fare"


def gaps(status: dict[str, Any]) -> str:
    """How many, and how many of them people have accepted."""
    found = status["gaps"]
    if not found:
        return "unknown" if found is None else "none"
    accepted = sum(gap["accepted"] for gap in found)
    return f"{len(found)}, {'all' if accepted == len(found) else accepted} accepted" if accepted else str(len(found))


def backups(status: dict[str, Any]) -> list[str]:
    """Walkeeper's own base backups, and what they restore; no line where there are none."""
    found, jobs = status.get("backups"), _jobs(status.get("agent") or {})
    if found is None:
        return jobs
    others = [f"{found[word]} {word}" for word in ("damaged", "incomplete") if found[word]]
    if found["attempts"]:
        others.append("1 attempt" if found["attempts"] == 1 else f"{found['attempts']} attempts")
    window = found["window"]
    lines = ["; ".join([job_words.backups(found), *others])]
    if window is not None:
        far = f", {duration(window['seconds'])} back" if window["seconds"] is not None else ""
        lines.append(f"{window['start_lsn']} to {window['end_lsn']} can be restored{far}")
        proved = found["proved"]
        ago = "never" if proved is None else f"{duration(proved['age_seconds'])} ago"
        lines.append(f"last proved by a real restore: {ago}")
    return lines + jobs


def _jobs(agent: dict[str, Any]) -> list[str]:
    """Those that the cluster does by itself, as this node's agent knows them."""
    lines = []
    for word, name in (("backup", "scheduled backup"), ("proof", "scheduled proof")):
        job, schedule = agent.get(f"{word}_job"), agent.get(f"{word}_schedule")
        if schedule is not None:
            said = filter(None, (job_words.now(job, schedule), job_words.last(job)))
            lines.append(f"{name} ({schedule['schedule']}): {'; '.join(said)}")
    return lines


def commit(status: dict[str, Any]) -> str:
    """Which times ``recovery_target_time`` may name, "" where that is not known; ``walkeeper verify`` says where they begin."""
    last, gaps = (status["agent"] or {}).get("last_commit"), status["gaps"]
    if last is None:
        return ""
    return " ".join(job_words.until(status.get("backups"), last, None if gaps is None else len(gaps)))


def stores(status: dict[str, Any]) -> list[str]:
    """The others, where there are several."""
    return [_store(each) for each in status["stores"]]


def _store(store: dict[str, Any]) -> str:
    waits, late = ("?" if store["lag_bytes"] is None else size(store["lag_bytes"])), store["lag_seconds_at_most"]
    parts = [
        f"frontier {frontier(store)}",
        f"{waits} not archived" + (f", for at most {duration(late)}" if late else ""),
        f"gaps: {gaps(store)}",
        *(f"backups: {each}" for each in backups(store)[:1]),
        *([f"missing: {lacks}"] if (lacks := missing(store)) else []),
    ]
    return f"{store['name']}, {store['url'] or 'unknown'}: {'; '.join(parts)}"


def disks(status: dict[str, Any]) -> str:
    """Of pg_wal on each member, as its agent says; "" where none does."""
    return "; ".join(f"{row['name']} {disk(row['disk'])}" for row in status["members"] if row.get("disk"))


def disk(found: dict[str, Any]) -> str:
    """Free bytes, and how long they last where they shrink."""
    left = found["seconds_left"]
    lasts = f", full in {duration(left)}" if left is not None and left < SOME_TIME else ""
    return f"{size(found['free'])} of {size(found['total'])} free{lasts}"


def leader(status: dict[str, Any]) -> dict[str, Any] | None:
    return next((row for row in status["members"] if row["name"] == status["leader"]), None)


def missing(status: dict[str, Any]) -> str:
    """What is suspected lost, as the record has it: a gap, if nobody brings it."""
    found = (status["record"] or {}).get("suspected") or []
    return ", ".join(f"{each['start']} to {each['end']} of timeline {each['timeline']}" for each in found)


def spool(agent: dict[str, Any]) -> str:
    used = "?" if agent["spool_bytes"] is None else size(agent["spool_bytes"])
    return f"spool {used} of {size(agent['spool_limit'])}"


def remarks(status: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Word, text and hint of what a person should look at, of what is not known, and of an error that is over.

    A hint that came already is not repeated.
    """
    said: set[str] = set()
    for word, found in (("Look at", status["attention"]), ("Unknown", status["unknown"])):
        for each in found:
            yield word, each["text"], "" if each["hint"] in said else each["hint"]
            said.add(each["hint"])
    agent = status["agent"]
    last = (agent or {}).get("last_error")
    over = (last or {}).get("over_seconds_ago")
    if agent is not None and last is not None and over is not None and over <= LAST_ERROR and not agent["troubles"]:
        yield "Last", f"error of this node's agent, over for {duration(over)}: {last['text']}", ""


def table(status: dict[str, Any], columns: Sequence[str], width: int) -> list[list[str]]:
    """Cells of one length in each column, the head first."""
    rows = [list(columns)]
    for member in status["members"]:
        cells = _cells(member, status["leader"], with_state="STATE" not in columns)
        rows.append([cells[column] for column in columns])
    widths = [max(len(row[at]) for row in rows) for at in range(len(columns))]
    for at, column in enumerate(columns):
        excess = sum(widths) + 2 * (len(widths) - 1) - width
        if column in _CUT:
            widths[at] = min(widths[at], max(_CUT[column], widths[at] - max(0, excess)))
    return [[_fit(cell, wide) for cell, wide in zip(row, widths, strict=True)] for row in rows]


def _fit(cell: str, width: int) -> str:
    return (cell if len(cell) <= width else cell[: width - 1] + "…").ljust(width)


def _cells(row: dict[str, Any], leads: str | None, *, with_state: bool) -> dict[str, str]:
    role = "leader" if row["name"] == leads else row["role"]
    state = f", {row['state']}" if with_state and row["state"] not in _USUAL else ""
    safe = (
        "-" if row["gap_safe"] is None and not row["held"] else {True: "yes", False: "NO", None: "?"}[row["gap_safe"]]
    )
    late = row["lag_seconds_at_most"]
    return {
        "MEMBER": row["name"],
        "ROLE": f"{role}{state}",
        "STATE": row["state"],
        "TL": str(row["timeline"] or "?"),
        "WAL UP TO": row["lsn"] or "?",
        "BEHIND": "" if row["name"] == leads else "?" if row["behind_bytes"] is None else size(row["behind_bytes"]),
        "NOT ARCHIVED": _waits(row) + (f", {duration(late)}" if late else ""),
        "WAITS": _waits(row),
        "HOLD SLOT": row["hold_slot"] or ("?" if row["lsn"] is None else "none"),
        "GAP-SAFE": safe,
        "SAFE": safe,
    }


def _waits(row: dict[str, Any]) -> str:
    return "?" if row["lag_bytes"] is None else size(row["lag_bytes"])
