"""What a restore would do, before anything is written: which backup, up to where. Refuses what cannot end well."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from walkeeper.archive import restorable
from walkeeper.archive.contents import Contents
from walkeeper.archive.open import Archives, open_archives
from walkeeper.archive.read import Reader
from walkeeper.archive.restorable import Listed, Restorable
from walkeeper.archive.times import CommitTimes
from walkeeper.config import Config
from walkeeper.core.commits import since_2000
from walkeeper.core.coverage import chain, last_stored, within, without
from walkeeper.core.history import History
from walkeeper.core.incremental import chain_of
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.core.wal_records import last_begin, read_record
from walkeeper.core.windows import (
    Choice,
    Holdings,
    Window,
    consistent_at,
)
from walkeeper.dcs.claim import unknown
from walkeeper.errors import CannotRestore, DcsError, WrongCall
from walkeeper.lib.retry import with_retries
from walkeeper.restore.directory import choice, here, near, target
from walkeeper.restore.directory.model import Plan, Request
from walkeeper.restore.directory.target import Immediate, Latest, Target, ToLsn, ToName, ToTime, ToXid
from walkeeper.restore.directory.together import joined
from walkeeper.restore.state import Asked
from walkeeper.store.base import Store
from walkeeper.verify.evidence import Evidence, ask_the_dcs, gather

_PREFETCHED: Final = 2
"""Segments before a hole in which PostgreSQL's look-ahead may run into it: it has half a MiB in view, at most."""
_ON_ITS_WAY: Final = 20.0
"""Seconds in which a segment comes that is being uploaded."""
_PAUSE: Final = 1.0
"""Seconds between two looks at it."""
_PREFETCHES: Final = 15
"""The first major version that looks ahead while it recovers."""


def make(
    config: Config,
    request: Request,
    tell: Callable[[str], None] = lambda _: None,
    known: Mapping[str, str] | None = None,
    seen: dict[str, Evidence] | None = None,
    *,
    together: bool = False,
) -> Plan:
    """Raises CannotRestore, CannotTell, ConfigError, BadBackup, Locked or the store's errors. Writes nothing.

    A backup of which the store lacks a piece is none: nothing is removed for it, and an older one is taken where that reaches the
    target. But one that is on trial, or that was begun with, ends by itself. ``known``: what was found against some, by id.
    ``seen`` gets what was found in this store, by its name; ``together``: it has that, and the WAL of all counts.
    """
    broken, search, builds = dict(known or {}), choice.Search(), list[str]()
    while True:
        try:
            plan = _made(config, request, tell, broken, search, {} if seen is None else seen, together=together)
        except CannotRestore as problem:
            said = f"{problem} {problem.hint}"
            unsaid = {id_: why for id_, why in broken.items() if why not in said}
            if not unsaid:
                raise
            raise CannotRestore(
                str(problem), hint=f"{problem.hint} A newer backup is not used: {_told(unsaid)}."
            ) from None
        if request.is_trial or plan.resumed is not None:
            return plan
        lacking = {each.id: why for each in plan.chain if (why := choice.lacks(plan.backups, each))}
        if not lacking:
            return replace(plan, incomplete="; ".join([_told(broken), *builds]) if broken else "")
        if isinstance(plan.target, Immediate) and request.backup is None:
            raise CannotRestore(
                f"--to immediate: that is where {plan.backup.id} is consistent, and {_told(lacking)}",
                hint=f"--to {plan.end} restores up to there from an older backup, where the WAL reaches; --backup takes one.",
            )
        broken |= lacking
        if plan.backup.id not in lacking:
            builds.append(f"{plan.backup.id} builds on it")


def _told(broken: Mapping[str, str]) -> str:
    return "; ".join(f"{id_}: {why}" for id_, why in sorted(broken.items(), reverse=True))


def _made(
    config: Config, request: Request, tell: Callable[[str], None], broken: Mapping[str, str], search: choice.Search,
    seen: dict[str, Evidence], *, together: bool,
) -> Plan:  # fmt: skip
    """``broken``: what was found against some backups, which count for nothing, by id."""
    wanted = target.parse(request.to)
    _check_action(request, wanted)
    directory = here.directory(config, request)
    claim, is_clone = None, request.scope not in (None, config.scope)
    if request.scope is not None and is_clone:
        # What this host has, a record or a data directory, is of its own cluster.
        config = replace(config, scope=request.scope, node=replace(config.node, data_dir=None))
        claim = unknown(DcsError(f"{request.scope}: the record of another cluster is not asked for"))
    before = here.before(directory, request.use)
    archives = open_archives(config, to_read=True)
    system_identifier = request.system_identifier or (before.asked.system_identifier if before else None)
    if together:
        evidence, wal = joined(config, seen)
    else:
        evidence = seen[config.store_name] = gather(
            config, archives.store, claim or ask_the_dcs(config), system_identifier
        )
        wal = archives
    asked = _asked(config, request, evidence)
    resumed = here.resumable(directory, before, asked, delta=request.delta)
    can = _look(evidence, archives, wal.store, broken)
    found = can.windows
    timeline = _timeline(can.holdings, request.timeline)
    history = can.holdings.histories.get(timeline, History(timeline))
    times = CommitTimes(wal.store, evidence.layout, archives.codec, history, evidence.size)
    stopped = choice.had_stopped(wanted, times, exclusive=request.exclusive) if isinstance(wanted, ToTime) else None
    against = {} if request.is_trial else choice.noted(archives.store, evidence.layout, found.complete)
    if resumed is not None and request.delta and request.backup is None and resumed.backup in against:
        resumed = None  # it would end at the same piece again
    try:
        chosen = choice.chosen_for(found, request, resumed, timeline, wanted, stopped, against)
    except CannotRestore as problem:
        if resumed is None:
            raise
        if not request.delta:
            raise near.ended(directory, resumed, problem) from None
        resumed = None
        chosen = choice.chosen_for(found, request, None, timeline, wanted, stopped, against)
    breaks = _hole_behind(evidence, history, chosen.window) is not None
    end, again = _end(wanted, chosen, times, exclusive=request.exclusive, breaks=breaks), None
    if isinstance(wanted, ToXid | ToName) and resumed is None and request.backup is None:
        chosen, (_, end, again) = search.of(wanted, found.chains[timeline], times, tell)
        better = choice.sound(chosen, against)
        # That may have taken hours, and nothing pins the backup yet: a floor that was recorded meanwhile counts.
        chosen = choice.named(_look(evidence, archives, wal.store, broken).windows, better.backup.id, timeline, wanted)
        chosen = replace(chosen, instead_of=better.instead_of)
    if request.use == "replica":
        choice.check_replica(evidence.claim, chosen, against)
    hole = _hole_behind(evidence, history, chosen.window)
    if isinstance(wanted, Latest) and hole is not None:
        hole = _still_missing(evidence, wal.store, history, hole, config.uploads, tell)
        if hole is not None:
            at = max(chosen.window.end, Lsn(hole * evidence.size))
            raise CannotRestore(
                f"--to latest: the archive is not whole: after {at} WAL is missing, and more is behind it",
                hint=f"--to {at} restores up to there. walkeeper verify says what is missing.",
            )
    recovery = resumed.recovery if resumed else _recovery(
        wanted, request, timeline, chosen, wal.reader(), evidence, history, end=end, hole=hole
    )  # fmt: skip
    upto = end or chosen.window.end
    segments = max(0, -(-upto // evidence.size) - Lsn.parse(chosen.backup.wal[0].start) // evidence.size)
    return Plan(
        config=config,
        request=request,
        evidence=evidence,
        wal_store=wal.store,
        backups=archives.backups(evidence.layout.system_identifier),
        chain=chain_of(chosen.backup, {each.id: each for each in found.complete}),
        timeline=timeline,
        target=wanted,
        end=end,
        again=again,
        unsearched=chosen.window.end if isinstance(wanted, ToName) and end is not None and hole is not None else None,
        recovery=recovery,
        directory=directory,
        tablespaces=here.tablespaces(chosen.backup, directory, request.tablespaces),
        asked=asked,
        folder=here.programs(config, chosen.backup),
        wal_segments=segments,
        wal_bytes=segments * _usual_bytes(evidence),
        before=before,
        resumed=resumed,
        clone_of=f"{archives.store.url}/{evidence.layout.root}" if is_clone else "",
        damage=against.get(chosen.backup.id, ""),
        passed_over="" if (newer := chosen.instead_of) is None else f"{newer.id}: {against[newer.id]}",
    )


def _look(evidence: Evidence, archives: Archives, wal: Store, broken: Mapping[str, str]) -> Restorable:
    """What the archive can restore, with the ``wal`` there. Raises CannotRestore where it has no backup."""
    backups = archives.backups(evidence.layout.system_identifier)
    documents = with_retries(lambda: restorable.read_documents(backups))
    if not documents.backups:
        unreadable = "; ".join(documents.unreadable.values())
        others = [number for number, other in sorted(evidence.others.items()) if other.base_backups.count]
        raise CannotRestore(
            f"{evidence.store.url}/{evidence.layout.root}: there is no base backup in it",
            hint=unreadable
            or (
                f"The cluster was initialised again, or upgraded, and has some of before that: --system-identifier {others[-1]}"
                if others
                else "walkeeper backup takes one, of PostgreSQL 15 and newer. Backups of other tools, such as pg_basebackup, are "
                "restored as those tools do it, with walkeeper-restore-wal as restore_command."
            ),
        )
    listed = Listed(evidence.archived, evidence.histories, evidence.start)
    record = evidence.claim.record
    return restorable.judged(
        evidence.store, evidence.layout, evidence.size, documents, listed, record, broken, tails=wal
    )


def _check_action(request: Request, wanted: Target) -> None:
    """Raises WrongCall for options that the target, or who starts the server, leaves without a meaning."""
    chosen = (request.scope, request.timeline, request.backup, request.action)
    if request.use == "replica" and (not isinstance(wanted, Latest) or request.exclusive or any(chosen)):
        raise WrongCall(
            "--replica: a replica has everything that is archived of its own cluster",
            hint="Leave out --to, --from, --timeline, --backup, --action and --exclusive. --bootstrap makes another cluster.",
        )
    if request.use == "bootstrap" and request.action not in (None, "promote"):
        raise WrongCall(
            f"--action {request.action}: Patroni waits until the first leader of a cluster is promoted",
            hint="Leave it out with --bootstrap.",
        )
    if isinstance(wanted, Latest) and request.action not in (None, "promote"):
        raise WrongCall(
            f"--action {request.action}: a recovery to latest ends where the WAL ends, and the server is then a primary",
            hint="Name a time or a position with --to.",
        )
    if request.exclusive and isinstance(wanted, Latest | Immediate | ToName | ToLsn):
        raise WrongCall(f"--exclusive: it says nothing of {wanted.text}", hint="It is for a time or a transaction.")


def _timeline(holdings: Holdings, asked: str | None) -> int:
    """By default the one that the cluster goes on with; ``latest`` is PostgreSQL's: the highest number."""
    if asked is None:
        return holdings.kept.timeline
    return max(holdings.histories) if asked == "latest" else int(asked)


def _end(wanted: Target, chosen: Choice, times: CommitTimes, *, exclusive: bool, breaks: bool) -> Lsn | None:
    """Where the recovery ends; None where only the recovery finds out. Raises CannotRestore for a time that it never gets to.

    ``breaks``: there is more WAL behind the window, of which some is missing.
    """
    begin = consistent_at(chosen.backup)
    if isinstance(wanted, Immediate):
        return begin
    if isinstance(wanted, ToLsn):
        return wanted.lsn
    if isinstance(wanted, Latest):
        return chosen.window.end
    if not isinstance(wanted, ToTime):
        return None
    moment = since_2000(wanted.at) - (1 if exclusive else 0)
    found = with_retries(lambda: times.position_of(moment, begin, chosen.window.end))
    if found is not None:
        return found
    last = with_retries(lambda: times.last(begin, chosen.window.end))
    when = f"the last one was at {last.when}" if last else "there is none"
    where = "WAL is missing" if breaks else "the WAL ends"
    raise CannotRestore(
        f"--to {wanted.text}: no transaction ended after that up to {chosen.window.end}, where {where}: {when}",
        hint=f"PostgreSQL would not know where to stop. --to {chosen.window.end} restores up to there.",
    )


def _hole_behind(evidence: Evidence, history: History, window: Window) -> int | None:
    """The number of the segment in which the window breaks off, if the chain goes on behind it; else None."""
    number = window.end // evidence.size
    last = last_stored(evidence.archived, history, evidence.size)
    if last is not None and last > number:
        return number
    for stretch in chain(history, evidence.size, number):
        if any(gap.end > number for gap in evidence.archived.gaps.get(stretch.timeline, ()) if gap.first < stretch.end):
            return number
    return None


def _still_missing(
    evidence: Evidence, wal: Store, history: History, hole: int, uploads: int, tell: Callable[[str], None]
) -> int | None:
    """The first that does not come soon; None where all come. What is uploaded right now lies at the frontier or behind it, or,
    where that is not known, among the newest."""
    record, last = evidence.claim.record, last_stored(evidence.archived, history, evidence.size) or 0
    known = record is not None and record.timeline == history.timeline
    newest = record.position // evidence.size if record is not None and known else last - uploads
    missing = without(chain(history, evidence.size, hole, last), evidence.archived.segments)
    if hole < newest or not missing or missing[0].first > hole or within(evidence.archived.gaps, missing):
        return hole
    contents, until = Contents(wal, evidence.layout, evidence.size), time.monotonic() + _ON_ITS_WAY
    for segment in (Segment(each.timeline, n, evidence.size) for each in missing for n in range(each.first, each.end)):
        while not with_retries(lambda segment=segment: contents.has(segment)):  # type: ignore[misc]
            if time.monotonic() >= until:
                return segment.number
            tell(f"waiting for {segment}, which may be on its way")
            time.sleep(_PAUSE)
    return None


def _recovery(
    wanted: Target, request: Request, timeline: int, chosen: Choice, reader: Reader, evidence: Evidence, history: History,
    *, end: Lsn | None, hole: int | None,
) -> dict[str, str]:  # fmt: skip
    """PostgreSQL's settings, without restore_command."""
    if request.use == "replica":
        return {}  # it follows whoever leads, on each timeline that is to come
    found = target.settings(wanted, exclusive=request.exclusive)
    if isinstance(wanted, ToLsn | ToName) and end is not None:  # a name may be there before, too
        last = last_record(reader, evidence, history, end)
        if last is not None and last >= Lsn.parse(chosen.backup.start.lsn):
            found = {"recovery_target_lsn": str(last), "recovery_target_inclusive": "on"}
    if found:
        found["recovery_target_action"] = request.action or ("promote" if request.use == "bootstrap" else "pause")
    found["recovery_target_timeline"] = str(timeline)
    close = hole is not None and (end is None or end // evidence.size + _PREFETCHED >= hole)
    if close and chosen.backup.major >= _PREFETCHES:
        found["recovery_prefetch"] = "off"
    return found


def last_record(reader: Reader, evidence: Evidence, history: History, lsn: Lsn) -> Lsn | None:
    """Where the last record begins that ends at ``lsn`` or before; None where that cannot be read.

    PostgreSQL stops at a position only when it meets a record there: at the end of what is stored, or before a hole, there is
    none. It stops *after* a record that it has replayed without looking further.
    """
    if lsn == 0:
        return None
    segment = history.segment_at(Lsn(lsn - 1), evidence.size)
    plain = with_retries(lambda: reader.deliver(evidence.layout, segment.name, segment.size))
    if plain is None:
        tail = with_retries(lambda: reader.tail(evidence.layout, segment.name))
        plain = None if tail.assembled is None else tail.assembled.plain
    if plain is None:
        return None
    begin = last_begin(plain, min(lsn - 1 - segment.start, len(plain) - 1))
    while begin is not None:
        record = read_record(plain, segment, begin)
        if record is not None and segment.start + record.end <= lsn:
            return Lsn(segment.start + begin)
        begin = (
            last_begin(plain, begin - 1) if begin > 0 and (record is None or record.end > lsn - segment.start) else None
        )
    return None


def _usual_bytes(evidence: Evidence) -> int:
    """Of a stored segment, on average."""
    totals = [runs.total() for runs in evidence.runs.values()]
    count = sum(each.segments for each in totals)
    return sum(each.bytes for each in totals) // count if count else 0


def _asked(config: Config, request: Request, evidence: Evidence) -> Asked:
    return Asked(
        to=request.to,
        scope=config.scope,
        group=config.group,
        system_identifier=evidence.layout.system_identifier,
        backup=request.backup,
        timeline=request.timeline,
        exclusive=request.exclusive,
        action=request.action,
        tablespaces=request.tablespaces,
        use=request.use,
    )
