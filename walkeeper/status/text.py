"""The status as people read it once, in at most 100 columns where names allow."""

from __future__ import annotations

from typing import Any, Final

from walkeeper.core.amounts import counted
from walkeeper.lib.terminal import WIDTH, at_margin, printable, wrapped
from walkeeper.status import rows

HINT: Final = "HINT: "


def render(status: dict[str, Any]) -> str:
    """Without colour. Names and texts come from other machines: what cannot be printed is shown as a question mark."""
    lines = [
        *wrapped("Cluster", f"{status['scope']}{', Patroni is paused' if status['paused'] else ''}"),
        f"Archive   {rows.archive(status)}",
        *at_margin(rows.summary(status)),
        "",
        *("  ".join(cells).rstrip() for cells in rows.table(status, rows.WIDE, WIDTH)),
        "",
        *_agent(status["agent"]),
    ]
    for word, text, hint in rows.remarks(status):
        lines += wrapped(word, text) + (wrapped("", HINT + hint) if hint else [])
    lines.append(rows.VERDICTS[status["exit_code"]])
    return "\n".join(map(printable, lines))


def _agent(agent: dict[str, Any] | None) -> list[str]:
    if agent is None:
        return wrapped("Agent", "no answer on this node")
    own = agent["agent"]
    doing = f"archives timeline {own['timeline']}" if own["archiving"] else "watches"
    spool = "takes WAL from pg_wal" if own.get("archiver") == "command" else rows.spool(own)
    lines = wrapped("Agent", f"{own['name']}, pid {own['pid']}, walkeeper {own['version']}: {doing}; {spool}")
    command = agent.get("archive_command")
    if command is not None and command["archive_mode"] != "off":
        handed, failed = counted(command["archived_count"], "file"), counted(command["failed_count"], "failed call")
        lines += wrapped("", f"archive_command: {handed} handed over, {failed}")
    return lines
