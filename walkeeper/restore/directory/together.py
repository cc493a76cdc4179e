"""The WAL of several stores as one archive's: a recovery reads all of them, whichever has the backup that it begins with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from walkeeper.archive.open import Archives, open_archives
from walkeeper.config import Config
from walkeeper.core.coverage import subtract, united
from walkeeper.dcs.claim import Claim
from walkeeper.store.several import Several
from walkeeper.verify.evidence import Evidence


def joined(config: Config, seen: Mapping[str, Evidence]) -> tuple[Evidence, Archives]:
    """The evidence of ``config``'s store with the WAL and the timelines of all that were seen, and how that WAL is read.

    Its backups, its floors and its gaps stay its own. What lies below another's floor does not count: it is about to go.
    """
    own = seen[config.store_name]
    others = [each for each in seen.values() if each is not own and (each.layout, each.size) == (own.layout, own.size)]
    segments = dict(own.archived.segments)
    for other in others:
        for timeline, stored in other.archived.segments.items():
            stays = subtract(stored, other.archived.below.get(timeline, ()))
            segments[timeline] = united(segments.get(timeline, ()), stays)
    histories = {timeline: each for other in (*reversed(others), own) for timeline, each in other.histories.items()}
    evidence = replace(
        own, archived=replace(own.archived, segments=segments), histories=dict(sorted(histories.items()))
    )
    store = Several([own.store, *(other.store for other in others)]) if others else own.store
    return replace(evidence, claim=_furthest(evidence, others)), open_archives(config, store, to_read=True)


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
