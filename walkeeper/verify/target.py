"""What is verified: which timeline's chain, from where, up to where."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from walkeeper.core.coverage import begins, last_stored
from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.names import BackupFile, Segment, parse_wal_name
from walkeeper.errors import BadName, CannotTell
from walkeeper.verify.evidence import Evidence

LABEL: Final = "backup_label"
_START_LINE: Final = re.compile(r"^START WAL LOCATION: [0-9A-Fa-f/]+ \(file ([0-9A-F]{24})\)$", re.MULTILINE)
_LABEL_LIMIT: Final = 64 * 1024
_USAGE: Final = (
    "It is a segment's name, a position like 0/5000028, a .backup file's name, or the path of a backup_label or of the "
    "base backup that it lies in."
)


@dataclass(frozen=True, slots=True)
class Target:
    """The chain of ``history`` from number ``first`` up to ``end``. ``by_record``: the end is the record's frontier.

    ``asked`` is the segment that --from named; ``unknown_timeline`` the record's, if its history is nowhere.
    """

    history: History
    first: int
    end: int
    by_record: bool
    asked: Segment | None = None
    unknown_timeline: int | None = None


def choose(evidence: Evidence, asked_from: str | None, timeline: int | None) -> Target:
    """Without a timeline it is the record's, else the newest that has a history. Raises BadName or CannotTell."""
    record = evidence.claim.record
    unknown = None
    wanted = timeline or (record.timeline if record else None) or _newest(evidence)
    history = evidence.history(wanted)
    if history is None and timeline is not None:
        raise CannotTell(
            f"timeline {timeline}: the store has no history of it",
            hint="walkeeper list says which timelines are there.",
        )
    if history is None:
        unknown, history = wanted, evidence.history(_newest(evidence)) or History(1)
    asked = None if asked_from is None else parse_start(asked_from, history, evidence.size)
    number = begins_with(evidence, history)
    if asked is None and number is None:
        raise CannotTell("the archive does not state its start", hint="Name a segment with --from.")
    first = asked.number if asked else number or 0
    if record is not None and record.timeline == history.timeline:
        end, by_record = record.position // evidence.size, True
    else:
        end, by_record = last_stored(evidence.archived, history, evidence.size) or first, False
    return Target(history, first, max(first, end), by_record, asked, unknown)


def begins_with(evidence: Evidence, history: History) -> int | None:
    """The number of the segment that the archive of that chain begins with: as the store states it, else as the record does."""
    stated = begins((start.number for start in evidence.starts), evidence.archived, history, evidence.size)
    return evidence.begins.number if stated is None and evidence.begins is not None else stated


def parse_start(text: str, history: History, size: SegmentSize) -> Segment:
    """Where a base backup begins, however it is named. Raises BadName, or CannotTell for a file that cannot be read."""
    if re.fullmatch(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}", text):
        return history.segment_at(Lsn.parse(text), size)
    name = text.rpartition("/")[2]
    try:
        file = parse_wal_name(name, size)
    except BadName:
        return Segment.parse(_named_by_label(Path(text)), size)
    if isinstance(file, BackupFile):
        return file.segment
    if isinstance(file, Segment):
        return file
    raise BadName(f"--from {text!r}: no base backup begins there", hint=_USAGE)


def _named_by_label(path: Path) -> str:
    try:
        file = path / LABEL if path.is_dir() else path
        with file.open("rb") as label:
            content = label.read(_LABEL_LIMIT).decode("utf-8", "replace")
    except FileNotFoundError:
        raise BadName(
            f"--from {str(path)!r}: neither a WAL file's name nor a file that is there", hint=_USAGE
        ) from None
    except (OSError, ValueError) as error:
        raise CannotTell(f"--from {str(path)!r}: {getattr(error, 'strerror', None) or error}", hint=_USAGE) from None
    found = _START_LINE.search(content)
    if found is None:
        raise BadName(f"--from {str(file)!r}: it has no line START WAL LOCATION", hint=_USAGE)
    return found[1]


def _newest(evidence: Evidence) -> int:
    first = evidence.begins
    return max([*evidence.histories, first.timeline if first else 1])
