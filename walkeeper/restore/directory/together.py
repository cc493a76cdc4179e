"""The WAL of several stores as one archive's: a recovery reads all of them, whichever has the backup that it begins with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from walkeeper.archive.open import Archives, open_archives
from walkeeper.config import Config
from walkeeper.core.coverage import subtract, united
from walkeeper.core.lsn import Lsn
from walkeeper.dcs.claim import Claim
from walkeeper.store.several import Several
from walkeeper.verify.evidence import Evidence


def joined(config: Config, seen: Mapping[str, Evidence]) -> tuple[Evidence, Archives]:
    """The evidence of ``config``'s store with the WAL and the timelines of all that were seen, and how that WAL is read.

    Its backups and its floors stay its own. What lies below another's floor does not count: it is about to go. A gap of another
    counts: a recovery stops at it, where no store fills it. The stores of ``diverged`` do not count at all.
    """
    own, left_out = seen[config.store_name], diverged(config.store_name, seen)
    others = [each for name, each in seen.items() if each is not own and name not in left_out and _alike(own, each)]
    segments, gaps = dict(own.archived.segments), dict(own.archived.gaps)
    for other in others:
        for timeline, lost in other.archived.gaps.items():
            gaps[timeline] = united(gaps.get(timeline, ()), lost)
        for timeline, stored in other.archived.segments.items():
            stays = subtract(stored, other.archived.below.get(timeline, ()))
            segments[timeline] = united(segments.get(timeline, ()), stays)
    histories = {timeline: each for other in (*reversed(others), own) for timeline, each in other.histories.items()}
    evidence = replace(
        own,
        archived=replace(own.archived, segments=segments, gaps=gaps),
        histories=dict(sorted(histories.items())),
    )
    store = Several([own.store, *(other.store for other in others)]) if others else own.store
    return replace(evidence, claim=_furthest(evidence, others)), open_archives(config, store, to_read=True)


def diverged(name: str, seen: Mapping[str, Evidence]) -> dict[str, str]:
    """The stores whose WAL is of another branch than that of store ``name``, or of one that goes with it: why, in words. Two
    promotions took one number, and no name of a file tells their segments apart.
    """
    together, found = {name: seen[name]}, dict[str, str]()
    for other, evidence in seen.items():
        if other == name or not _alike(evidence, seen[name]):
            continue
        differs = ((each, _another(evidence, of)) for each, of in together.items())
        each, timeline, parted = next(((each, *another) for each, another in differs if another), (None, 0, None))
        if each is None:
            together[other] = evidence
        else:
            found[other] = f"its timeline {timeline} is another one than store {each}'s: they part at {parted}"
    return found


def _alike(one: Evidence, other: Evidence) -> bool:
    return (one.layout, one.size) == (other.layout, other.size)


def _another(one: Evidence, other: Evidence) -> tuple[int, Lsn] | None:
    """The first timeline that both know, by different histories, and where these part. What nothing tells an ancestor of may be
    either."""
    for timeline in sorted({each for history in one.histories.values() for each in history.timelines}):
        mine, its = one.history(timeline), other.history(timeline)
        if mine and its and mine.switches and its.switches and (parted := mine.parts_from(its)) is not None:
            return timeline, parted
    return None


def _furthest(own: Evidence, others: Sequence[Evidence]) -> Claim:
    """The record of a store that was away is behind; another one's counts where it goes on from there."""
    found = own.claim
    for claim in (other.claim for other in others):
        if claim.record is None or found.record is None:
            found = found if claim.record is None else claim
            continue
        history, one, other = own.history(claim.record.timeline), found.record, claim.record
        goes_on = history is not None and history.includes(one.timeline)
        if goes_on and (other.timeline, other.position) > (one.timeline, one.position):
            found = claim
    return found
