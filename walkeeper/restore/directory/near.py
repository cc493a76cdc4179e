"""Where a target cannot be restored: what can be instead, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from walkeeper.core import amounts
from walkeeper.core.backup import Backup
from walkeeper.core.windows import NoChoice, Window, Windows, consistent_at, stopped_at
from walkeeper.errors import CannotRestore
from walkeeper.restore import state
from walkeeper.restore.directory.target import Target, ToLsn, ToName, ToTime, ToXid
from walkeeper.restore.state import State

_SHOWN: Final = 3
WHOLE: Final = (
    "Start it as what it is now, or restore it again with --delta: what was written there since is gone then."
)
"""What to do with what is restored already."""


def no_backup(wanted: Target, named: str, chosen: NoChoice, found: Windows) -> CannotRestore:
    """``named`` is what was written after --to. A time is told as what it was taken for, as all others are."""
    what = wanted.text if isinstance(wanted, ToTime) else named
    return CannotRestore(f"--to {what}: {chosen.why}", hint=" ".join(_hints(wanted, chosen.near, found)))


def not_found(wanted: ToXid | ToName, oldest: Backup) -> CannotRestore:
    meant = "A time"
    if isinstance(wanted, ToXid):
        meant = "A savepoint's is none, though rows have it. A number alone is a transaction's: a time"
    return CannotRestore(
        f"--to {wanted.text}: it is not in the archive after {consistent_at(oldest)}, the stop of the oldest complete backup",
        hint=f"Is it another timeline's? --timeline says which one is followed. {meant} is written like '2026-11-27 23:10'.",
    )


def ended(directory: Path, resumed: State, problem: CannotRestore) -> CannotRestore:
    """The backup that a restore was begun with is not to be had any more, which takes nothing from what is there, whole."""
    if state.is_whole(directory, resumed):
        return CannotRestore(
            f"{directory}: this command has restored it, begun at {resumed.began}, and could not do so now: "
            f"{str(problem).removeprefix('--')}",
            hint=WHOLE,
        )
    return CannotRestore(
        f"{directory}: what was begun there at {resumed.began} cannot go on: {str(problem).removeprefix('--')}",
        hint="The same command with --delta begins again, with what can be restored now.",
    )


def _hints(wanted: Target, near: tuple[Window, ...], found: Windows) -> list[str]:
    told = [_window(window) for window in near[:_SHOWN]]
    others = [each for each in found.judged if not each.counts]
    if not told:
        reasons = [f"{each.backup.id}: {each.why}" for each in others[-_SHOWN:]]
        return [f"No backup is complete. {'; '.join(reasons)}" if reasons else "walkeeper backups lists what there is."]
    hints = [f"What can be restored near it: {'; '.join(told)}."]
    if isinstance(wanted, ToLsn) and all(window.start <= wanted.lsn for window in near):
        return hints  # it is not a backup that lacks
    would = [each for each in others if _is_before(each.backup, wanted)][-1:]
    return hints + [f"{each.backup.id} is before it, and {each.verdict}: {each.why}." for each in would]


def _window(window: Window) -> str:
    at = amounts.to_the_second(window.backups[0].stop.at)
    return f"from {window.start}{f' ({at})' if at else ''} to {window.end} on timeline {window.timeline}"


def _is_before(backup: Backup, wanted: Target) -> bool:
    if isinstance(wanted, ToLsn):
        return consistent_at(backup) <= wanted.lsn
    stopped = stopped_at(backup)
    return isinstance(wanted, ToTime) and stopped is not None and stopped <= wanted.at
