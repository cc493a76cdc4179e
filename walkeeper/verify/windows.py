"""What a restore can reach: positions from the listing, and times from the records near both ends of each window."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from walkeeper.archive.codec import Codec
from walkeeper.archive.times import NEAR, CommitTimes
from walkeeper.core.amounts import counted, to_the_second
from walkeeper.core.commits import Commit
from walkeeper.core.coverage import Coverage
from walkeeper.core.lsn import Lsn
from walkeeper.errors import CannotTell, Locked, Refused, StoreError
from walkeeper.lib.retry import with_retries
from walkeeper.verify.evidence import Evidence
from walkeeper.verify.judge import Finding, note, unsure
from walkeeper.verify.tail import OpenSegment
from walkeeper.verify.target import Target

TIMED: Final = 8
"""Windows, the newest ones, whose times are looked for."""
TOLD: Final = 1000
"""Of each list the newest ones, which --json has; how many there are besides it says, too."""
_SHOWN: Final = 10
"""Windows, the newest ones, that people are shown; --json has more."""

_UNREAD: Final = "which times can be restored is not known: "
_NO_KEY: Final = "Set encryption.identity_file to the file with the private key, or look on a host that has it."
_DEEP: Final = "walkeeper verify --deep looks into every object, and says what is damaged."


def end_of(evidence: Evidence, target: Target, opened: OpenSegment | None) -> Lsn:
    """Up to where a restore of that chain gets, if nothing is missing."""
    return opened.proved if opened is not None else Lsn(target.end * evidence.size)


def windows(
    evidence: Evidence, target: Target, found: Coverage, end: Lsn, codec: Codec
) -> tuple[list[dict[str, Any]], list[Finding]]:
    """The newest, as --json has them, oldest first; and what there is to say where times could not be read.

    Costs two objects for most windows, and 2 x NEAR where transactions are long or rare.
    """
    times = CommitTimes(evidence.store, evidence.layout, codec, target.history, evidence.size)
    findings: list[Finding] = []
    described = []
    told = found.windows[-TOLD:]
    for index, (first, stop) in enumerate(told):
        begin, behind = Lsn(first * evidence.size), end if stop == target.end else Lsn(stop * evidence.size)
        ends: tuple[Commit | None, Commit | None] = (None, None)
        if index >= len(told) - TIMED and not findings:
            try:
                ends = with_retries(lambda begin=begin, behind=behind: times.between(begin, behind, NEAR))  # type: ignore[misc]
            except Locked as locked:
                findings.append(note("times_unread", f"{_UNREAD}{locked}", _NO_KEY))
            except (CannotTell, Refused, StoreError) as problem:
                findings.append(unsure("times_unread", f"{_UNREAD}{problem}", _DEEP))
        described.append(
            {
                "start_lsn": str(begin),
                "end_lsn": str(behind),
                "first": target.history.segment(first, evidence.size).name,
                "last": target.history.segment(stop - 1, evidence.size).name,
                "segments": stop - first,
                "first_commit": described_commit(ends[0]),
                "last_commit": described_commit(ends[1]),
            }
        )
    return described, findings


def older(found: Coverage) -> int:
    """How many windows there are besides those."""
    return max(0, len(found.windows) - TOLD)


def not_shown(there: int, shown: int, what: str, more: int) -> str:
    """``more`` are those that --json does not have either."""
    has = f"--json has the newest {there:,} of all" if more else "--json has them"
    return f"{counted(there - shown + more, what)}: {has}"


def lines(described: list[dict[str, Any]], older: int, indent: int) -> Iterator[str]:
    """What WAL is there without a hole, for base backups of any tool."""
    word = "WAL"
    if len(described) > _SHOWN:
        yield f"{word.ljust(indent)}{not_shown(len(described), _SHOWN, 'older window', older)}; the newest ones:"
        word = ""
    for window in described[-_SHOWN:]:
        count = counted(window["segments"], "segment")
        yield f"{word.ljust(indent)}{window['start_lsn']} to {window['end_lsn']}, {count}"
        word = ""
        first, last = window["first_commit"], window["last_commit"]
        if first is not None and last is not None:
            yield f"{' ' * indent}commits {_shown(first)} to {_shown(last)} UTC"
    if not described:
        yield f"{word.ljust(indent)}nothing"


def backup_lines(found: dict[str, Any] | None, indent: int) -> Iterator[str]:
    """The same for walkeeper's own base backups, where there are any."""
    if found is None:
        return
    newest = f", the newest of {to_the_second(found['newest']['stop_at'])}" if found["newest"] else ""
    yield f"{'Backups'.ljust(indent)}{found['complete']} of {len(found['backups'])} are complete{newest}"
    word = "Restore"
    for window in found["windows"][:_SHOWN]:
        dead = ", a branch that was left" if window["dead"] else ""
        yield f"{word.ljust(indent)}{window['start_lsn']} to {window['end_lsn']} on timeline {window['timeline']}{dead}"
        word = ""
        if window["last_commit"] is not None:
            yield f"{' ' * indent}the last commit at {_shown(window['last_commit'])} UTC"
    if len(found["windows"]) > _SHOWN:
        yield f"{' ' * indent}and {len(found['windows']) - _SHOWN} more"
    if not found["windows"]:
        yield f"{word.ljust(indent)}nothing"
    yield from proved_lines(found, indent)


def proved_lines(found: dict[str, Any], indent: int) -> Iterator[str]:
    """When a restore was last tried out, and worked."""
    proved = found["proved"]
    if proved is not None:
        yield f"{'Proved'.ljust(indent)}{to_the_second(proved['at'])}: {proved['backup']}"
        yield f"{' ' * indent}restored up to {proved['lsn']} on timeline {proved['timeline']}"
    elif found["complete"]:
        yield f"{'Proved'.ljust(indent)}never: walkeeper verify --restore does a real restore"


def described_commit(commit: Commit | None) -> dict[str, str] | None:
    return None if commit is None else {"time": commit.when, "lsn": str(commit.begin)}


def _shown(commit: dict[str, str]) -> str:
    return commit["time"].rstrip("Z").replace("T", " ")
