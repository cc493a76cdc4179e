"""One schedule: a seed, the faults it draws, and how the world ends. A failing one is shrunk to the faults that it needs."""

from __future__ import annotations

import random
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tests.parts.ways import WAYS, Way
from tests.simulation import faults
from tests.simulation.faults import Fault
from tests.simulation.invariants import record_of
from tests.simulation.seams import simulated
from tests.simulation.wal import SIZE, readable
from tests.simulation.world import World
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.core.record import Record

CATCH_UP: Final = 400.0
"""Simulated seconds after the faults in which the frontier must reach the end of the WAL."""
_QUICK: Final = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Schedule:
    """``kept``: which of the seed's faults happen, by number; None for all. ``kinds``: what they are drawn from."""

    seed: int
    kept: tuple[int, ...] | None = None
    kinds: tuple[str, ...] = ()
    archiver: Way = "streaming"

    @property
    def faults(self) -> dict[int, Fault]:
        kinds = self.kinds or {"durable": faults.DURABLE, "several": faults.SEVERAL}.get(self.archiver, ())
        drawn = faults.draw(random.Random(f"{self.seed}/faults"), kinds)
        return {n: fault for n, fault in enumerate(drawn) if self.kept is None or n in self.kept}

    @property
    def tails(self) -> bool:
        """Whether its agents ship the tail: every second seed's do, where there is one."""
        return self.archiver == "durable" or (self.seed % 2 == 1 and self.archiver != "command")

    def __str__(self) -> str:
        kinds = f"@{'+'.join(self.kinds)}" if self.kinds else ""
        mode = "" if self.archiver == "streaming" else f"{self.archiver}/"
        return f"{mode}{self.seed}{kinds}" + ("" if self.kept is None else f":{','.join(map(str, self.kept))}")

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """``1234``, ``1234:0,3``, ``1234@kill_agent+switchover:0,3``, ``command/1234…`` or ``builtin/…``. Raises ValueError."""
        archiver: Way = next((way for way in WAYS if text.startswith(f"{way}/")), "streaming")
        drawn, colon, kept = text.removeprefix(f"{archiver}/").partition(":")
        seed, _, kinds = drawn.partition("@")
        numbers = tuple(int(number) for number in kept.split(",") if number) if colon else None
        return cls(int(seed), numbers, tuple(kind for kind in kinds.split("+") if kind), archiver)


@dataclass(frozen=True, slots=True)
class Outcome:
    """``problem``: the violated invariant. ``trace`` is every step, if that was asked for."""

    schedule: Schedule
    problem: str | None
    takeovers: int
    writes: int
    gaps: int
    branches: int
    seconds: float
    trace: list[str]


def play(schedule: Schedule, *, trace: bool = False) -> Outcome:
    """Run it to its end, or to the first violation."""
    directory = Path(tempfile.mkdtemp(prefix="walkeeper-sim-", dir=_QUICK if _QUICK.is_dir() else None))
    dice = random.Random(f"{schedule.seed}/world")
    world = World(dice, directory, archiver=schedule.archiver, tails=schedule.tails, trace=trace)
    problem = None
    try:
        with simulated():
            try:
                _run(world, schedule)
            except AssertionError as violation:
                problem = str(violation)
            world.loop.finish()
            world.invariants.forget()
            if world.beside is not None:
                world.beside.invariants.forget()
    finally:
        shutil.rmtree(directory)
    told = world.invariants
    return Outcome(
        schedule, problem, told.takeovers, told.writes, told.gaps, len(world.branches), world.loop.now,
        world.loop.trace or [],
    )  # fmt: skip


def _run(world: World, schedule: Schedule) -> None:
    for fault in schedule.faults.values():
        world.after(fault.at, lambda fault=fault: fault.strike(world))  # type: ignore[misc]
    world.loop.run_until(faults.LAST + 5)
    faults.heal(world)
    world.loop.run_until(world.loop.now + 10)
    world.busy = False
    deadline = world.loop.now + CATCH_UP
    while (lacks := _lacks(world)) and world.loop.now < deadline:
        world.loop.run_until(world.loop.now + 5)
        world.reach_what_is_stored()
        world.accept_what_was_put_back()
        world.somebody_chooses = "no leader" in lacks and world.loop.now > deadline - CATCH_UP / 2
        if "older timeline" in lacks:
            faults.switchover(world, world.nodes[0], Fault(0, "switchover", True, 0, 0, 0))
    if lacks and not world.invariants.number_used_twice:
        raise AssertionError(f"{CATCH_UP:g} s after the last fault {lacks}")


def _lacks(world: World) -> str:
    """What keeps the archive from being whole; "" when it is."""
    if lacks := _record_lacks(world, record_of(world)) or _store_lacks(world):
        return lacks  # first: a leader that one record refuses takes over no archive
    if world.beside is not None and (lacks := _record_lacks(world, record_of(world, world.beside.key))):
        return f"in the second store {lacks}"
    return ""


def _record_lacks(world: World, record: Record | None) -> str:
    leader = world.leader
    if leader is None or not leader.primary:
        return "there is no leader"
    if record is None:
        return "there is no record"
    if leader.branch.timeline < record.timeline:
        return "the leader is on an older timeline than the record"
    if record.owner != leader.name or record.timeline != leader.branch.timeline:
        return f"{leader.name} leads on {leader.branch}, and {record.owner} owns the record on {record.timeline}"
    if record.position < leader.lsn // SIZE * SIZE:
        return f"the frontier is at {record.lsn}, and the leader's WAL ends at {Lsn(leader.lsn)}"
    if world.tails and record.position < readable(leader.lsn):
        return f"the tail ends at {record.lsn}, and the leader's WAL at {Lsn(leader.lsn)}"
    return ""


def _store_lacks(world: World) -> str:
    leader = world.leader
    for key in world.invariants.deleted_by_hand - world.store.objects.keys():
        segment = Segment.parse(key[-28:-4], SIZE)
        if leader is not None and leader.has(segment) and leader.branch.history.contains(segment):
            return f"{segment} was deleted from the store, and lies in {leader.name}'s pg_wal"
    return ""


def shrink(schedule: Schedule) -> Schedule:
    """The same seed with as few of its faults as still violate something, found by leaving out one after the other."""
    smallest = replace(schedule, kept=tuple(schedule.faults))
    changed = True
    while changed:
        changed = False
        for number in smallest.kept or ():
            fewer = replace(smallest, kept=tuple(n for n in smallest.kept or () if n != number))
            if play(fewer).problem is not None:
                smallest, changed = fewer, True
                break
    return smallest
