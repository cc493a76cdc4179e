"""From a base backup and the archive alone, through restore-wal: every row that was acknowledged below the frontier is there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import psycopg
import yaml

from benchmarks import wiring
from tests.parts.ledger import of_twins
from tests.parts.postgres import restore_server
from tests.parts.processes import CHECKOUT, new_directory, tail, wait_until
from tests.torture.rig import Rig
from walkeeper.archive.write import Archive
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.core.record import Record


@dataclass(frozen=True, slots=True)
class Verdict:
    """``missing``: ids of rows that had to be there; ``diverged``: how many rows only a member had that was promoted beside the leader;
    ``why`` is set where the restore itself failed."""

    record: Record
    rows: int
    missing: list[int]
    why: str = ""
    diverged: int = 0

    @property
    def sound(self) -> bool:
        return not self.missing and not self.why

    def __str__(self) -> str:
        lost = f"{len(self.missing)} are missing" if self.missing else "all are there"
        diverged = f"; {self.diverged} more went to a twin, and the leader has none of them" if self.diverged else ""
        return (
            self.why or f"{self.rows} rows below {self.record.lsn} of timeline {self.record.timeline}: {lost}{diverged}"
        )


def restore(
    rig: Rig, backup: Path, record: Record, deadline: float = 60, acknowledged: Collection[int] | None = None
) -> Verdict:
    """The record as it stood before: what it promised then must be in what the archive gives now. ``acknowledged``: the rows that
    must be, wherever the record stands.

    ``deadline``: seconds for which the store is asked again about what it lacks.
    """
    archive = wiring.archive_of(rig.cluster, rig.place)
    history = archive.contents.history(record.timeline)
    if history is None:
        return Verdict(record, 0, [], f"timeline {record.timeline} of the record has no history in the archive")
    directory = new_directory("r")
    config = directory / "restore.yml"
    config.touch(mode=0o600)  # it may hold a secret
    section = {"store": rig.place.section(), "restore": {"deadline": f"{deadline:g}s"}}
    config.write_text(yaml.safe_dump({"scope": "demo", "walkeeper": section}))
    command = f"{sys.executable} -m walkeeper -c {config} restore-wal %f %p"
    server = restore_server(
        backup, directory / "pg", command, bin_dir=rig.cluster.bin_dir,
        settings={"recovery_target_timeline": str(record.timeline)}, env={"PYTHONPATH": str(CHECKOUT)},
    )  # fmt: skip
    try:
        server.start(240)
        wait_until(
            lambda: not server.value("select pg_is_in_recovery()"), "the end of recovery", 240, logs=[server.log]
        )
        covered = rig.ledger.covered(history, _kept_from(archive, record))
        wanted = covered if acknowledged is None else acknowledged
        with server.connect() as connection:
            missing = rig.ledger.compare(connection, wanted)
        diverged = _abandoned(rig, missing)
        return Verdict(record, len(wanted) - len(diverged), sorted(set(missing) - diverged), diverged=len(diverged))
    except (TimeoutError, psycopg.OperationalError):  # it accepts connections before it stops at what is missing
        return Verdict(record, 0, [], f"the restore failed: {tail(server.log, 12)}")
    finally:
        server.close()
        shutil.rmtree(directory, ignore_errors=True)


def _abandoned(rig: Rig, missing: list[int]) -> set[int]:
    """Rows of the one of two members, promoted independently with the same number (docs/limits.md), that the cluster did not choose:
    its leader lacks them as well."""
    suspects = of_twins(rig.ledger.rows()) & set(missing)
    if not suspects:
        return set()
    with rig.cluster.wait_leader(120).connect() as leader:
        return set(rig.ledger.compare(leader, suspects))


def _kept_from(archive: Archive, record: Record) -> Lsn:
    """Up to where that record's timeline is served: if a newer one left it meanwhile, the tail beyond the fork is kept, and not
    served; whole segments are. Once the newer one's whole segment is there, the tail before the fork goes, too: it is in that.
    """
    newer = [found for step in range(1, 20) if (found := archive.contents.history(record.timeline + step)) is not None]
    forks = [switch.lsn for history in newer[-1:] for switch in history.switches if switch.timeline == record.timeline]
    if not forks:
        return record.position
    whole = record.position.floor(record.size)
    segment = newer[-1].segment(whole // record.size, record.size)
    superseded = segment.timeline != record.timeline and archive.contents.has(segment)
    return min(record.position, whole if superseded else max(forks[0], whole))


def verify(rig: Rig) -> str:
    """What ``verify`` has to object, once all is archived; "" if nothing. A gap that is recorded it has to name."""
    config = rig.config(rig.cluster.wait_leader())
    command = [sys.executable, "-m", "walkeeper", "verify", "-c", str(config)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=240, check=False)
    gaps = wiring.archive_of(rig.cluster, rig.place).contents.open_gaps()
    if done.returncode == 0 or (gaps and done.returncode == 1 and all(str(gap.start) in done.stdout for gap in gaps)):
        return ""
    return f"verify exits with {done.returncode}: {done.stdout} {done.stderr}"


def new_gaps(rig: Rig, known: set[str]) -> list[str]:
    """Gaps that the archive states and that are not closed, but for those that were known."""
    archive = wiring.archive_of(rig.cluster, rig.place)
    found = [f"{gap.timeline}:{gap.start}-{gap.end}" for gap in archive.contents.open_gaps()]
    return [gap for gap in found if gap not in known]


def who_has(rig: Rig, gap: str) -> list[str]:
    """The nodes whose pg_wal still has a segment that was called lost: there must be none."""
    match = re.fullmatch(r"(\d+):(\S+?)-(\S+)", gap)
    record = rig.record()
    assert match is not None
    assert record is not None
    size = record.size
    numbers = range(Lsn.parse(match[2]) // size, Lsn.parse(match[3]) // size)
    names = {Segment(int(match[1]), number, size).name for number in numbers}
    return [node.name for node in rig.cluster.nodes if names & set(node.segments())]
