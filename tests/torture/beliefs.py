"""Faults that lie: volumes that go back to a snapshot, a store that is another one, members that freeze while they deliver, and WAL
that nobody has any more. Each says how its world is brought back, and what the check may expect of it.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psycopg

from benchmarks import wiring
from benchmarks.places import DirectoryPlace, Place
from tests.parts.node import Node
from tests.parts.processes import new_directory, stands_still, wait_until
from tests.torture.faults import FAULTS, fault, processes_of, send
from tests.torture.rig import Rig, SecondLife
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.errors import StoreError
from walkeeper.store.base import Store

__all__ = ["FAULTS"]

AHEAD: Final = 6
"""Segments that a first life has beyond the snapshot, so that the second one does not come to them while anybody streams from it."""
LOST: Final = 4
"""Segments that vanish."""


# ------------------------------------------------------------------------------------------------------------- volumes


@fault(5, 25)
def volume_put_back(rig: Rig, node: Node) -> Iterator[None]:
    """A standby's host dies, and comes back with the disk of some seconds ago, spool included. It follows again; nothing is lost.

    Not a primary's: where it is back before its lease ends, Patroni lets it write on from there, and the archive of what it wrote
    before rightly ends. ``leader_put_back`` is about that.
    """
    if not (node.data / "standby.signal").exists():
        raise RuntimeError(f"{node.name} is not a standby")
    taken = _snapshot(node)
    yield
    rig.cluster.kill_host(node)
    if rig.leader() in {node, None}:
        rig.cluster.expire_leader()
        rig.cluster.wait_leader(60, but_not=node)
    _put_back(node, taken)
    node.start()


@fault(10, 35)
def leader_put_back(rig: Rig, _: Node) -> Iterator[None]:
    """PostgreSQL crashes, its volume is a snapshot of before, and Patroni starts it again as what it was: a primary, on the same
    timeline, with less WAL than is archived. Nothing of this second life may come into the archive. Its rows are nobody's.

    Ended by giving up the volume, and promoting a member that has the first life: frozen meanwhile, where the second life goes
    on past the frontier, since PostgreSQL lets a standby take the other life's WAL from there on.
    """
    leader, replicas = _whole(rig)
    past = len(rig.diary.entries) % 2
    taken = _snapshot(leader)
    end = _end_segments(leader, AHEAD)
    wait_until(lambda: (record := rig.record()) is not None and record.position >= end, "the frontier behind it", 30)
    for replica in replicas:
        wait_until(lambda replica=replica: _received(replica) >= end, "the replicas behind it", 20)  # type: ignore[misc]
    with contextlib.ExitStack() as afterwards:
        if past:
            for replica in replicas:
                afterwards.callback(replica.host.resume)
                replica.host.pause()
        patroni = processes_of(rig, leader, "patroni")
        send(patroni, signal.SIGSTOP)
        afterwards.callback(send, patroni, signal.SIGCONT)
        first_end = _written(leader)
        _kill_server(leader)
        _put_back(leader, taken)
        life = SecondLife(leader.port, time.monotonic())
        rig.second_lives.append(life)
        afterwards.callback(_give_up, rig, leader, life)
        send(patroni, signal.SIGCONT)
        wait_until(leader.writable, f"{leader.name} in its second life", 30, logs=[leader.log])
        if rig.leader() is not leader or _written(leader) >= end:
            raise RuntimeError(f"{leader.name} has no second life: {rig.members()}")
        if past:
            _end_segments(leader, 2 * AHEAD)
        yield
        record = rig.record()
        rig.diary.tell("note", f"{leader.name} was at {_written(leader)} of its second life; {rig.problems(leader)}")
        if record is not None and record.position >= first_end + 2 * record.size:
            rig.diary.tell(
                "violation", f"the frontier went to {record.lsn} in a second life; the first ended at {first_end}"
            )


def _give_up(rig: Rig, node: Node, life: SecondLife) -> None:
    """Its volume: Patroni builds it again, from whoever leads then."""
    rig.cluster.kill_host(node)
    life.until = time.monotonic()
    shutil.rmtree(node.data)
    for other in rig.cluster.nodes:
        if other is not node:
            other.host.resume()
    rig.cluster.expire_leader()
    rig.cluster.wait_leader(60, but_not=node)
    node.start()


def _snapshot(node: Node) -> Path:
    """Of its data directory and its spool, as a disk has them at one moment: nothing runs on that host meanwhile."""
    directory = new_directory("v")
    try:
        _freeze(node)
        for place in _volume(node):
            shutil.copytree(place, directory / place.name, symlinks=True)
    finally:
        node.host.resume()
    return directory


def _put_back(node: Node, taken: Path) -> None:
    for place in _volume(node):
        if (taken / place.name).exists():
            shutil.rmtree(place)
            (taken / place.name).rename(place)
    shutil.rmtree(taken)


def _volume(node: Node) -> list[Path]:
    return [place for place in (node.data, node.data.with_name(f"{node.data.name}.walkeeper")) if place.exists()]


def _freeze(node: Node) -> None:
    """All of it stands still when this returns."""

    def still() -> bool:
        node.host.pause()
        return all(map(stands_still, node.host.pids()))

    wait_until(still, f"{node.name} stands still", 10)


def _kill_server(node: Node) -> None:
    """PostgreSQL, and nothing else on that host."""

    def gone() -> bool:
        servers = _servers(node)
        send(servers, signal.SIGKILL)
        return not servers

    wait_until(gone, f"{node.name}: no PostgreSQL", 10)


def _servers(node: Node) -> list[int]:
    found = []
    for pid in node.host.pids():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/exe").readlink() == (node.bin_dir / "postgres").resolve():
                found.append(pid)
    return found


# --------------------------------------------------------------------------------------------------------------- store


@fault(5, 25)
def store_exchanged(rig: Rig, _: Node) -> Iterator[None]:
    """Another directory lies where the archive was: an empty one, or another cluster's archive. Nothing may be stored there."""
    if not isinstance(rig.place, DirectoryPlace):
        raise RuntimeError("only a directory is exchanged")  # noqa: TRY004 - as any fault that cannot be done
    other = new_directory("o") / "archive"
    other.mkdir()
    if len(rig.diary.entries) % 2:
        for archive in rig.place.root.glob("*/*"):
            shutil.copytree(
                archive, other / archive.parent.name / f"{archive.name}1", ignore=shutil.ignore_patterns("wal", "tail")
            )
    before = strays(other, set())
    rig.place.exchange(other)
    yield
    rig.place.back()
    if found := sorted(strays(other, before)):
        rig.diary.tell("violation", f"stored in a directory that is not the archive: {', '.join(found)}")


@fault(8, 30)
def prefix_swapped(rig: Rig, node: Node) -> Iterator[None]:
    """Somebody changes where the store is, in the configuration of all agents or of one, and tells them: a slip of the pen, a place
    that is empty, or another cluster's. Then it is put right. Nothing may be stored in the wrong place.
    """
    kind = len(rig.diary.entries) % 6
    other = rig.place.beside()
    if kind % 3 == 0 and isinstance(other, DirectoryPlace):
        other.root.rmdir()
    elif kind % 3 == 2:
        _copy_as_anothers(rig.place.store(), other.store())
    before = _keys(other)
    nodes = rig.cluster.nodes if kind < 3 else [node]
    what = ("one that is not there", "an empty one", "another cluster's")[kind % 3]
    rig.diary.tell("note", f"the store of {', '.join(each.name for each in nodes)} is {what} now")
    rig.reconfigure(nodes, {"store": other.section()})
    yield
    rig.diary.tell("note", f"{nodes[0].name}: {rig.problems(nodes[0])}")
    rig.reconfigure(rig.cluster.nodes)
    if found := sorted(_keys(other) - before):
        rig.diary.tell("violation", f"stored in a place that is not the archive's: {', '.join(found)}")


def _keys(place: Place) -> set[str]:
    """But for the probes that a killed agent leaves behind: every place is probed, before anything is archived there."""
    try:
        return {info.key for info in place.store().list("") if not info.key.startswith("probe/")}
    except StoreError:
        return set()  # it is not there, and was not made


def _copy_as_anothers(archive: Store, other: Store) -> None:
    """All but the WAL, under another cluster's system identifier."""
    for info in archive.list(""):
        scope, system, *rest = info.key.split("/")
        if rest and rest[0] not in {"wal", "tail", "backup"} and (body := archive.get(info.key)) is not None:
            other.create("/".join([scope, f"{system}1", *rest]), body, body.metadata)


def strays(root: Path, before: set[str]) -> set[str]:
    """Objects that were not there before."""
    files = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith(".tmp-"))
    return {str(path.relative_to(root)) for path in files} - before


# ------------------------------------------------------------------------------------------------------------ lost WAL


@fault(5, 25)
def frozen_while_it_delivers(rig: Rig, _: Node) -> Iterator[None]:
    """Who is promoted lacks WAL that is not archived. The one member that has it, and is up, freezes: its server, its agent or all
    of it, and once more in the middle of what it delivers. No gap may come of that.
    """
    leader, replicas = _whole(rig)
    kind = len(rig.diary.entries) % 6
    heir, holder = replicas if kind < 3 else replicas[::-1]
    with contextlib.ExitStack() as afterwards:
        afterwards.callback(rig.place.back)
        rig.place.deny()
        lost = _forget(rig, leader, [heir], [leader, *replicas])
        afterwards.callback(node_starts, leader)
        afterwards.callback(holder.host.resume)
        _freeze(holder)
        end = _end_segments(leader, 1)
        wait_until(lambda: _received(heir) >= end, f"{heir.name} ahead of {holder.name}", 20)
        rig.cluster.kill_host(leader)
        rig.held |= dict.fromkeys(lost, holder.name)
        rig.cluster.expire_leader()
        rig.cluster.wait_leader(60, but_not=leader)
        rig.place.back()
        frozen = {0: set(), 1: set(_servers(holder)), 2: set(rig.processes(holder, "agent"))}[kind % 3]
        if frozen:
            send(sorted(holder.host.pids() - frozen), signal.SIGCONT)
        yield
        holder.host.resume()
        servers = _servers(holder)
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: any(wiring.spool_fetch(heir).glob("*")), "a delivery", 15, interval=0.001)
            send(servers, signal.SIGSTOP)
            rig.diary.tell("note", f"{holder.name} froze while it delivered to {heir.name}; {rig.problems(heir)}")
            time.sleep(3)
            send(servers, signal.SIGCONT)
        log = wiring.agent_log(heir).read_text("utf-8", "replace")
        got = [segment.name for segment in lost if f"fetched_from_member segment={segment}" in log]
        rig.diary.tell("note", f"{heir.name} has fetched {len(got)} of {len(lost)} so far")


@fault(2, 4)
def lost_for_good(rig: Rig, _: Node) -> Iterator[None]:
    """Segments that are not archived vanish from every member and spool. That is a gap, said to be one, and restores stop there."""
    leader, replicas = _whole(rig)
    with contextlib.ExitStack() as afterwards:
        afterwards.callback(rig.place.back)
        rig.place.deny()
        send(processes_of(rig, leader, "agent"), signal.SIGKILL)  # what it holds in memory would be stored
        lost = _forget(rig, leader, [leader, *replicas], [leader, *replicas])
        rig.held |= dict.fromkeys(lost, "")
        for segment in lost:
            for copy in leader.directory.rglob(f"{segment.name}*"):
                copy.unlink()
        rig.diary.tell("note", f"lost for good: {', '.join(segment.name for segment in lost)}")
        yield
        afterwards.close()
        rig.start_agent(leader)


def _forget(rig: Rig, leader: Node, forgetful: list[Node], nodes: list[Node]) -> list[Segment]:
    """Segments above the frontier, which nobody needs but for the archive, vanish from ``forgetful``'s pg_wal."""
    record = rig.record()
    if record is None:
        raise RuntimeError("there is no record just now")
    first = record.position // record.size + 1
    end = _end_segments(leader, LOST + 2)
    lost = [Segment(record.timeline, number, record.size) for number in range(first, first + LOST)]
    leader.execute("CHECKPOINT")
    end = _written(leader)
    for node in nodes:
        wait_until(lambda node=node: _replayed(node) >= end, f"{node.name} at {end}", 20)  # type: ignore[misc]
        node.execute("CHECKPOINT")
        redo = Lsn.parse(str(node.value("SELECT redo_lsn::text FROM pg_control_checkpoint()")))
        if redo < lost[-1].end:
            raise RuntimeError(f"{node.name} would begin at {redo} after a crash, and needs what is to vanish")
    for node in forgetful:
        for segment in lost:
            (node.data / "pg_wal" / segment.name).unlink(missing_ok=True)
    return lost


def node_starts(node: Node) -> None:
    if not node.running:
        node.start()


# ------------------------------------------------------------------------------------------------------------- looking


def _whole(rig: Rig) -> tuple[Node, list[Node]]:
    """The leader, whose agent owns the record, and those who stream from it. Raises TimeoutError where that is not all of them."""

    def found() -> tuple[Node, list[Node]] | None:
        leader, record = rig.leader(), rig.record()
        if leader is None or record is None or record.owner != leader.name:
            return None
        with contextlib.suppress(psycopg.Error):
            streaming = leader.execute("SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'")
            timeline = int(str(leader.value("SELECT pg_walfile_name(pg_current_wal_lsn())"))[:8], 16)
            replicas = [node for node in rig.cluster.nodes if (node.name,) in streaming]
            if record.timeline == timeline and len(replicas) == len(rig.cluster.nodes) - 1:
                return leader, replicas
        return None

    return wait_until(found, "a whole cluster, whose leader owns the record", 15)


def _end_segments(leader: Node, count: int) -> Lsn:
    """Nearly empty ones; the end of the last."""
    with leader.connect() as connection:
        for _ in range(count):
            connection.execute("SELECT pg_logical_emit_message(true, 'torture', 'the end')")
            connection.execute("SELECT pg_switch_wal()")
    return _written(leader)


def _written(node: Node) -> Lsn:
    return Lsn.parse(str(node.value("SELECT pg_current_wal_lsn()::text")))


def _received(node: Node) -> Lsn:
    return Lsn.parse(str(node.value("SELECT pg_last_wal_receive_lsn()::text")))


def _replayed(node: Node) -> Lsn:
    sql = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text"
    return Lsn.parse(str(node.value(sql)))
