"""``walkeeper gap``: what is lost, or may be, and a person's word that it is not waited for.

The word is an object in the store, which the owner of the record sees. Nobody but the owner writes the record: that would
fence it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, Final

from walkeeper.archive.open import open_archives
from walkeeper.archive.write import Archive
from walkeeper.config import Config
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.record import Gap
from walkeeper.core.suspicion import covers
from walkeeper.dcs.base import RECORD
from walkeeper.dcs.claim import Known, decoded
from walkeeper.dcs.patroni import connect
from walkeeper.errors import BadName, CannotTell, NoSuchGap, WalkeeperError
from walkeeper.lib.terminal import answered, complain, tell

NONE: Final = 0
OPEN: Final = 1
UNKNOWN: Final = 2


@dataclass(frozen=True, slots=True)
class Lost:
    """``state``: *suspected* lost, *recorded* as a gap, or *accepted*, where a person has said so."""

    timeline: int
    start: str
    end: str
    state: str

    def __str__(self) -> str:
        return f"{self.start} to {self.end} on timeline {self.timeline}"


def main(config: Config, *, accept: bool, start: str | None = None, as_json: bool = False) -> int:
    """Exit 0: nothing is lost but what was accepted; 1: something is; 2: cannot tell. Of several stores all are listed, and
    what is accepted is of the first.
    """
    if accept:
        return _asked(config, lambda archive, found: _accept(archive, _chosen(found, start, archive.size)))
    rows: list[dict[str, Any]] = []

    def show(of: Config, found: list[Lost]) -> int:
        if as_json:
            rows.extend(({"store": of.store_name} if config.others else {}) | asdict(lost) for lost in found)
        else:
            tell(f"{f'Store {of.store_name}: ' if config.others else ''}{_text(found)}")
        return OPEN if any(lost.state != "accepted" for lost in found) else NONE

    codes = [_asked(each, lambda _, found, each=each: show(each, found)) for each in config.of_each_store]  # type: ignore[misc]
    if as_json and min(codes) < UNKNOWN:
        tell(json.dumps(rows))
    return answered(OPEN if OPEN in codes else max(codes))


def _asked(config: Config, work: Callable[[Archive, list[Lost]], int]) -> int:
    """``work`` on what is lost; UNKNOWN where that cannot be learnt."""
    try:
        archive, suspected = _open(config)
        found = _lost(archive, suspected)
    except WalkeeperError as problem:
        complain(f"store {config.store_name}: {problem}" if config.others else str(problem), problem.hint)
        return UNKNOWN
    return work(archive, found)


def _open(config: Config) -> tuple[Archive, tuple[Gap, ...]]:
    """The archive, and what its owner suspects to be lost."""
    patroni, seconds = config.patroni_config, config.agent.dcs_timeout
    with closing(connect(patroni, config.node.name, seconds, config.key(RECORD))) as records:
        claim = decoded(records.read())
    if claim.known is Known.ABSENT:
        raise CannotTell(
            "record in the DCS: there is none, so it is not known where to look",
            hint="An agent writes it when the leader is archived; walkeeper verify --rebuild makes it from the store.",
        )
    if claim.record is None:
        raise claim.problem or CannotTell(claim.why)
    record = claim.record
    archives = open_archives(config, to_read=True)
    return archives.archive(int(record.system_identifier), record.size), record.suspected


def _lost(archive: Archive, suspected: tuple[Gap, ...]) -> list[Lost]:
    """Recorded gaps that are not closed, then suspicions; each by position."""
    accepted = archive.contents.accepted_gaps()
    return [
        Lost(gap.timeline, gap.start, gap.end, "accepted" if covers(accepted, gap) else state)
        for state, gaps in (("recorded", archive.contents.open_gaps()), ("suspected", suspected))
        for gap in gaps
    ]


def _chosen(found: list[Lost], start: str | None, size: SegmentSize) -> Lost:
    """The one that begins at ``start``, a position or a segment's name; without it the only one. Raises NoSuchGap."""
    waiting = [lost for lost in found if lost.state != "accepted"]
    listed = "walkeeper gap list shows all of them."
    if start is None:
        if len(waiting) != 1:
            raise NoSuchGap(
                f"gap accept: there is {len(waiting) or 'nothing'} to accept",
                hint=f"Name one by where it begins. {listed}" if waiting else listed,
            )
        return waiting[0]
    position, timeline = _position(start, size)
    for lost in waiting:
        if Lsn.parse(lost.start) == position and timeline in {None, lost.timeline}:
            return lost
    raise NoSuchGap(f"gap accept {start}: nothing that is lost begins there, or it is accepted already", hint=listed)


def _position(start: str, size: SegmentSize) -> tuple[Lsn, int | None]:
    """Raises BadName."""
    try:
        return Lsn.parse(start), None
    except BadName:
        segment = Segment.parse(start, size)
        return segment.start, segment.timeline


def _accept(archive: Archive, lost: Lost) -> int:
    first = Segment.at(lost.timeline, Lsn.parse(lost.start), archive.size)
    archive.accept_gap(first, Lsn.parse(lost.end))
    what = (
        "the owner records it as a gap within seconds" if lost.state == "suspected" else "status and doctor are content"
    )
    tell(f"accepted: {lost}; {what}.\nTake a base backup, if none was taken since.")
    return NONE


def _text(found: list[Lost]) -> str:
    if not found:
        return "No WAL is lost."
    rows: list[dict[str, Any]] = [asdict(lost) for lost in found]
    return "\n".join(f"{row['state']:<10} timeline {row['timeline']}: {row['start']} to {row['end']}" for row in rows)
