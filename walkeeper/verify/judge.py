"""What was found, in words: each with what it means and what to do about it, worst first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import IntEnum
from functools import partial
from itertools import combinations
from typing import Final

from walkeeper.archive.codec import STORED
from walkeeper.core.amounts import counted
from walkeeper.core.coverage import Coverage, Hole, Ranges, Stretch, intersect, united
from walkeeper.core.history import History, Switch
from walkeeper.core.life import RENEW_SECONDS, WATCH_SECONDS
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.core.record import Record
from walkeeper.errors import DcsError
from walkeeper.verify.evidence import Evidence
from walkeeper.verify.target import Target, begins_with

MOST: Final = 1000
"""Findings of one kind that are told one by one; of the others only how many there are."""


class Severity(IntEnum):
    """``DAMAGE`` makes exit 1, ``UNSURE`` exit 2, ``NOTE`` neither."""

    DAMAGE = 0
    UNSURE = 1
    NOTE = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """``kind`` is a stable word. ``first`` and ``last`` name segments, ``count`` says how many there are of them.

    ``more``: for how many others of its kind it stands.
    """

    severity: Severity
    kind: str
    text: str
    hint: str = ""
    first: str | None = None
    last: str | None = None
    count: int = 0
    key: str | None = None
    more: int = 0


damage = partial(Finding, Severity.DAMAGE)
unsure = partial(Finding, Severity.UNSURE)
note = partial(Finding, Severity.NOTE)

_LOST: Final = (
    "Look for them in pg_wal of every member, in the agents' spools, and in older versions of the bucket. Take a base backup "
    "now, so that all that follows it can be restored."
)
_LATEST: Final = (
    "recovery_target_timeline = 'latest' stops before it: a restore has to name the timeline. Whoever has it in pg_wal "
    "hands it in at the next takeover; restart the agent of the leader."
)


def judge(evidence: Evidence, target: Target, found: Coverage, in_flight: int) -> list[Finding]:
    """``in_flight``: how many of the newest segments may be on their way, where no record says what is stored."""
    return [
        *_about_the_start(evidence, target),
        *_about_histories(evidence, target, found),
        *_about_holes(evidence, target, found, in_flight),
        *_about_objects(evidence),
        *_about_the_record(evidence),
        *_about_the_rest(evidence, found),
    ]


def _about_the_start(evidence: Evidence, target: Target) -> Iterator[Finding]:
    if evidence.start is None:
        yield damage(
            "start_missing",
            "the archive does not state its start; the record does",
            "Without it restore-wal cannot prove that a file is absent. Restart the agent of the leader: a takeover states it.",
        )
    asked, size = target.asked, evidence.size
    begun = begins_with(evidence, target.history)
    for start in evidence.starts:
        if begun is not None and start.number > begun:
            yield unsure(
                "start_in_doubt",
                f"{start}: the archive states to begin there, above a hole with more WAL below it; it was looked at from "
                f"{target.history.segment(begun, size)} on",
                "If the archive is being shortened, delete all segments below that start. If nobody shortens it, that object was "
                "planted: move it away, and look at who may write there.",
                first=start.name,
                key=evidence.layout.start(start),
            )
    if asked is None:
        return
    if not target.history.contains(asked):
        yield damage(
            "off_the_chain",
            f"{asked}: it is not a file of timeline {target.history.timeline}'s chain, which has "
            f"{target.history.segment(asked.number, size)} there",
            "A base backup from there leads to another timeline: name it with --timeline.",
            first=asked.name,
        )
    if asked.number >= target.end:
        yield damage(
            "not_archived_yet",
            f"{asked}: {'the frontier has not passed it' if target.by_record else 'neither it nor a later one is stored'}",
            "A base backup can be restored when the WAL up to its end is archived: look again then.",
            first=asked.name,
        )


def _until_left(ancestor: History, chain: History, index: int) -> tuple[Switch, ...]:
    """The switches of the chain's timeline at ``index``, as far as the chain follows it: who left it earlier lowers them."""
    if index == len(chain.switches):
        return ancestor.switches
    left = chain.switches[index].lsn
    return tuple(replace(switch, lsn=min(switch.lsn, left)) for switch in ancestor.switches)


def _about_histories(evidence: Evidence, target: Target, found: Coverage) -> Iterator[Finding]:
    if target.unknown_timeline is not None:
        yield damage(
            "history_missing",
            f"timeline {target.unknown_timeline}, the record's: its history is not in the store; "
            f"timeline {target.history.timeline} was looked at instead",
            _LATEST,
        )
    for timeline, problem in evidence.bad_histories.items():
        yield damage(
            "history_damaged",
            f"{timeline:08X}.history: {problem}",
            "PostgreSQL cannot find its way past it. Put back the file as pg_wal of a member has it.",
            key=f"{evidence.layout.root}history/{timeline:08X}.history",
        )
    chain = target.history
    for index, timeline in enumerate(chain.timelines):
        stored = evidence.histories.get(timeline)
        if stored is not None and _until_left(stored, chain, index) != chain.switches[:index]:
            yield damage(
                "history_differs",
                f"{timeline:08X}.history: timeline {chain.timeline}, which came from it, says otherwise where it began",
                "The number was used twice, by two servers. A restore along the newer timeline goes by the newer history.",
                key=f"{evidence.layout.root}history/{timeline:08X}.history",
            )
    for first, end in found.missing_histories:
        missing = [
            timeline for timeline in range(first, min(end, first + MOST)) if timeline not in evidence.bad_histories
        ]
        for timeline in missing:
            yield damage("history_missing", f"timeline {timeline}: its history is not in the store", _LATEST)
        yield from _untold(damage, {"history_missing": end - first})


def _about_holes(evidence: Evidence, target: Target, found: Coverage, in_flight: int) -> Iterator[Finding]:
    begins = begins_with(evidence, target.history) or 0
    newest = found.end if target.by_record else found.end - in_flight
    told: Counter[str] = Counter()
    for hole in found.holes:
        kind = _kind(hole, begins, newest)
        told[kind] += 1
        if told[kind] <= MOST:
            yield _hole(evidence, hole, kind)
    yield from _untold(damage, told)


def _untold(severity: Callable[..., Finding], told: Mapping[str, int]) -> Iterator[Finding]:
    for kind, count in told.items():
        if count > MOST:
            yield severity(kind, f"and {count - MOST:,} more of these", count=count - MOST, more=count - MOST)


def _kind(hole: Hole, begins: int, newest: int) -> str:
    """``newest``: from where on what is missing may be on its way."""
    if hole.recorded:
        return "gap_recorded"
    if hole.first >= newest:
        return "maybe_on_its_way"
    return "before_the_start" if hole.end <= begins else "gap"


def _hole(evidence: Evidence, hole: Hole, kind: str) -> Finding:
    if kind == "maybe_on_its_way":
        return _on_its_way(evidence, hole)
    names, where, count = _names(hole.stretch, evidence), _where(hole.stretch, evidence), hole.stretch.length
    if kind == "gap_recorded":
        text = f"{names}: lost, and recorded as a gap ({where})"
        hint = "No restore crosses the gap; base backups from after it are good. A member with this WAL closes it."
    elif kind == "before_the_start":
        text = f"{names}: from before the archive's start ({where})"
        hint = "This base backup needs WAL that walkeeper never archived: take another one."
    else:
        text, hint = f"{names}: missing in the store ({where})", _LOST
    return damage(kind, text, hint, *_ends(hole.stretch, evidence), count)


def _on_its_way(evidence: Evidence, hole: Hole) -> Finding:
    return unsure(
        "maybe_on_its_way",
        f"{_names(hole.stretch, evidence)}: missing, and among the newest ({_where(hole.stretch, evidence)})",
        "Segments are uploaded several at a time, so that it may just be on its way: look again, with the DCS reachable.",
        *_ends(hole.stretch, evidence),
        hole.stretch.length,
    )


def _about_objects(evidence: Evidence) -> Iterator[Finding]:
    inventory = evidence.inventory
    for key in inventory.empty.first:
        yield damage("object_empty", f"{key}: the object is empty", _LOST, count=1, key=key)
    if inventory.empty.count > len(inventory.empty.first):
        more = inventory.empty.count - len(inventory.empty.first)
        yield damage("object_empty", f"and {more:,} more empty objects", count=more, more=more)
    if impossible := inventory.impossible(evidence.size):
        yield damage(
            "segment_size",
            f"{impossible} segments have names that a segment size of {evidence.size} bytes cannot have",
            "A cluster with another wal_segment_size wrote here.",
            count=impossible,
        )
    told: Counter[str] = Counter()
    for stretch in (Stretch(timeline, *each) for timeline, twice in duplicates(evidence).items() for each in twice):
        told["duplicate"] += 1
        if told["duplicate"] > MOST:
            continue
        yield note(
            "duplicate",
            f"{_names(stretch, evidence)}: stored under more than one of {', '.join(STORED)}",
            "Harmless as long as both hold the same: --deep compares them.",
            *_ends(stretch, evidence),
            stretch.length,
        )
    yield from _untold(note, told)


def duplicates(evidence: Evidence) -> dict[int, Ranges]:
    """Segments that are stored under more than one suffix, by timeline."""
    found = {}
    for timeline in evidence.archived.segments:
        stored = [stored_so(evidence, timeline, suffix) for suffix in STORED]
        found[timeline] = united(*(intersect(one, other) for one, other in combinations(stored, 2)))
    return found


def stored_so(evidence: Evidence, timeline: int, suffix: str) -> Ranges:
    """The numbers that are stored under that suffix."""
    runs = evidence.runs.get((timeline, suffix))
    return united(runs.numbers() if runs is not None else ())


def _about_the_record(evidence: Evidence) -> Iterator[Finding]:
    claim = evidence.claim
    if claim.record is None:
        silent = isinstance(claim.problem, DcsError)  # one that is configured: what was archived last may be missing
        text, hint = (
            f"the frontier is not known: {claim.why}",
            "It is looked at up to the last segment that is stored. ",
        )
        hint += "The agent of the leader writes a new record; so does walkeeper verify --rebuild." if claim.lost else ""
        yield unsure("dcs_silent", text, hint) if silent else note("no_record", text, hint)
        return
    yield from _about_others(evidence, claim.record)
    newer = [timeline for timeline in evidence.histories if timeline > claim.record.timeline]
    if newer:
        yield note(
            "newer_timeline",
            f"the store has the history of timeline {max(newer)}, the record is on {claim.record.timeline}",
            "Normal right after a failover. If it stays so: does the agent of the leader run?",
        )


def _about_others(evidence: Evidence, record: Record) -> Iterator[Finding]:
    """Who else writes here, by the store's own clock alone: while the record's owner gave signs of life, others did, or wrote."""
    own = evidence.inventory.signs.get(record.life)
    if own is None or own.modified is None:
        return
    quiet = own.modified - timedelta(seconds=WATCH_SECONDS)
    begun = evidence.inventory.first_signs.get(record.life, own).modified or own.modified
    alive = max(quiet, begun)  # before that a token that was lost with its record may have been this cluster's
    hint = (
        "A copy of this cluster runs with its configuration, or there is a second leader. Stop that, or give it another prefix. "
        "A restore names this cluster's timeline; 'latest' would follow the other one."
    )
    for token, sign in evidence.inventory.signs.items():
        if token != record.life and sign.modified is not None and sign.modified > alive:
            key = f"{evidence.layout.life(token, sign.number)}"
            text = f"{key}: another cluster's agent archives here, too; its last sign of life is of {sign.modified:%F %T} UTC"
            yield damage("another_cluster", text, hint, key=key)
    for timeline in sorted(evidence.archived.segments):
        times = [runs.total() for (number, _), runs in evidence.runs.items() if number == timeline]
        oldest = min((each.oldest for each in times if each.oldest), default=own.modified)
        grown = max((each.newest for each in times if each.newest), default=quiet)
        if timeline > record.timeline and grown > quiet and own.modified - oldest > timedelta(seconds=RENEW_SECONDS):
            text = f"timeline {timeline} grows, while the record's owner is alive on timeline {record.timeline}"
            yield damage("another_timeline_grows", text, hint)


def _about_the_rest(evidence: Evidence, found: Coverage) -> Iterator[Finding]:
    inventory = evidence.inventory
    for kind, stretches, text, hint in (
        ("gap_closed", found.closed, "recorded as a gap once, and stored by now", ""),
        ("orphan", found.orphans, "not on this chain", "Of a branch that was left at a failover. They do no harm."),
        ("before", found.before, "stored, and from before where this begins", "They do no harm."),
        (
            "beyond",
            found.beyond,
            "beyond the frontier",
            "Normal: uploads run ahead of it, and so did a primary that died.",
        ),
    ):
        yield from _told(kind, stretches, text, hint, evidence)
    for number, other in sorted(evidence.others.items()):
        yield note(
            "foreign_cluster",
            f"system identifier {number}: another cluster's archive, {counted(other.objects, 'object')}",
            "The cluster was initialised again under this scope. --system-identifier looks at it.",
            count=other.objects,
        )
    for kind, names, noun, text in (
        ("partial", inventory.partials, "segment", "ended within a timeline (.partial) and not looked at"),
        ("foreign_object", inventory.strange, "object", "with a name that walkeeper gives to nothing"),
        ("foreign_object", evidence.strange, "object", "below this prefix that no archive of this cluster has"),
    ):
        if names.count:
            named = f"{counted(names.count, noun)} {text}, {names.first[0]} for one"
            yield note(kind, named, count=names.count)


def _told(kind: str, stretches: Iterable[Stretch], text: str, hint: str, evidence: Evidence) -> Iterator[Finding]:
    """One finding a timeline."""
    whole: dict[int, Stretch] = {}
    counts: Counter[int] = Counter()
    for each in stretches:
        whole[each.timeline] = Stretch(each.timeline, whole.get(each.timeline, each).first, each.end)
        counts[each.timeline] += each.length
    for timeline, count in counts.items():
        first, last = _ends(whole[timeline], evidence)
        named = first if count == 1 else f"{first} to {last}"
        yield note(kind, f"{named}: {counted(count, 'segment')} {text}", hint, first, last, count)


def _ends(stretch: Stretch, evidence: Evidence) -> tuple[str, str]:
    first, last = (Segment(stretch.timeline, number, evidence.size) for number in (stretch.first, stretch.end - 1))
    return first.name, last.name


def _names(stretch: Stretch, evidence: Evidence) -> str:
    first, last = _ends(stretch, evidence)
    return first if stretch.length == 1 else f"{first} to {last}, {counted(stretch.length, 'segment')}"


def _where(stretch: Stretch, evidence: Evidence) -> str:
    first, end = stretch.first * evidence.size, stretch.end * evidence.size
    return f"timeline {stretch.timeline}, {Lsn(first)} to {Lsn(end)}"
