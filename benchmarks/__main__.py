"""``make bench``: what walkeeper costs, measured against doing without it.

python -m benchmarks [switchover] [outage] [throughput] [replay] [push] [tail] [tail-cost] [receivers] [durability]
    [backup] [restore] [chain] [scale] [requests] [hour]
    [--store directory|s3] [--rounds N]
"""

from __future__ import annotations

import argparse
import os
import sys
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

ALL: Final = (
    "switchover",
    "outage",
    "throughput",
    "replay",
    "push",
    "tail",
    "tail-cost",
    "receivers",
    "durability",
    "backup",
    "restore",
    "chain",
    "scale",
    "requests",
    "hour",
)


def main() -> int:
    """Every measurement that was named, one after the other: they are in each other's way."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", nargs="*", help=f"{', '.join(ALL)}; default: all")
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
    if unknown := set(arguments.what) - set(ALL):
        parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(ALL)}")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # whoever has installed walkeeper has its modules compiled
    one_store: Kind = arguments.store or "directory"
    stores: list[Kind] = [arguments.store] if arguments.store else ["directory", "s3"]
    try:
        for what in arguments.what or ALL:
            match what:
                case "switchover":
                    switchover.run(one_store, arguments.rounds, restore_command=not arguments.without_restore_command)
                case "outage":
                    outage.run(one_store, arguments.rounds)
                case "throughput":
                    throughput.run(arguments.rounds, arguments.segments or 32)
                case "push":
                    push.run(
                        stores,
                        arguments.rounds,
                        arguments.segments or 64,
                        arguments.scale,
                        arguments.only,
                        arguments.round_trip / 1000,
                    )
                case "backup":
                    backup.run(arguments.rounds, arguments.scale)
                case "restore":
                    restore.run(arguments.rounds, arguments.scale)
                case "chain":
                    chain.run(arguments.rounds, arguments.scale)
                case "scale":
                    scale.run(arguments.segments or 1_000_000)
                case "hour":
                    hour.run(one_store, arguments.minutes)
                case "requests":
                    requests.run()
                case "tail":
                    tail.run(one_store, arguments.rounds)
                case "tail-cost":
                    tail_cost.run(one_store, arguments.rounds)
                case "receivers":
                    receivers.run(arguments.rounds)
                case "durability":
                    durability.run(arguments.rounds)
                case "replay":
                    replay.run(stores, arguments.rounds, arguments.segments or 64, arguments.scale)
    finally:
        end_run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
