"""The status as people read it, in at most 100 columns where names allow."""

from __future__ import annotations

from typing import Any, Final

from walkeeper.lib.terminal import size, wrapped

_VERDICT: Final = ("All well.", "Something needs a look.", "Not everything is known.")
"""By exit code."""
_SHOWN: Final = {"name", "pid", "version", "archiving", "timeline", "spool_bytes", "spool_limit"}


def render(status: dict[str, Any]) -> str:
    """Without colour. Names and texts come from other machines: what cannot be printed is shown as a question mark."""
    lines = [
        *_head(status),
        "",
        *_table(status["members"], status["leader"]),
        "",
        *_agent(status["agent"]),
        *(line for text in status["attention"] for line in wrapped("Look at", text)),
        *(line for text in status["unknown"] for line in wrapped("Unknown", text)),
        _VERDICT[status["exit_code"]],
    ]
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)


def understands(report: dict[str, Any]) -> bool:
    """Whether an agent's report has what is shown of it: it may be of another version."""
    agent, troubles = report.get("agent"), report.get("troubles")
    return isinstance(agent, dict) and agent.keys() >= _SHOWN and isinstance(troubles, list)


def _head(status: dict[str, Any]) -> list[str]:
    record, gaps = status["record"], status["gaps"]
    lines = [f"Cluster   {status['scope']}{', Patroni is paused' if status['paused'] else ''}"]
    begins = f", from {record['start']} on" if record is not None else ""
    lines.append(f"Archive   {status['store'] or 'unknown'}{begins}")
    if record is None:
        lines.append("Frontier  unknown")
    else:
        moved = f"moved by {record['owner'] or 'verify --rebuild'}{_ago(record['age_seconds'])}"
        lines.append(f"Frontier  {record['frontier']} on timeline {record['timeline']}, {moved}")
    lines.append(f"Gaps      {gaps_in_words(gaps)}")
    lines += [
        f"Missing   {lost['start']} to {lost['end']} of timeline {lost['timeline']}: looked for, perhaps lost"
        for lost in (record["suspected"] if record is not None else ())
    ]
    return lines


def gaps_in_words(gaps: list[dict[str, Any]] | None) -> str:
    """How many, and how many of them people have accepted."""
    if not gaps:
        return "unknown" if gaps is None else "none"
    accepted = sum(gap["accepted"] for gap in gaps)
    return f"{len(gaps)}, {'all' if accepted == len(gaps) else accepted} accepted" if accepted else str(len(gaps))


def _table(members: list[dict[str, Any]], leader: str | None) -> list[str]:
    rows = [("MEMBER", "ROLE", "STATE", "TL", "WAL UP TO", "NOT ARCHIVED", "HOLD SLOT", "GAP-SAFE")]
    for row in members:
        lag = "?" if row["lag_bytes"] is None else size(row["lag_bytes"]) + _at_most(row["lag_seconds_at_most"])
        rows.append(
            (
                row["name"],
                "leader" if row["name"] == leader else row["role"],
                row["state"],
                str(row["timeline"] or "?"),
                row["lsn"] or "?",
                lag,
                row["hold_slot"] or ("?" if row["lsn"] is None else "none"),
                {True: "yes", False: "NO", None: "?"}[row["gap_safe"]],
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _agent(agent: dict[str, Any] | None) -> list[str]:
    if agent is None:
        return ["Agent     no answer on this node"]
    own = agent["agent"]
    doing = f"archives timeline {own['timeline']}" if own["archiving"] else "watches"
    used = "?" if own["spool_bytes"] is None else size(own["spool_bytes"])
    spool = f"spool {used} of {size(own['spool_limit'])}"
    if own.get("archiver") == "command":
        spool = "takes WAL from pg_wal"
    lines = [f"Agent     {own['name']}, pid {own['pid']}, walkeeper {own['version']}: {doing}; {spool}"]
    command = agent.get("archive_command")
    if command is not None and command["archive_mode"] != "off":
        calls = f"{command['archived_count']} files handed over, {command['failed_count']} failed calls"
        lines += [f"          archive_command: {calls}"]
    last = agent.get("last_error")
    if last is not None and not agent["troubles"]:
        lines += wrapped("", f"its last error, at {last['since']}, is over: {last['text']}")
    return lines


def _at_most(seconds: float | None) -> str:
    return "" if not seconds else f", {seconds:.0f} s"


def _ago(seconds: float | None) -> str:
    return "" if seconds is None else f" {seconds:.0f} s ago"
