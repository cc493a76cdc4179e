"""What a takeover believes: the record, the store and the local server are held against each other, and nothing is changed.

Few requests, most of them at the same time. Neither the number of timelines makes it longer, nor that of segments, but for
those that pg_wal still has below a frontier that the store told or somebody put there, or above the recorded one: a look at each,
some at a time. Such a frontier takes a listing of the archive, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from operator import itemgetter

from msgspec.structs import replace

from walkeeper.agent.archiver.comparing import (
    Stored,
    compare_all,
    compare_histories,
    compare_own,
    compare_tail,
    compare_whole,
    look,
    other_bytes,
)
from walkeeper.agent.archiver.local_wal import LocalWal
from walkeeper.agent.archiver.recorded_gaps import LONGEST
from walkeeper.agent.archiver.refusals import pass_or_raise
from walkeeper.archive.write import Archive
from walkeeper.core.beliefs import NO_ARCHIVE, PROMOTE, must_compare, must_compare_own, nothing_archived
from walkeeper.core.coverage import intersect
from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.core.record import Gap, Record
from walkeeper.core.second_life import Compared, SecondLife, in_question, is_shown, left_at, not_shown
from walkeeper.core.suspicion import covers
from walkeeper.core.takeover import LocalServer, beyond, check_cluster, common_end, resume_at
from walkeeper.errors import (
    ArchiveMissing,
    BadHistory,
    BadRecord,
    BeyondServer,
    CannotTell,
    NothingToCompare,
    OfSecondLife,
    OtherBytes,
    Refused,
    StoreBehind,
    WrongCluster,
)
from walkeeper.lib import events


@dataclass(slots=True)
class Belief:
    """Where a takeover goes on. ``lacking``: histories that the store does not have yet, by timeline.

    ``compared`` names what the local server and the store have the same of. The sums are those of the record to be written.
    """

    lsn: Lsn
    first: Segment
    gaps: tuple[Gap, ...] = ()
    gaps_total: int = 0
    by_record: bool = False
    start_is_stated: bool = True
    below_sha256: str = ""
    history_sha256: str = ""
    lacking: dict[int, bytes] = field(default_factory=dict)
    compared: list[Compared] = field(default_factory=list)
    lives: dict[SecondLife, SecondLife | None] = field(default_factory=dict)
    """What becomes of the second lives that it was held against; None: they need not be remembered any longer."""
    listed: Sequence[tuple[int, int]] = ()
    """Runs of segment numbers above ``lsn`` that the store lists and this server no longer has."""


def believe(
    me: str,
    record: Record | None,
    archive: Archive,
    local: LocalWal,
    accepted: Collection[str],
    second_lives: Collection[SecondLife],
) -> Belief:
    """What is true, as far as it can be shown. ``accepted``: reasons of refusals that a person lets pass. ``second_lives``: of
    which the server may be; it has to show that it is not.

    Raises WrongCluster, WrongSegmentSize, WrongTimeline, a refusal of ``walkeeper.core.beliefs``, BeyondServer, StandbyLags, or
    an outage's error.
    """
    belief, by = _believed(me, record, archive, local, accepted)
    for life in second_lives:
        _hold_against(belief, life, by, local, accepted)
    return belief


def _believed(
    me: str, record: Record | None, archive: Archive, local: LocalWal, accepted: Collection[str]
) -> tuple[Belief, Record | None]:
    """And by which record."""
    if record is not None:
        try:
            check_cluster(record, local.server)
        except WrongCluster as problem:
            pass_or_raise(problem, accepted)
            return _by_store(archive, local), None
        try:
            return _by_record(me, record, archive, local, accepted), record
        except BadRecord as problem:
            events.failure("record_not_believed", problem)
        except Refused as problem:
            if problem.reason not in {"archive_missing", "beyond_server"}:
                raise
            pass_or_raise(problem, accepted)
    return _by_store(archive, local), None


def _hold_against(
    belief: Belief, life: SecondLife, record: Record | None, local: LocalWal, accepted: Collection[str]
) -> None:
    """Where the archive goes on, and where the server's own WAL does: what lies between, store and members have of whichever."""
    chain, first, recorded = local.server.history, belief.first.start, None if record is None else record.timeline
    own = life.timeline == chain.timeline
    # A person who has let a frontier pass that lies beyond the server has said it of that server.
    said = OfSecondLife.reason in accepted or (own and BeyondServer.reason in accepted)
    ends = (in_question(life, recorded, chain, lsn, belief.first.size) for lsn in (belief.lsn, local.begins()))
    until = next((end for end in ends if end is not None and end > first), None)
    if until is not None and not is_shown(life, until, belief.compared):
        pass_or_raise(not_shown(life, until), {OfSecondLife.reason} if said else ())
    begins, left = not belief.by_record and not belief.start_is_stated, left_at(life, chain)
    if begins or (own and said) or (left is not None and left <= first):
        belief.lives[life] = None
    elif chain.timeline > life.timeline:
        belief.lives[life] = replace(life, passed=max(life.passed, chain.timeline))


def check_record(me: str, store: str, record: Record, local: LocalWal, accepted: Collection[str]) -> None:
    """By the word of a record alone. That of this archive (``store`` is empty), whose store may be away; or of another store of
    this cluster: two servers, or two lives of one, never archive one timeline in two stores.

    Raises WrongTimeline, BeyondServer, StandbyLags, OtherBytes or NothingToCompare.
    """
    server = local.now()  # after the record was read
    chain = server.history
    if int(record.system_identifier) != server.system_identifier or record.size != server.segment_size:
        return  # the takeover of that store's archive says so
    if record.timeline <= chain.timeline and not chain.includes(record.timeline):
        return  # of a branch that ended
    history = chain.up_to(record.timeline) if chain.includes(record.timeline) else chain
    try:
        end = common_end(record, history, server)
    except BeyondServer as problem:
        pass_or_raise(problem, accepted)
        return
    whole = record.position.floor(record.size)
    below = _below(chain, whole, Segment.parse(record.start, record.size)) if whole <= end else None
    sha256 = local.sha256(below, server.lsn) if below is not None and record.below_sha256 else None
    if below is not None and sha256 not in {None, record.below_sha256}:
        raise other_bytes(below, below.timeline, store)
    if not store:
        return  # the rest is for the takeover, which sees what is stored
    text = local.histories.get(record.timeline)
    if text is not None and record.history_sha256 not in {"", hashlib.sha256(text).hexdigest()}:
        raise OtherBytes(f"history of timeline {record.timeline}: the store {store} has another one", hint=PROMOTE)
    of_it = sha256 is not None and below is not None and below.timeline == record.timeline
    if not of_it and must_compare(record, me, server):
        _not_compared_with(record, f"record of the store {store}", accepted)


# --- by the record ----------------------------------------------------------------------------------------------------


def _by_record(me: str, record: Record, archive: Archive, local: LocalWal, accepted: Collection[str]) -> Belief:
    server = local.now()  # after the record was read: what was recorded of this server's WAL, it had
    chain, first = server.history, Segment.parse(record.start, archive.size)
    history = _record_history(record, archive, local)
    common, start = common_end(record, history, server), resume_at(record, history, server)
    opened = history.segment_at(record.position, archive.size)
    in_tail = record.position > opened.start == start
    below = _below(chain, start, first)
    stored = look(archive, server, below, opened if in_tail else None)
    # With a segment and no statement the store went away when the archive had just begun: it is stated now.
    if stored.first is None and stored.below is None and not nothing_archived(record):
        raise ArchiveMissing(
            f"{archive.place}: no archive is there, and the record speaks of one from {first} to {record.lsn}",
            hint=NO_ARCHIVE,
        )
    belief = Belief(start, first, record.gaps, record.gaps_total, by_record=True, start_is_stated=stored.first == first)
    belief.lacking, belief.history_sha256 = compare_histories(archive, local, stored.histories, record)
    unsaid = stored.below if not record.below_sha256 else None
    hole, belief.listed = _hole(unsaid.segment, first, record, archive, local) if unsaid is not None else (None, ())
    if hole is not None:
        _go_to(belief, hole.start, record, archive, local)
    elif unsaid is not None:
        _compare_rebuilt(belief, archive, local)
    elif below is None or stored.below is not None or _lies_in_a_gap(below, record, archive):
        _compare_last(belief, record, stored, local, server)
    else:
        _go_back(belief, record, archive, local, accepted)
    rests_on: list[Compared] = []
    if in_tail and belief.lsn == start:
        rests_on = compare_tail(archive, record, stored, opened, min(common, server.lsn), local)
        belief.compared += rests_on
    settled = record.position if rests_on and opened.timeline == chain.timeline else Lsn(0)
    compared, any_stored = compare_own(archive, stored, local, belief.lsn, settled)
    belief.compared += compared
    if any_stored and not compared and not settled and must_compare_own(record, me, local.server):
        pass_or_raise(_nothing_of_own(archive, chain.timeline), accepted)
    _go_over_stored(belief, archive, local)
    if not belief.compared and not (nothing_archived(record) and not in_tail):
        _not_compared(record, me, server, accepted)
    return belief


def _record_history(record: Record, archive: Archive, local: LocalWal) -> History:
    """The history of the record's timeline: as stored, or as the local server's own history tells it."""
    chain, known = local.server.history, local.histories.get(record.timeline)
    if record.timeline == chain.timeline:
        return chain
    ancestor: History | None = None
    if chain.includes(record.timeline):
        ancestor = chain.up_to(record.timeline)
        if known is not None and record.history_sha256 == hashlib.sha256(known).hexdigest():
            return ancestor
    try:
        stored = archive.contents.history(record.timeline)
    except (BadHistory, CannotTell) as problem:
        events.failure("history_damaged", problem, timeline=record.timeline)
        stored = None
    found = stored or ancestor
    if found is None:
        raise BadRecord(
            f"record in the DCS: nothing is known of its timeline {record.timeline}",
            hint="walkeeper does not trust it and looks at the store instead.",
        )
    return found


def _below(chain: History, lsn: Lsn, first: Segment) -> Segment | None:
    """The last whole segment below ``lsn``; None where the archive begins there."""
    number = lsn // first.size - 1
    return chain.segment(number, first.size) if number >= first.number else None


def _lies_in_a_gap(segment: Segment, record: Record, archive: Archive) -> bool:
    alone = Gap(segment.timeline, str(segment.start), str(segment.end))
    return covers(record.gaps, alone) or covers(archive.contents.gaps(), alone)


def _hole(
    below: Segment, first: Segment, record: Record, archive: Archive, local: LocalWal
) -> tuple[Segment | None, Sequence[tuple[int, int]]]:
    """The first segment up to ``below`` that the store lacks, by its listing and by a look at each that this server still has;
    and what is listed below those.

    For a record without the sum of what its owner stored last: somebody put the frontier there. Uploads go side by side, and on
    behind WAL that is suspected lost, which this server no longer has.
    """
    chain, here = local.server.history, local.unbroken(first, below.end)
    lacking = (segment for segment, there in archive.contents.looks(here) if not there)
    looked = next((segment for segment in lacking if not _lies_in_a_gap(segment, record, archive)), None)
    missing, listed = archive.contents.along(chain, first, below)
    known = here[0].number if here else below.number
    hole = min(filter(None, (looked, missing)), key=lambda segment: segment.number, default=None)
    return hole, intersect(listed, [(0, known)])


def _compare_last(belief: Belief, record: Record, stored: Stored, local: LocalWal, server: LocalServer) -> None:
    """The last whole segment: by the record's word, and with the local file."""
    if stored.below is None:
        return
    stated = record.below_sha256 if belief.lsn == record.position.floor(server.segment_size) else ""
    if stated not in {"", stored.below.sha256}:
        raise OtherBytes(
            f"{stored.below.segment}: the store has other bytes than the record's owner stored",
            hint="The object was replaced, or this is not the store that the record is of. Look at both before anything else.",
        )
    belief.compared += compare_whole(stored.below, local, server.lsn)
    belief.below_sha256 = stored.below.sha256


def _go_back(belief: Belief, record: Record, archive: Archive, local: LocalWal, accepted: Collection[str]) -> None:
    """To what the store has, if the local server still has what lies between."""
    chain, size = local.server.history, archive.size
    extent = archive.contents.extent(chain)
    has = min(belief.lsn, belief.first.start if extent is None else _really(*extent, archive, local))
    between = (chain.segment(number, size) for number in range(has // size, belief.lsn // size))
    lost = next((segment for segment in between if not local.has(segment)), None)
    if lost is not None:
        problem = StoreBehind(
            f"record in the DCS: the frontier is {record.lsn}, the store has everything only up to {has}, and this server no "
            f"longer has {lost}",
            hint="Is it the right bucket and prefix, was everything copied, did somebody delete objects? Bring them back. If "
            "they are lost: walkeeper takeover --accept goes on from what the store has, and what nobody has becomes a gap.",
        )
        pass_or_raise(problem, accepted)
    _go_to(belief, has, record, archive, local)


def _go_to(belief: Belief, has: Lsn, record: Record, archive: Archive, local: LocalWal) -> None:
    """Back to the end of what the store has. What it lacks from there on is archived again."""
    events.warning(
        "record_ahead_of_store",
        frontier=record.lsn,
        stored_up_to=has,
        hint="What the store lacks is archived again, and looked for where this server no longer has it. If nobody changed the "
        "record by hand, find out who deletes objects.",
    )
    belief.lsn = has
    _compare_rebuilt(belief, archive, local)


def _compare_rebuilt(belief: Belief, archive: Archive, local: LocalWal) -> None:
    """With all below that is here: no owner's record says whose it is, and uploads go side by side."""
    belief.compared += compare_all(archive, local.unbroken(belief.first, belief.lsn), local, belief.lsn)
    below = _below(local.server.history, belief.lsn, belief.first)
    receipt = archive.find(below) if below is not None else None
    belief.below_sha256 = receipt.sha256 if receipt is not None else ""


def _nothing_of_own(archive: Archive, timeline: int) -> NothingToCompare:
    return NothingToCompare(
        f"{archive.store.url}: somebody has stored WAL of timeline {timeline}, and this server no longer has any of that",
        hint="If the DCS was put back to an older state, and this is the server that archived it: walkeeper takeover "
        "--accept. If not, two servers were promoted under one number: promote to a new timeline (patronictl switchover).",
    )


def _go_over_stored(belief: Belief, archive: Archive, local: LocalWal) -> None:
    """Over what the store has already: uploads that were not recorded, or a record older than the store.

    A folder of names a request, and then a look at each: a name alone may be planted, or have a damaged object. All that is here
    is compared.
    """
    chain, size = local.server.history, archive.size
    run: list[Segment] = []
    listed: dict[str, set[Segment]] = {}
    while True:
        segment = chain.segment(belief.lsn // size + len(run), size)
        folder = segment.name[:16]
        if folder not in listed:
            listed[folder] = set(archive.contents.segments(f"{folder}/"))
        if segment not in listed[folder]:
            break
        run.append(segment)
    run = [segment for segment, _ in takewhile(itemgetter(1), archive.contents.looks(run))]
    if not run:
        return
    server = local.now()  # after the listing
    if run[-1].end > server.lsn:
        raise beyond(f"{archive.store.url}: what is stored up to {run[-1].end}", server)
    belief.compared += compare_all(archive, run, local, server.lsn)
    last = archive.find(run[-1])
    if last is not None:
        belief.lsn, belief.below_sha256 = last.segment.end, last.sha256


def _not_compared(record: Record, me: str, server: LocalServer, accepted: Collection[str]) -> None:
    if must_compare(record, me, server):
        _not_compared_with(record, "record in the DCS", accepted)
    events.warning(
        "takeover_not_compared",
        frontier=record.lsn,
        hint="This server no longer has what the store has last, so that nobody could look whether both have the same.",
    )


def _not_compared_with(record: Record, what: str, accepted: Collection[str]) -> None:
    problem = NothingToCompare(
        f"{what}: {record.owner} wrote it on this very timeline {record.timeline}, and nothing shows that this server is the one",
        hint="A leader does not change without a new timeline. If this member was renamed, or has that one's volume: "
        "walkeeper takeover --accept. If not, promote to a new timeline (patronictl switchover).",
    )
    pass_or_raise(problem, accepted)


# --- without a record -------------------------------------------------------------------------------------------------


def _by_store(archive: Archive, local: LocalWal) -> Belief:
    server = local.now()
    chain = server.history
    stored = look(archive, server, None, None)
    extent = archive.contents.extent(chain) if stored.first is not None else None
    if extent is None:
        first = local.to_begin_with(server.lsn)
        belief = Belief(first.start, first, start_is_stated=False)
        belief.lacking, belief.history_sha256 = compare_histories(archive, local, stored.histories, None)
        return belief
    first = extent[0]
    server = local.now()  # after the listing
    rebuilt = _really(*extent, archive, local)
    if rebuilt > server.lsn:
        raise beyond(f"{archive.store.url}: what is stored up to {rebuilt}", server)
    gaps = tuple(archive.contents.gaps())
    rebuilt = min([rebuilt, *(found.start for gap in gaps if (found := _not_lost(gap, archive, local)) is not None)])
    belief = Belief(rebuilt, first, gaps, len(gaps))
    belief.lacking, belief.history_sha256 = compare_histories(archive, local, stored.histories, None)
    _compare_rebuilt(belief, archive, local)
    belief.compared += compare_own(archive, stored, local, rebuilt, Lsn(0))[0]
    return belief


def _really(first: Segment, listed: Lsn, archive: Archive, local: LocalWal) -> Lsn:
    """``listed``, or the start of the first segment below it whose name alone is in the store.

    Looked at are those that can still be stored, as pg_wal has them, and the one in which this server's WAL ends. Whatever is
    listed above that is believed: names and gaps beyond the server can be planted, without end.
    """
    chain, size, gaps = local.server.history, archive.size, archive.contents.gaps()
    doubted: list[Segment] = []
    for number in range(min(listed, local.server.lsn + size) // size - 1, first.number - 1, -1):
        segment = chain.segment(number, size)
        if segment.end <= local.server.lsn and not local.has(segment):
            break
        if not covers(gaps, Gap(segment.timeline, str(segment.start), str(segment.end))):
            doubted.append(segment)
    lacking = (segment.start for segment, there in archive.contents.looks(reversed(doubted)) if not there)
    return next(lacking, listed)


def _not_lost(gap: Gap, archive: Archive, local: LocalWal) -> Segment | None:
    """The first segment of a recorded gap that this server has and the store lacks: whoever recorded that, it is archived now."""
    chain, size = local.server.history, archive.size
    begin, end = Lsn.parse(gap.start) // size, min(Lsn.parse(gap.end), local.server.lsn) // size
    here = (chain.segment(number, size) for number in range(begin, min(end, begin + LONGEST)))
    return next((segment for segment in here if local.has(segment) and not archive.contents.has(segment)), None)
