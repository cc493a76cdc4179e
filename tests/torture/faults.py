"""What is done to the cluster. Each fault begins, lasts for some seconds while others come, and is ended; it may end by itself."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import psycopg

from benchmarks.places import Place
from tests.parts.node import Node
from tests.torture.rig import RECORD, SEGMENT_MB, Rig
from walkeeper.core.lsn import MIB

TTL: Final = 20
Fault = Callable[[Rig, Node], contextlib.AbstractContextManager[None]]
FAULTS: Final[dict[str, tuple[Fault, float, float]]] = {}
"""Name to fault, shortest and longest duration in seconds."""
PARTS: Final = ("agent", "receiver", "patroni", "postmaster")


def fault(shortest: float, longest: float) -> Callable[[Callable[[Rig, Node], Iterator[None]]], None]:
    def note(function: Callable[[Rig, Node], Iterator[None]]) -> None:
        FAULTS[function.__name__] = (contextmanager(function), shortest, longest)

    return note


def send(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def processes_of(rig: Rig, node: Node, part: str) -> list[int]:
    """Raises RuntimeError where there is none: that would be no fault."""
    if not (pids := rig.processes(node, part)):
        raise RuntimeError(f"{node.name} has no {part} now")
    return pids


def _kill(part: str) -> None:
    @fault(2, 6)
    def kill(rig: Rig, node: Node) -> Iterator[None]:
        pids = processes_of(rig, node, part)
        alone = part == "agent" and len(rig.diary.entries) % 2  # its parent starts it again
        send(pids[-1:] if alone else pids, signal.SIGKILL)
        yield
        if part == "patroni" and not node.running:
            node.start()
        elif part == "agent" and node.running and not rig.processes(node, part):
            rig.start_agent(node)

    FAULTS[f"kill_{part}"] = FAULTS.pop("kill")


def _stop(part: str) -> None:
    @fault(5, TTL + 10)
    def stop(rig: Rig, node: Node) -> Iterator[None]:
        pids = processes_of(rig, node, part)
        send(pids, signal.SIGSTOP)
        yield
        send(pids, signal.SIGCONT)

    FAULTS[f"stop_{part}"] = FAULTS.pop("stop")


for _part in PARTS:
    _kill(_part)
    _stop(_part)


@fault(3, TTL + 10)
def kill_host(rig: Rig, node: Node) -> Iterator[None]:
    rig.cluster.kill_host(node)
    if rig.leader() is node and len(rig.diary.entries) % 2:
        rig.cluster.expire_leader()  # without waiting for the TTL
    yield
    if not node.running:
        node.start()


@fault(5, TTL + 10)
def stop_host(rig: Rig, node: Node) -> Iterator[None]:
    rig.cluster.pause(node)
    yield
    rig.cluster.resume(node)


@fault(2, 8)
def kill_everything(rig: Rig, _: Node) -> Iterator[None]:
    """All members at once, as if everything burnt: what they had on their disks does not count, until they start again."""
    for node in rig.cluster.nodes:
        rig.cluster.kill_host(node)
    yield
    for node in rig.cluster.nodes:
        if not node.running:
            node.start()


@fault(3, TTL)
def kill_backup_member(rig: Rig, _: Node) -> Iterator[None]:
    """Who takes the cluster's base backup now: its host, its agent with all that it runs, or the backup alone."""
    job = rig.job()
    if job is None or job.state != "running":
        raise RuntimeError("no backup is taken now")
    node, kind = rig.cluster.node(job.node), len(rig.diary.entries) % 3
    if kind == 0:
        rig.cluster.kill_host(node)
    else:
        send(processes_of(rig, node, "agent" if kind == 1 else "backup"), signal.SIGKILL)
    yield
    if not node.running:
        node.start()
    elif not rig.processes(node, "agent"):
        rig.start_agent(node)


@fault(3, 8)
def switchover(rig: Rig, node: Node) -> Iterator[None]:
    leader = rig.leader()
    if leader is None:
        raise RuntimeError("nobody leads")
    leader.rest("switchover", {"leader": leader.name}, timeout=20)
    yield


@fault(2, 4)
def reinit(rig: Rig, node: Node) -> Iterator[None]:
    if rig.leader() is node or not node.running:
        raise RuntimeError(f"{node.name} leads, or is down")
    node.rest("reinitialize", {"force": True}, timeout=20)
    yield


@fault(5, 10)
def promote_by_hand(rig: Rig, node: Node) -> Iterator[None]:
    """In a pause: two primaries until Patroni has its say again."""
    rig.paused(True)
    if rig.leader() is not node:
        rig.promoted.add(node.name)
        with contextlib.suppress(psycopg.Error):
            node.execute("select pg_promote(false)")
    yield
    rig.paused(False)


# ------------------------------------------------------------------------------------------------------------------- DCS


@fault(3, TTL)
def dcs_stopped(rig: Rig, _: Node) -> Iterator[None]:
    rig.cluster.etcd.stop()
    yield
    rig.cluster.etcd.start()


@fault(3, TTL)
def dcs_hangs(rig: Rig, _: Node) -> Iterator[None]:
    rig.cluster.etcd.freeze()
    yield
    rig.cluster.etcd.thaw()


@fault(5, 15)
def dcs_slow(rig: Rig, _: Node) -> Iterator[None]:
    for node in rig.cluster.nodes:
        assert node.proxy is not None
        node.proxy.delay = 0.3
    yield
    for node in rig.cluster.nodes:
        assert node.proxy is not None
        node.proxy.delay = 0.0


@fault(5, TTL + 10)
def cut_from_dcs(rig: Rig, node: Node) -> Iterator[None]:
    assert node.proxy is not None
    node.proxy.cut()
    yield
    node.proxy.fix()


@fault(1, 2)
def record_wiped(rig: Rig, _: Node) -> Iterator[None]:
    rig.cluster.etcd.delete(RECORD)
    yield


@fault(5, 15)
def record_put_back(rig: Rig, _: Node) -> Iterator[None]:
    """As after a restore of the DCS from a backup."""
    old = rig.cluster.etcd.get(RECORD)
    yield
    if old is not None:
        rig.cluster.etcd.put(RECORD, old)


# ----------------------------------------------------------------------------------------------------------------- store


@fault(5, 25)
def store_away(rig: Rig, _: Node) -> Iterator[None]:
    rig.place.away()
    yield
    rig.place.back()


@fault(5, 25)
def store_hangs(rig: Rig, _: Node) -> Iterator[None]:
    rig.place.hang()
    yield
    rig.place.back()


@fault(5, 25)
def store_denies(rig: Rig, _: Node) -> Iterator[None]:
    rig.place.deny()
    yield
    rig.place.back()


@fault(5, 20)
def store_slow(rig: Rig, _: Node) -> Iterator[None]:
    rig.place.slow(1.5)
    yield
    rig.place.back()


@fault(5, 25)
def far_away(rig: Rig, _: Node) -> Iterator[None]:
    _far(rig).away()
    yield
    _far(rig).back()


@fault(5, 25)
def far_denies(rig: Rig, _: Node) -> Iterator[None]:
    _far(rig).deny()
    yield
    _far(rig).back()


@fault(30, 90)
def far_slow(rig: Rig, _: Node) -> Iterator[None]:
    _far(rig).slow(1.5)
    yield
    _far(rig).back()


def _far(rig: Rig) -> Place:
    if rig.far is None:
        raise RuntimeError("there is one store")
    return rig.far.place


@fault(5, 15)
def spool_disk_full(rig: Rig, node: Node) -> Iterator[None]:
    """No mount without root: files larger than half a segment cannot be written by the agent and pg_receivewal."""
    _limit(rig, node, SEGMENT_MB * MIB // 2)
    yield
    _limit(rig, node, resource.RLIM_INFINITY)  # also of who was started meanwhile, and inherited it


def _limit(rig: Rig, node: Node, size: int) -> None:
    for pid in [*rig.processes(node, "agent"), *rig.processes(node, "receiver")]:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


EXCLUSIVE: Final = (
    {"dcs_stopped", "dcs_hangs", "record_wiped", "record_put_back", "promote_by_hand"},
    {
        "store_away",
        "store_hangs",
        "store_denies",
        "store_slow",
        "store_exchanged",
        "prefix_swapped",
        "frozen_while_it_delivers",
        "lost_for_good",
    },
    {"store_exchanged", "prefix_swapped", "record_wiped", "record_put_back"},
    {"far_away", "far_denies", "far_slow"},
)
"""Of each set one at a time: they use one switch. A cluster without a record begins an archive wherever its store is."""
STAGED: Final = {"leader_put_back", "frozen_while_it_delivers", "lost_for_good"}
"""Each needs who leads, who follows and who has what to stay as it arranges them: none of MOVING may come meanwhile."""
MOVING: Final = {
    *(f"{what}_{part}" for what in ("kill", "stop") for part in ("patroni", "postmaster", "host")),
    "kill_backup_member",
    "switchover",
    "reinit",
    "promote_by_hand",
    "dcs_stopped",
    "dcs_hangs",
    "cut_from_dcs",
    "volume_put_back",
}
EVERYWHERE: Final = {
    "kill_everything",
    "kill_backup_member",
    "dcs_stopped",
    "dcs_hangs",
    "dcs_slow",
    "record_wiped",
    "record_put_back",
    "store_away",
    "store_hangs",
    "store_denies",
    "store_slow",
    "store_exchanged",
    "prefix_swapped",
    "far_away",
    "far_denies",
    "far_slow",
    *STAGED,
}


DURABLE: Final = (
    *(f"{what}_{part}" for what in ("kill", "stop") for part in ("agent", "patroni", "postmaster")),
    *("kill_host", "stop_host", "switchover", "reinit", "dcs_stopped", "dcs_hangs", "dcs_slow", "cut_from_dcs"),
    *("store_away", "store_hangs", "store_denies", "store_slow", "kill_everything", "kill_everything"),
)
"""Where commits wait for the store: nothing that writes past Patroni, or puts a record back."""


SEVERAL: Final = (
    *(f"{what}_{part}" for what in ("kill", "stop") for part in ("agent", "receiver", "patroni", "postmaster", "host")),
    *(
        "switchover",
        "reinit",
        "kill_everything",
        "dcs_stopped",
        "dcs_hangs",
        "dcs_slow",
        "cut_from_dcs",
        "record_wiped",
    ),
    *(
        "store_away",
        "store_away",
        "store_hangs",
        "store_denies",
        "store_slow",
        "far_away",
        "far_away",
        "far_denies",
        "far_slow",
    ),
)
"""Where there are two stores."""


def clash(name: str, open_faults: set[str]) -> bool:
    staged = (name in STAGED and open_faults & (MOVING | STAGED)) or (name in MOVING and open_faults & STAGED)
    return name in open_faults or bool(staged) or any(name in names and names & open_faults for names in EXCLUSIVE)
