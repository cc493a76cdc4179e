"""How long a switchover and the shutdown in it take, with walkeeper and without, in pairs; also with the store away.

Two clusters stand side by side, one without walkeeper; the load is always on the one that is measured.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from benchmarks import table, wiring
from benchmarks.places import Kind, Place, Places
from tests.parts.cluster import Cluster, Node
from tests.parts.ledger import Ledger
from tests.parts.processes import wait_until

LOAD = 4.0
"""MiB of WAL a second."""
BEFORE = 2.0
"""Seconds of load, and of outage, before the switchover."""
LONGEST = 300.0
NEVER = "without walkeeper"


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds: from the request to the first row acknowledged by the new leader; the longest time without any
    acknowledged row; from PostgreSQL's shutdown request to its end on the old leader."""

    whole: float
    no_writes: float
    shutdown: float


class _Pair:
    def __init__(self, without: Cluster, with_it: Cluster, place: Place) -> None:
        self.without = without
        self.with_it = with_it
        self.place = place

    def measure(self, condition: str) -> Times:
        """One switchover under that condition; afterwards everything is whole again."""
        if condition == NEVER:
            return _switch(self.without)
        with _outage(self.place, condition):
            times = _switch(self.with_it)
        leader = self.with_it.wait_ready(timeout=LONGEST)
        wiring.wait_archived(self.with_it, leader, LONGEST)
        return times


def conditions(kind: Kind) -> list[str]:
    """What is compared with NEVER."""
    if kind == "directory":
        return ["directory", "directory, away"]
    return ["s3", "s3, refuses connections", "s3, hangs"]


@contextmanager
def _outage(place: Place, condition: str) -> Iterator[None]:
    if condition.endswith("hangs"):
        place.hang()
    elif "," in condition:
        place.away()
    try:
        yield
    finally:
        if "," in condition:
            place.back()


def _switch(cluster: Cluster) -> Times:
    old = cluster.wait_ready(timeout=LONGEST)
    timeline = int(str(old.value("SELECT pg_walfile_name(pg_current_wal_lsn())"))[:8], 16)
    candidate = cluster.replicas()[0]
    with Ledger(cluster.conninfo(), writers=2, ballast=16384, pause=2 * 16384 / LOAD / 2**20) as ledger:
        time.sleep(BEFORE)
        asked_at, asked = time.time(), time.monotonic()
        _ask(old, candidate)
        wait_until(lambda: _first(ledger, timeline), "rows on the new leader", LONGEST, logs=cluster.logs())
        time.sleep(0.5)
    moments = sorted(row.at for row in ledger.rows())
    begun = wiring.first_event(wiring.server_events(old), "received fast shutdown request", asked_at)
    ended = wiring.first_event(wiring.server_events(old), "database system is shut down", asked_at)
    assert begun is not None
    assert ended is not None
    return Times(
        _first(ledger, timeline) - asked,
        max(later - earlier for earlier, later in itertools.pairwise(moments)),
        ended - begun,
    )


def _ask(old: Node, candidate: Node) -> None:
    answer = old.rest("switchover", {"leader": old.name, "candidate": candidate.name}, timeout=LONGEST)
    if "uccessfully" not in str(answer):
        print(f"  Patroni: {answer}", flush=True)


def _first(ledger: Ledger, timeline: int) -> float:
    """When the first row of a later timeline was acknowledged; 0 if none was."""
    return min((row.at for row in ledger.rows() if row.timeline > timeline), default=0.0)


def run(kind: Kind, pairs: int, *, restore_command: bool = True) -> None:
    """Measure and print. Without ``restore_command`` what walkeeper's other parts cost is seen alone."""
    found: dict[str, list[Times]] = {NEVER: [], **{condition: [] for condition in conditions(kind)}}
    with ExitStack() as stack:
        place = stack.enter_context(Places(kind)).new()
        without, with_it = wiring.make_cluster(None), wiring.make_cluster(place, restore_command=restore_command)
        stack.callback(without.stop)
        stack.callback(with_it.stop)
        wiring.start(without, None)
        wiring.start(with_it, place)
        pair = _Pair(without, with_it, place)
        for number in range(1, pairs + 1):
            order = list(found) if number % 2 else list(reversed(found))
            for condition in order:
                times = pair.measure(condition)
                found[condition].append(times)
                print(
                    f"switchover {number}/{pairs}, {condition}: {times.whole:.2f} s, no writes for {times.no_writes:.2f} s, "
                    f"shutdown {times.shutdown:.2f} s",
                    flush=True,
                )
    _show(found, "" if restore_command else ", no restore_command")


def _show(found: dict[str, list[Times]], note: str) -> None:
    base = found[NEVER]
    header = (
        "", "switchovers", "request → first row on the new leader, s: median (worst)", "ratio", "no writes for, s", "ratio",
        "shutdown, s", "ratio",
    )  # fmt: skip
    rows = []
    for condition, times in found.items():
        row: list[object] = [condition, len(times)]
        for name in ("whole", "no_writes", "shutdown"):
            row.append(table.median_and_worst(getattr(each, name) for each in times))
            row.append(_ratio([getattr(each, name) for each in times], [getattr(each, name) for each in base]))
        rows.append(row)
    table.show(f"Switchovers under load, in pairs{note}; ratio: median of the pairs' ratios", header, rows)


def _ratio(values: list[float], base: list[float]) -> str:
    return f"{statistics.median(value / other for value, other in zip(values, base, strict=True)):.2f}"
