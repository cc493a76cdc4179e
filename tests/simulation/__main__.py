"""Run schedules, or play one again:

make simulate [ARGS="--schedules N --from SEED --jobs N --kinds KIND+KIND --archiver command|builtin"]
make simulate ARGS="--play 1234:0,3"
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor

from tests.parts.ways import WAYS
from tests.simulation.faults import KINDS
from tests.simulation.schedule import Outcome, Schedule, play, shrink


def main() -> int:
    """1 when an invariant was violated."""
    parser = argparse.ArgumentParser(prog="make simulate ARGS=…", description=(__doc__ or "").partition(",")[0])
    parser.add_argument("--schedules", type=int, default=1000, help="how many (default: %(default)s)")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first seed (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: %(default)s)")
    parser.add_argument("--kinds", help=f"of faults, joined by +; default: all ({', '.join(KINDS)})")
    parser.add_argument("--archiver", choices=WAYS, default="streaming")
    parser.add_argument("--play", type=Schedule.parse, help="one schedule, every step of it told")
    arguments = parser.parse_args()
    logging.disable()
    if arguments.play is not None:
        return _tell(play(arguments.play, trace=True))
    kinds = tuple(arguments.kinds.split("+")) if arguments.kinds else ()
    seeds = range(arguments.first, arguments.first + arguments.schedules)
    return _many([Schedule(seed, None, kinds, arguments.archiver) for seed in seeds], arguments.jobs)


def _tell(outcome: Outcome) -> int:
    print("\n".join(outcome.trace))
    print(f"{outcome.schedule}: {outcome.problem or 'all invariants hold'}")
    return int(outcome.problem is not None)


def _many(schedules: Iterable[Schedule], jobs: int) -> int:
    begun = time.monotonic()
    played = simulated = takeovers = branches = gaps = failed = 0
    with ProcessPoolExecutor(jobs) as pool:
        for outcome in pool.map(play, schedules, chunksize=10):
            played += 1
            simulated += int(outcome.seconds)
            takeovers += outcome.takeovers
            branches += outcome.branches - 1
            gaps += outcome.gaps
            if outcome.problem is not None:
                failed += 1
                print(f"{outcome.schedule}: {outcome.problem}")
                print(f"    {explain(outcome)}", flush=True)
    took = time.monotonic() - begun
    print(
        f"{played} schedules, {simulated / 3600:.1f} simulated hours, {branches} promotions, {takeovers} takeovers, "
        f"{gaps} gaps in {took:.1f} s ({played / took:.0f} a second); {failed} violated an invariant"
    )
    return int(failed > 0)


def explain(outcome: Outcome) -> str:
    """The smallest schedule that still fails, and the command that plays it."""
    smallest = shrink(outcome.schedule)
    told = "\n".join(f"      {number}: {fault}" for number, fault in smallest.faults.items())
    return f'make simulate ARGS="--play {smallest}"\n{told}'


if __name__ == "__main__":
    sys.exit(main())
