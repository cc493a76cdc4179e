"""The torture itself: rounds of overlapping faults, a restore after each, and at the end the whole archive against the ledger."""

from __future__ import annotations

import contextlib
import random
import shutil
import time
from collections import Counter
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import psycopg

from benchmarks.places import DirectoryPlace, Kind, Places
from tests.parts.processes import wait_until
from tests.parts.ways import Way
from tests.torture import check, report
from tests.torture.backups import RATE, Jobs, allowed, patience
from tests.torture.beliefs import FAULTS
from tests.torture.faults import DURABLE, EVERYWHERE, SEVERAL, clash
from tests.torture.rig import MEMBERS, WRITERS, Diary, Far, Rig, base_backup
from walkeeper.core.backup import Backup, BackupId
from walkeeper.core.backup_job import Job
from walkeeper.core.floor import moment
from walkeeper.core.names import Segment
from walkeeper.core.record import Gap, Record
from walkeeper.errors import StoreError

NEAR: Final = 0.001
"""Seconds that each PUT takes longer while a bucket is well: with any delay there is the proxy that makes it slow, or refuse."""
BACKUP_SEGMENTS: Final = 3
"""In so many a base backup is consistent: a hole among them would end it, and not a restore."""
BURNS_OF_ONE_BACKUP: Final = 10
AT_BACKUPS: Final = 6
"""How often the fault about it is among the others, for the dice, while a base backup is taken."""
UNDONE: Final = (StoreError, OSError, RuntimeError, psycopg.Error)
"""What a fault may raise that could not be done, or not be ended."""


@dataclass(frozen=True, slots=True)
class Options:
    """``seconds`` of torture in rounds of ``round_seconds``; ``rate`` in MiB of WAL a second; no ``faults``: all."""

    seed: int
    seconds: float
    store: Kind
    rate: float
    round_seconds: float
    faults: tuple[str, ...]
    report: Path | None
    archiver: Way = "streaming"
    holes: bool = True
    """Whether each round ends with an object that is hidden, and restores that come to it."""
    burns: int = 0
    """Instead of rounds: how often all members die at once, and are restored before any of them starts again."""
    members: int = MEMBERS
    writers: int = WRITERS
    backups_each: float = 0.0
    """Seconds between two base backups of the cluster's own; 0 for none."""


@dataclass(slots=True)
class Tally:
    faults: Counter[str]
    restores: int = 0
    by_walkeeper: int = 0
    """Of those: by ``walkeeper restore``, from its own backup."""
    crossings: int = 0
    rows: int = 0
    gaps: int = 0
    timelines: int = 0
    jobs: Jobs | None = None


def torture(options: Options) -> bool:
    """Whether every promise was kept. The report is written in any case."""
    diary = Diary()
    tally = Tally(Counter())
    diary.tell("note", f"seed {options.seed}")
    try:
        delay = 0.0 if options.store == "directory" else NEAR
        with (
            Places(options.store, delay) as places,
            Places(options.store, delay) if options.archiver == "several" else nullcontext() as elsewhere,
            Rig(
                places.new(),
                diary,
                rate=options.rate,
                archiver=options.archiver,
                members=options.members,
                writers=options.writers,
                far=None if elsewhere is None else elsewhere.new(),
                backups_each=options.backups_each,
            ) as rig,
        ):
            tally.jobs = rig.jobs
            try:
                (burns if options.burns else rounds)(rig, options, tally)
            except BaseException:
                _keep(rig, options.report)
                raise
            if diary.violations:
                _keep(rig, options.report)
    except Exception as problem:
        diary.tell("violation", f"{type(problem).__name__}: {problem}")
        raise
    finally:
        if options.report is not None:
            options.report.write_text(
                report.page(diary, f"walkeeper tortured, seed {options.seed}", facts(diary, tally))
            )
            print(f"report: {options.report}")
    for name, value in facts(diary, tally):
        print(f"{name}: {value}")
    return not diary.violations


def _keep(rig: Rig, report: Path | None) -> None:
    """Logs and WAL of every node, beside the report: to find out why."""
    if report is not None:
        for node in rig.cluster.nodes:  # the dying are in the middle of writing
            node.host.pause()
        kept = report.with_suffix(".kept")
        shutil.rmtree(kept, ignore_errors=True)
        with contextlib.suppress(shutil.Error):
            shutil.copytree(
                rig.cluster.directory, kept, ignore=shutil.ignore_patterns("base", "*.sock", "*.s"), symlinks=True
            )
        print(f"kept: {kept}")


def rounds(rig: Rig, options: Options, tally: Tally) -> None:
    dice = random.Random(options.seed)
    until = time.monotonic() + options.seconds
    known: list[Gap] = []
    backup = base_backup(rig)
    while time.monotonic() < until:
        _round(rig, dice, min(options.round_seconds, max(5.0, until - time.monotonic())), options.faults, tally)
        _check(rig, None if rig.jobs is not None else backup, tally, known)
        rig.settle()
        record = rig.wait_caught_up()
        tally.timelines = record.timeline
        if objections := check.verify(rig):
            rig.diary.tell("violation", objections)
        gaps = [gap for store in rig.stores for gap in check.open_gaps(store, known)]
        for gap in gaps:
            holders = check.who_has(gap, record.size, rig.cluster.nodes, rig.held)
            text = f"gap {gap.timeline}:{gap.start}-{gap.end}; {', '.join(holders) or 'nobody'} has it in pg_wal"
            rig.diary.tell("violation" if holders else "note", text)
        tally.gaps += len(gaps)
        if rig.jobs is not None:
            _check_backups(rig, rig.jobs)
            _check(rig, None, tally, known)
        if _check(rig, backup, tally, known) and options.holes:
            _hide_and_cross(rig, backup, tally, dice)
        known += gaps
        backup = base_backup(rig)


def burns(rig: Rig, options: Options, tally: Tally) -> None:
    """All members die at once, and their disks do not count: what the store alone gives back is compared while all are dead."""
    dice = random.Random(options.seed)
    for number in range(options.burns):
        if number % BURNS_OF_ONE_BACKUP == 0:
            rig.settle()
            backup = base_backup(rig)
        rig.ledger.wait_for(dice.randrange(20, 200), 120)
        time.sleep(dice.uniform(0, 0.5))
        for node in rig.cluster.nodes:
            rig.cluster.kill_host(node)
        tally.faults["burn_everything"] += 1
        if not _check(rig, backup, tally, []):
            rig.diary.tell("violation", "it burnt, and was not restored")
        for node in rig.cluster.nodes:
            node.start()
    tally.timelines = rig.wait_caught_up().timeline


def _round(rig: Rig, dice: random.Random, seconds: float, only: tuple[str, ...], tally: Tally) -> None:
    """Overlapping faults, all of them ended at its end."""
    end = time.monotonic() + seconds
    running: list[tuple[float, str, ExitStack]] = []
    while time.monotonic() < end:
        for due in sorted(running, key=lambda one: one[0]):
            if due[0] <= time.monotonic():
                _end(rig, due[1], due[2])
                running.remove(due)
        name = dice.choice(only or _faults(rig))
        node, leader = dice.choice(rig.cluster.nodes), rig.leader()
        if dice.random() < 0.5:
            node = leader or node
        fault, shortest, longest = FAULTS[name]
        lasts = dice.uniform(shortest, longest)
        if len(running) < 3 and not clash(name, {one[1] for one in running}):
            stack = ExitStack()
            where = "" if name in EVERYWHERE else f" on {node.name}"
            leads = " (leads)" if where and leader is node else ""
            rig.diary.tell("fault", f"{name}{where}{leads} for {lasts:.0f} s", rig.diary.now + lasts)
            try:
                stack.enter_context(fault(rig, node))
            except UNDONE as problem:
                rig.diary.tell("note", f"{name} could not be done: {problem}")
            else:
                tally.faults[name] += 1
                running.append((time.monotonic() + lasts, name, stack))
        time.sleep(dice.uniform(1, 6))
    for _, name, stack in sorted(running, key=lambda one: one[0]):
        _end(rig, name, stack)


def _faults(rig: Rig) -> tuple[str, ...]:
    more = ("kill_backup_member",) * AT_BACKUPS if rig.jobs is not None and rig.jobs.one_runs else ()
    if rig.durable:
        return DURABLE + more
    elsewhere = ("far_", "kill_backup_member")
    usual = SEVERAL if rig.far is not None else tuple(name for name in FAULTS if not name.startswith(elsewhere))
    return usual + more


def _end(rig: Rig, name: str, stack: ExitStack) -> None:
    try:
        stack.close()
    except UNDONE as problem:
        rig.diary.tell("note", f"{name} did not end cleanly: {problem}")


def _check_backups(rig: Rig, jobs: Jobs) -> None:
    """What ``backups`` says has to be true. All faults have ended."""

    def objection(text: str) -> None:
        rig.diary.tell("violation", text)

    before, now = rig.job(), datetime.now(UTC)

    def over() -> Job | None:
        job = rig.job()
        return (
            job if job is not None and job.is_over and moment(job.due) > now - timedelta(seconds=jobs.every) else None
        )

    try:
        job = wait_until(over, "the backup that is due", patience(before), interval=1)
    except TimeoutError:
        objection(f"the backup that was due is not taken: {rig.job()}; before: {before}")
        return
    if job.state == "done" and job.attempt > allowed(before, job):
        objection(
            f"backup {job.backup}: attempt {job.attempt}, where {allowed(before, job)} should do; before: {before}"
        )
    wait_until(lambda: jobs.knows(job), "a look at it", 30)
    for text in jobs.given_up:
        objection(text)
    jobs.given_up.clear()
    record = rig.wait_caught_up()
    listed = check.backups(rig)
    for id_ in sorted(jobs.done - jobs.complete - jobs.excused):
        found = listed.get(id_, {"state": "not there", "why": None})
        if found["state"] == "complete":
            there = rig.backups(int(record.system_identifier))
            backup = BackupId.parse(id_)
            document = there.read(backup)
            assert isinstance(document, Backup)
            jobs.count(id_, there.pieces(backup), {piece.sha256 for piece in there.index(document)})
        elif found["state"] == "incomplete" and (why := check.excuse(rig, record, found)):
            jobs.excused.add(id_)
            rig.diary.tell("note", f"backup {id_}: {why}")
        else:
            objection(f"backup {id_}: its job is over, and it is {found['state']}: {found['why']}")
    for reading in jobs.too_fast(RATE):
        objection(f"{reading.node} leads, and sent {reading.bytes} bytes of a backup in {reading.seconds:.1f} s")
    good = sum(id_ in jobs.complete for id_ in jobs.made)
    rig.diary.tell("check", f"{good} of {len(jobs.made)} backups are complete; the last took attempt {job.attempt}")


def _check(rig: Rig, backup: Path | None, tally: Tally, known: list[Gap]) -> bool:
    """Each store by itself. Whether all were restored from. ``backup`` None: walkeeper's newest."""
    if any(store.record() is None for store in rig.stores):  # and nobody may be there to write one
        rig.diary.tell("note", "there is no record just now")
        return False
    sound = [_check_store(store, backup, tally, known) for store in rig.stores]
    return all(sound)


def _check_store(rig: Rig | Far, backup: Path | None, tally: Tally, known: list[Gap]) -> bool:
    """What the frontier says now must be there now, and a restore must not come over a gap. Whether it was restored.

    Who may have that WAL is asked when the cluster is whole again.
    """
    acknowledged = frozenset(row.id for row in rig.ledger.rows()) if rig.durable else None  # before the record is read
    record = rig.record()
    if record is None:
        rig.diary.tell("note", "there is no record just now")
        return False
    if check.looked_for(rig, record):
        rig.diary.tell("note", "not restored: WAL is looked for, or is about to be called lost")
        return False
    if backup is None:
        chain = check.newest(rig, record)
        if chain is None or check.on_the_way(check.open_gaps(rig), chain, record.size):
            rig.diary.tell("note", "not restored by walkeeper: no complete backup yet, or a gap behind it")
            return False
    elif holes := check.on_the_way(check.open_gaps(rig, known), check.chain(rig, backup, record), record.size):
        _cross(rig, backup, record, holes[0], tally)
        return False
    verdict = check.restore(rig, backup, record, acknowledged=acknowledged)
    tally.restores += 1
    tally.by_walkeeper += backup is None
    tally.rows += verdict.rows
    how = "by walkeeper restore" if backup is None else "from a base backup"
    rig.diary.tell("check" if verdict.sound else "violation", f"restored {how}: {verdict}")
    return verdict.sound


def _cross(rig: Rig | Far, backup: Path, record: Record, asked: Segment, tally: Tally) -> None:
    """To the end, and to a point behind the hole: both stop before it. Then to where the line says that one can end."""
    for target in (None, record.position):
        crossing = check.cross(rig, backup, record, asked, target)
        tally.crossings += 1
        goal = "the end" if target is None else str(target)
        text = crossing.objection or f"stopped at {asked}; it can be ended at {crossing.target}"
        rig.diary.tell("violation" if crossing.objection else "check", f"on the way to {goal}: {text}")
    if crossing.target is not None:
        verdict = check.restore(rig, backup, record, 5, crossing.target)
        tally.restores += 1
        tally.rows += verdict.rows
        rig.diary.tell("check" if verdict.sound else "violation", f"restored up to {crossing.target}: {verdict}")


def _hide_and_cross(rig: Rig, backup: Path, tally: Tally, dice: random.Random) -> None:
    """A hole that nobody recorded: an object is not there for a while, and no agent runs that would store it again."""
    record = rig.record()
    if record is None or not isinstance(rig.place, DirectoryPlace):
        return
    inside = check.chain(rig, backup, record)[BACKUP_SEGMENTS:-1]
    if inside:
        asked = dice.choice(inside)
        with rig.hidden(asked):
            _cross(rig, backup, record, asked, tally)


def facts(diary: Diary, tally: Tally) -> list[tuple[str, object]]:
    return [
        (
            "faults",
            f"{sum(tally.faults.values())}: " + ", ".join(f"{n} {name}" for name, n in tally.faults.most_common()),
        ),
        ("timelines", tally.timelines),
        ("restores from a base backup and the archive alone", tally.restores),
        ("of them by walkeeper restore, from its own backup", tally.by_walkeeper),
        ("restores that came to a hole and had to stop there", tally.crossings),
        ("acknowledged rows checked", tally.rows),
        ("gaps recorded, of WAL that was nowhere", tally.gaps),
        *(tally.jobs.facts(RATE) if tally.jobs is not None else ()),
        ("violated promises", len(diary.violations)),
        ("seconds", round(diary.now)),
    ]
