"""From a base backup and the archive alone, through restore-wal: every row that was acknowledged below the frontier is there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg
import yaml

from benchmarks import wiring
from benchmarks.restored import chain_of
from tests.parts.ledger import Acknowledged, of_twins
from tests.parts.node import Node
from tests.parts.postgres import Postgres, restore_server
from tests.parts.processes import CHECKOUT, Host, host, new_directory, tail, wait_until
from tests.torture.backups import has_left
from tests.torture.rig import Far, Rig, SecondLife
from walkeeper.archive.write import Archive
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.record import Gap, Record

FIRST_WITH_PREFETCH: Final = 15


@dataclass(frozen=True, slots=True)
class Verdict:
    """``missing``: ids of rows that had to be there; ``spliced``: those of a second life that are there; ``diverged``: how many rows
    only a member had that was promoted beside the leader; ``why`` is set where the restore itself failed."""

    record: Record
    rows: int
    missing: list[int]
    why: str = ""
    diverged: int = 0
    spliced: list[int] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not (self.missing or self.spliced or self.why)

    def __str__(self) -> str:
        lost = f"{len(self.missing)} are missing" if self.missing else "all are there"
        lost += f"; {len(self.spliced)} are of a second life" if self.spliced else ""
        diverged = f"; {self.diverged} more went to a twin, and the leader has none of them" if self.diverged else ""
        return (
            self.why or f"{self.rows} rows below {self.record.lsn} of timeline {self.record.timeline}: {lost}{diverged}"
        )


@dataclass(frozen=True, slots=True)
class Crossing:
    """How a recovery ended that comes to a hole, with more WAL behind it. ``asked``: the first file that is not there."""

    asked: str
    opened: bool
    log: str

    @property
    def objection(self) -> str:
        """ "" if it stopped before the hole, and said which one it is, and how to end there on purpose."""
        if self.opened:
            return f"it opened for writes at a hole: {self.asked} is not there, and more is behind it"
        if f"restore_failed file={self.asked} exit=255" not in self.log or self.target is None:
            return f"it stopped without a line that names the hole at {self.asked}: {self.log[-2000:]}"
        return ""

    @property
    def target(self) -> Lsn | None:
        """The last position that can be restored, by that line."""
        said = re.search(r"the last record before it begins at ([0-9A-F]+/[0-9A-F]+)", self.log)
        return Lsn.parse(said[1]) if said else None


def restore(
    rig: Rig | Far,
    backup: Path | None,
    record: Record,
    deadline: float = 60,
    target: Lsn | None = None,
    acknowledged: Collection[int] | None = None,
) -> Verdict:
    """The record as it stood before: what it promised then must be in what the archive gives now, up to ``target``.
    ``acknowledged``: the rows that must be, wherever the record stands.

    ``deadline``: seconds for which the store is asked again about what it lacks. ``backup`` None: by ``walkeeper restore``, from the
    newest that walkeeper has.
    """
    archive = wiring.archive_of(rig.cluster, rig.place)
    history = archive.contents.history(record.timeline)
    if history is None:
        return Verdict(record, 0, [], f"timeline {record.timeline} of the record has no history in the archive")
    with contextlib.ExitStack() as opened:
        try:
            server = opened.enter_context(
                _restored(rig, record, deadline) if backup is None else _server(rig, backup, record, deadline, target)
            )
        except subprocess.CalledProcessError as problem:
            why = f"frontier {record.lsn} of timeline {record.timeline}: walkeeper restore exits with {problem.returncode}"
            return Verdict(record, 0, [], f"{why}: {problem.stderr}")
        try:
            server.start(240)
            wait_until(
                lambda: not server.value("select pg_is_in_recovery()"), "the end of recovery", 240, logs=[server.log]
            )
            upto = _kept_from(archive, record)
            second = of_second_lives(rig.ledger.rows(), rig.second_lives)
            covered = rig.ledger.covered(history, upto if target is None else min(target, upto))
            wanted = (covered if acknowledged is None else set(acknowledged)) - second
            with server.connect() as connection:
                missing = rig.ledger.compare(connection, wanted)
                spliced = sorted(second - set(rig.ledger.compare(connection, second)))
            diverged = _abandoned(rig, missing)
            left = sorted(set(missing) - diverged)
            return Verdict(record, len(wanted) - len(diverged), left, diverged=len(diverged), spliced=spliced)
        except (TimeoutError, psycopg.OperationalError):  # it accepts connections before it stops at what is missing
            return Verdict(record, 0, [], f"the restore failed: {tail(server.log, 12)}")


def cross(rig: Rig | Far, backup: Path, record: Record, asked: Segment, target: Lsn | None = None) -> Crossing:
    """A recovery from before the hole that begins with ``asked``, to the end or to a target behind it."""
    with _server(rig, backup, record, 5, target) as server:
        server.start(wait=False)

        def opened() -> bool:
            with contextlib.suppress(psycopg.Error):
                return not server.value("select pg_is_in_recovery()")
            return False

        wait_until(lambda: not server.running or opened(), "the end of recovery", 240, logs=[server.log])
        return Crossing(asked.name, server.running and opened(), server.log.read_text("utf-8", "replace"))


@contextlib.contextmanager
def _server(rig: Rig | Far, backup: Path, record: Record, deadline: float, target: Lsn | None) -> Iterator[Postgres]:
    """Not started yet; gone afterwards."""
    directory = new_directory("r")
    config = _config(rig, directory, deadline)
    command = f"{sys.executable} -m walkeeper -c {config} restore-wal %f %p"
    settings = rig.connections | {"recovery_target_timeline": str(record.timeline)}
    if target is not None:
        settings |= {"recovery_target_lsn": str(target), "recovery_target_action": "promote"}
        settings |= {"recovery_prefetch": "off"} if rig.cluster.major >= FIRST_WITH_PREFETCH else {}
    server = restore_server(
        backup, directory / "pg", command, bin_dir=rig.cluster.bin_dir, settings=settings,
        env={"PYTHONPATH": str(CHECKOUT)},
    )  # fmt: skip
    try:
        yield server
    finally:
        server.close()
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _restored(rig: Rig | Far, record: Record, deadline: float) -> Iterator[Postgres]:
    """By ``walkeeper restore``, which writes the recovery's settings, too. Raises CalledProcessError.

    Where WAL behind the frontier is there, and some before it not yet, it restores nothing by itself to the end, and names the
    position up to which it would: that is asked for then.
    """
    directory = new_directory("r")
    config = _config(rig, directory, deadline)
    server = Postgres(directory / "pg", rig.cluster.bin_dir, settings=rig.connections)
    what = ("restore", "--data-dir", server.data, "--timeline", record.timeline)
    try:
        try:
            walkeeper(server.host, config, *what, bin_dir=rig.cluster.bin_dir)
        except subprocess.CalledProcessError as refusal:
            if (upto := whole_up_to(str(refusal.stderr))) is None or upto < record.position:
                raise
            rig.diary.tell(
                "note", f"walkeeper restore: the archive is whole up to {upto}; the frontier is {record.lsn}"
            )
            walkeeper(server.host, config, *what, "--to", upto, "--action", "promote", bin_dir=rig.cluster.bin_dir)
        server.configure({})
        yield server
    finally:
        server.close()
        shutil.rmtree(directory, ignore_errors=True)


def whole_up_to(refusal: str) -> Lsn | None:
    """What the hint of ``--to latest`` says can be restored."""
    said = re.search(r"^HINT: --to ([0-9A-F]+/[0-9A-F]+) restores up to there", refusal, re.MULTILINE)
    return Lsn.parse(said[1]) if said else None


def walkeeper(machine: Host, config: Path, *arguments: object, bin_dir: Path) -> str:
    """What it prints. Raises CalledProcessError."""
    env = {"PATH": f"{bin_dir}:{os.environ['PATH']}"}
    return machine.run([sys.executable, "-m", "walkeeper", "-c", config, *arguments], env=env, timeout=240)


def _config(rig: Rig | Far, directory: Path, deadline: float = 60) -> Path:
    """Of somebody who knows the store, and nothing of the cluster."""
    config = directory / "restore.yml"
    config.touch(mode=0o600)  # it may hold a secret
    section = {"store": rig.place.section(), "restore": {"deadline": f"{deadline:g}s"}}
    config.write_text(yaml.safe_dump({"scope": "demo", "walkeeper": section}))
    return config


def backups(rig: Rig | Far) -> dict[str, dict[str, Any]]:
    """All that ``walkeeper backups`` tells of each, by id."""
    directory = new_directory("r")
    with host("backups", directory) as machine:
        said = walkeeper(machine, _config(rig, directory), "backups", "--json", bin_dir=rig.cluster.bin_dir)
    shutil.rmtree(directory)
    return {each["id"]: each for each in json.loads(said)["backups"]}


def newest(rig: Rig | Far, record: Record) -> list[Segment] | None:
    """What a restore of the newest complete backup of that record's branch needs, up to the frontier; None where there is none."""
    history = wiring.archive_of(rig.cluster, rig.place).contents.history(record.timeline)
    found = [
        each
        for each in backups(rig).values()
        if history is not None
        and each["state"] == "complete"
        and not has_left(history, each)
        and Lsn.parse(each["stop_lsn"]) <= record.position
    ]
    if history is None or not found:
        return None
    first = Lsn.parse(max(found, key=lambda each: Lsn.parse(each["stop_lsn"]))["start_lsn"]) // record.size
    return [history.segment(number, record.size) for number in range(first, record.position // record.size)]


def excuse(rig: Rig, record: Record, backup: Mapping[str, Any]) -> str:
    """Why a backup that is stored cannot be complete, whatever is tried; "" for no reason that would do."""
    contents = wiring.archive_of(rig.cluster, rig.place).contents
    history = contents.history(record.timeline)
    if history is None or has_left(history, backup):
        return f"timeline {record.timeline} left its branch before its stop at {backup['stop_lsn']}"
    numbers = range(Lsn.parse(backup["start_lsn"]) // record.size, Lsn.parse(backup["stop_lsn"]) // record.size + 1)
    needed = [history.segment(number, record.size) for number in numbers]
    lost = on_the_way(contents.open_gaps(), needed, record.size)
    return f"a gap in its WAL: {lost[0]} is nowhere" if lost else ""


def of_second_lives(rows: Iterable[Acknowledged], lives: Collection[SecondLife]) -> set[int]:
    """The ids that a server acknowledged after its volume had gone back: they may be nowhere in the archive."""
    return {row.id for row in rows if any(life.has(row) for life in lives)}


def _abandoned(rig: Rig | Far, missing: list[int]) -> set[int]:
    """Rows of the one of two members, promoted independently with the same number (docs/limits.md), that the cluster did not choose:
    its leader lacks them as well."""
    suspects = of_twins(rig.ledger.rows()) & set(missing)
    if not suspects:
        return set()
    with rig.cluster.wait_leader(120).connect() as leader:
        return set(rig.ledger.compare(leader, suspects))


def _kept_from(archive: Archive, record: Record) -> Lsn:
    """Up to where that record's timeline is served: if a newer one left it meanwhile, the tail beyond the fork is kept, and not
    served; whole segments are.
    """
    newer = [found for step in range(1, 20) if (found := archive.contents.history(record.timeline + step)) is not None]
    forks = [switch.lsn for history in newer[-1:] for switch in history.switches if switch.timeline == record.timeline]
    if not forks:
        return record.position
    return min(record.position, max(forks[0], record.position.floor(record.size)))


def verify(rig: Rig) -> str:
    """What ``verify`` has to object, once all is archived; "" if nothing. A gap that is recorded it has to name."""
    config = rig.config(rig.cluster.wait_leader())
    command = [sys.executable, "-m", "walkeeper", "verify", "-c", str(config)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=240, check=False)
    gaps = wiring.archive_of(rig.cluster, rig.place).contents.open_gaps()
    if done.returncode == 0 or (gaps and done.returncode == 1 and all(str(gap.start) in done.stdout for gap in gaps)):
        return ""
    return f"verify exits with {done.returncode}: {done.stdout} {done.stderr}"


def chain(rig: Rig | Far, backup: Path, record: Record) -> list[Segment]:
    """Each segment that a restore of that backup needs up to the record's frontier; none where that timeline has no history."""
    history = wiring.archive_of(rig.cluster, rig.place).contents.history(record.timeline)
    return [] if history is None else chain_of(backup, history, record.position, record.size)


def open_gaps(rig: Rig | Far, known: Collection[Gap] = ()) -> list[Gap]:
    """Gaps that the archive states and that are not closed, but for those that were known."""
    archive = wiring.archive_of(rig.cluster, rig.place)
    return [gap for gap in archive.contents.open_gaps() if gap not in known]


def looked_for(rig: Rig | Far, record: Record) -> bool:
    """Whether the archive lacks WAL that is neither known to be lost nor stored yet: a restore to the end stops there."""
    contents = wiring.archive_of(rig.cluster, rig.place).contents
    history = contents.history(record.timeline)
    gone = {segment for gap in contents.open_gaps() for segment in segments_of(gap, record.size)}
    wanted = [segment for segment in rig.held if history is None or history.contains(segment)]
    return bool(record.suspected) or any(segment not in gone and not contents.has(segment) for segment in wanted)


def segments_of(gap: Gap, size: SegmentSize) -> list[Segment]:
    numbers = range(Lsn.parse(gap.start) // size, Lsn.parse(gap.end) // size)
    return [Segment(gap.timeline, number, size) for number in numbers]


def on_the_way(gaps: Iterable[Gap], chain: Collection[Segment], size: SegmentSize) -> list[Segment]:
    """What a restore along that chain needs and does not find, in order: a gap of an abandoned branch is in nobody's way."""
    return sorted({segment for gap in gaps for segment in segments_of(gap, size)} & set(chain))


def who_has(gap: Gap, size: SegmentSize, nodes: Iterable[Node], held: Mapping[Segment, str]) -> list[str]:
    """Who still has a segment that was called lost, or had it all the time: there must be nobody."""
    lost = segments_of(gap, size)
    names = {segment.name for segment in lost}
    there = {node.name for node in nodes if names & set(node.segments())}
    return sorted(there | {held[segment] for segment in lost if held.get(segment)})
