"""``make bench``: what walkeeper costs, measured against doing without it.

python -m benchmarks [switchover] [outage] [throughput] [--store directory|s3] [--rounds N]
"""

from __future__ import annotations

import argparse
import sys
from typing import Final

from benchmarks import outage, switchover, throughput
from tests.parts.processes import end_run

ALL: Final = ("switchover", "outage", "throughput")


def main() -> int:
    """Every measurement that was named, one after the other: they are in each other's way."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", nargs="*", help=f"{', '.join(ALL)}; default: all")
    parser.add_argument("--store", choices=("directory", "s3"), default="directory", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--segments", type=int, default=32, help="of a round of throughput; default: %(default)s")
    parser.add_argument(
        "--without-restore-command", action="store_true", help="switchover: to see what walkeeper's other parts cost"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.what) - set(ALL):
        parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(ALL)}")
    try:
        for what in arguments.what or ALL:
            match what:
                case "switchover":
                    switchover.run(
                        arguments.store, arguments.rounds, restore_command=not arguments.without_restore_command
                    )
                case "outage":
                    outage.run(arguments.store, arguments.rounds)
                case "throughput":
                    throughput.run(arguments.rounds, arguments.segments)
    finally:
        end_run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
