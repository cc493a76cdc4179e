"""``make bench``: what walkeeper costs, measured against doing without it.

python -m benchmarks [switchover] [outage] [throughput] [replay] [push] [tail] [tail-cost] [receivers] [durability]
    [backup] [restore] [chain] [scale] [requests] [hour]
    [--store directory|s3] [--rounds N]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from typing import Final

from benchmarks import (
    backup,
    chain,
    durability,
    hour,
    outage,
    push,
    receivers,
    replay,
    requests,
    restore,
    scale,
    switchover,
    tail,
    tail_cost,
    throughput,
)
from benchmarks.places import Kind
from tests.parts.processes import end_run

RUNS: Final[Mapping[str, Callable[[argparse.Namespace], None]]] = {
    "switchover": lambda asked: switchover.run(
        _one(asked), asked.rounds, restore_command=not asked.without_restore_command
    ),
    "outage": lambda asked: outage.run(_one(asked), asked.rounds),
    "throughput": lambda asked: throughput.run(asked.rounds, asked.segments or 32),
    "replay": lambda asked: replay.run(_each(asked), asked.rounds, asked.segments or 64, asked.scale),
    "push": lambda asked: push.run(
        _each(asked), asked.rounds, asked.segments or 64, asked.scale, asked.only, asked.round_trip / 1000
    ),
    "tail": lambda asked: tail.run(_one(asked), asked.rounds),
    "tail-cost": lambda asked: tail_cost.run(_one(asked), asked.rounds),
    "receivers": lambda asked: receivers.run(asked.rounds),
    "durability": lambda asked: durability.run(asked.rounds),
    "backup": lambda asked: backup.run(asked.rounds, asked.scale),
    "restore": lambda asked: restore.run(asked.rounds, asked.scale),
    "chain": lambda asked: chain.run(asked.rounds, asked.scale),
    "scale": lambda asked: scale.run(asked.segments or 1_000_000),
    "requests": lambda _: requests.run(),
    "hour": lambda asked: hour.run(_one(asked), asked.minutes),
}


def _one(asked: argparse.Namespace) -> Kind:
    return asked.store or "directory"


def _each(asked: argparse.Namespace) -> list[Kind]:
    return [asked.store] if asked.store else ["directory", "s3"]


def main() -> int:
    """Every measurement that was named, one after the other: they are in each other's way."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", nargs="*", help=f"{', '.join(RUNS)}; default: all")
    parser.add_argument(
        "--store", choices=("directory", "s3"), help="default: directory; replay and push: both in one run"
    )
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument(
        "--segments",
        type=int,
        help="of 16 MiB each; default: 32 for throughput, 64 for replay and push; scale: a million",
    )
    parser.add_argument(
        "--scale",
        type=int,
        default=20,
        help="pgbench's, for replay, push, backup, restore and chain; default: %(default)s",
    )
    parser.add_argument("--only", default="", help="push: pgBackRest, and those with this pattern in their name")
    parser.add_argument(
        "--round-trip", type=float, default=0.0, metavar="MS", help="push: put the S3 server so many milliseconds away"
    )
    parser.add_argument("--minutes", type=int, default=60, help="hour: default: %(default)s")
    parser.add_argument(
        "--without-restore-command", action="store_true", help="switchover: to see what walkeeper's other parts cost"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.what) - RUNS.keys():
        parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(RUNS)}")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # whoever has installed walkeeper has its modules compiled
    try:
        for what in arguments.what or RUNS:
            RUNS[what](arguments)
    finally:
        end_run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
