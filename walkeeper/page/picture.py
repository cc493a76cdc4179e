"""What the picture of the archive shows: one lane a timeline, with what is stored, lost and not archived yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from walkeeper.core.coverage import Range, chain, merged, subtract, united
from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.record import Gap
from walkeeper.page.facts import Claim, Facts


@dataclass(frozen=True, slots=True)
class Lane:
    """A timeline, from where it left its ``parent`` (None: the first one, or not known) to where anything is known of it."""

    timeline: int
    parent: int | None
    begins: Lsn
    ends: Lsn
    stored: Sequence[Range]
    gaps: Sequence[Range]
    missing: Sequence[Range]
    """Below the frontier, on the chain, and not in the store; and nobody recorded a gap."""
    on_chain: bool
    """Whether recovery to the newest timeline reads it."""


@dataclass(frozen=True, slots=True)
class Picture:
    size: SegmentSize
    lanes: tuple[Lane, ...]
    start: Lsn
    end: Lsn
    timeline: int
    frontier: Lsn
    written: Lsn | None
    """How far this node's WAL reaches, where it is on the frontier's timeline."""
    hold_slot: Lsn | None
    times: tuple[tuple[Lsn, str], ...] = ()
    """Of commits here and there, and of the last one, in order of position."""

    @property
    def tail(self) -> tuple[Lsn, Lsn] | None:
        """The part of the open segment that is stored piece by piece; it ends at the frontier."""
        begins = self.frontier.floor(self.size)
        return (begins, self.frontier) if begins < self.frontier else None

    @property
    def gaps(self) -> int:
        return sum(len(lane.gaps) for lane in self.lanes)

    @property
    def missing(self) -> int:
        """Segments."""
        return sum(part.end - part.first for lane in self.lanes for part in lane.missing)


def picture_of(facts: Facts) -> Picture | None:
    """None without a record: then it is not known what belongs together."""
    claim = facts.claim
    if claim is None:
        return None
    listing = facts.listing
    histories = {**(listing.histories if listing else {}), **facts.histories}
    newest = History(1) if claim.timeline == 1 else histories.get(claim.timeline)
    lost = _lost(claim, (*claim.gaps, *(listing.gaps if listing else ())))
    stored = _stored(facts, claim, newest, lost)
    lost = {timeline: subtract(parts, stored.get(timeline, ())) for timeline, parts in lost.items()}
    missing = _missing(facts, claim, newest, stored, lost)
    server, slot = facts.report["server"], facts.report["hold_slot"]
    follows = server is not None and (server["in_recovery"] or server["timeline"] == claim.timeline)
    written = Lsn.parse(server["lsn"]) if follows else None
    restart = slot["restart_lsn"] if slot else None
    begins = {t: history.switches[-1] for t, history in histories.items() if history.switches}
    reach = {claim.timeline: max(claim.frontier, written or claim.frontier)}
    for fork in begins.values():
        reach[fork.timeline] = max(fork.lsn, reach.get(fork.timeline, fork.lsn))
    lanes = []
    for timeline in sorted({*stored, *lost, *missing, *reach, *begins}):
        parts = [part for parts in (stored, lost, missing) if (part := parts.get(timeline))]  # each in order
        switch = begins.get(timeline)
        first = Lsn(min(part[0].first for part in parts) * claim.size) if parts else claim.start
        last = Lsn(max(part[-1].end for part in parts) * claim.size) if parts else claim.start
        lanes.append(
            Lane(
                timeline,
                switch.timeline if switch else None,
                switch.lsn if switch else first,
                max(last, reach.get(timeline, last), switch.lsn if switch else last),
                stored.get(timeline, ()),
                lost.get(timeline, ()),
                missing.get(timeline, ()),
                newest.includes(timeline) if newest else timeline == claim.timeline,
            )
        )
    start = min([claim.start, *(lane.begins for lane in lanes)])
    end = max(lane.ends for lane in lanes)
    hold = Lsn.parse(restart) if restart else None
    return Picture(claim.size, tuple(lanes), start, end, claim.timeline, claim.frontier, written, hold, _times(facts))


def window(picture: Picture, segments: int) -> Picture | None:
    """The newest ``segments`` of it; None where that is (nearly) all of it."""
    width = segments * picture.size
    if picture.end - picture.start < 2 * width:
        return None
    start = max(picture.start, Lsn(picture.end - width).floor(picture.size))
    lanes = tuple(lane for lane in picture.lanes if lane.ends > start)
    return Picture(
        picture.size, lanes, start, picture.end, picture.timeline, picture.frontier, picture.written, picture.hold_slot,
        picture.times,
    )  # fmt: skip


def _times(facts: Facts) -> tuple[tuple[Lsn, str], ...]:
    known = dict(facts.listing.times) if facts.listing else {}
    last = facts.report.get("last_commit")
    if last is not None:
        known[Lsn.parse(last["lsn"])] = last["time"]
    return tuple(sorted(known.items()))


_Parts = dict[int, Sequence[Range]]


def _lost(claim: Claim, gaps: tuple[Gap, ...]) -> _Parts:
    found: dict[int, list[Range]] = {}
    for gap in gaps:
        first, end = Lsn.parse(gap.start) // claim.size, Lsn.parse(gap.end) // claim.size
        found.setdefault(gap.timeline, []).append(Range(first, end))
    return {timeline: merged(parts) for timeline, parts in found.items()}


def _stored(facts: Facts, claim: Claim, newest: History | None, lost: _Parts) -> _Parts:
    """What the store listed, and what receipts have moved the frontier over since."""
    listing = facts.listing
    since = min(listing.frontier, claim.frontier) if listing else claim.start
    claimed = _chain(newest, claim, since, claim.frontier)
    listed: Mapping[int, Sequence[Range]] = listing.stored if listing else {}
    return {
        timeline: united(listed.get(timeline, ()), subtract(claimed.get(timeline, ()), lost.get(timeline, ())))
        for timeline in {*listed, *claimed}
    }


def _missing(facts: Facts, claim: Claim, newest: History | None, stored: _Parts, lost: _Parts) -> _Parts:
    listing = facts.listing
    if listing is None or not listing.whole:
        return {}
    wanted = _chain(newest, claim, max(claim.start, listing.start), min(listing.frontier, claim.frontier))
    found = {
        timeline: subtract(parts, united(stored.get(timeline, ()), lost.get(timeline, ())))
        for timeline, parts in wanted.items()
    }
    return {timeline: parts for timeline, parts in found.items() if parts}


def _chain(history: History | None, claim: Claim, start: Lsn, end: Lsn) -> _Parts:
    """The chain's files between two positions; nothing where the history is not known."""
    if history is None:
        return {}
    found = chain(history, claim.size, start // claim.size, end // claim.size)
    return {stretch.timeline: (Range(stretch.first, stretch.end),) for stretch in found}
