"""Torture a real cluster, and prove after each round that its archive gives everything back:

make torture [ARGS="--minutes 60 --seed N --store directory|s3|gcs|azure --report FILE"]
make torture ARGS="--archiver durable --burns 50 --members 2 --writers 32"
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.parts.processes import end_run
from tests.parts.ways import WAYS
from tests.torture.rig import MEMBERS, WRITERS
from tests.torture.run import Options, torture
from walkeeper.lib.units import Interval


def _seconds(text: str) -> float:
    return float(Interval.parse(text))


def main() -> int:
    """1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="make torture ARGS=…", description=(__doc__ or "").partition(",")[0])
    parser.add_argument("--minutes", type=float, default=10, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=None, help="of the faults; printed")
    parser.add_argument(
        "--store", choices=("directory", "s3", "gcs", "azure"), default="directory", help="default: %(default)s"
    )
    parser.add_argument("--archiver", choices=WAYS, default="streaming", help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=0.7, help="load in MiB of WAL a second (default: %(default)s)")
    parser.add_argument(
        "--round", type=float, default=60, help="seconds of faults between two checks (default: %(default)s)"
    )
    parser.add_argument("--faults", default="", help="names joined by commas; default: all")
    parser.add_argument(
        "--burns",
        type=int,
        default=0,
        help="instead: kill all members at once so often, each time restored while all are dead",
    )
    parser.add_argument("--members", type=int, default=MEMBERS, help="default: %(default)s")
    parser.add_argument("--writers", type=int, default=WRITERS, help="default: %(default)s")
    parser.add_argument(
        "--backups-each",
        type=_seconds,
        default=0.0,
        metavar="TIME",
        help="the cluster takes its own base backups, each 2min for instance (one at least), and restores are made from them",
    )
    parser.add_argument("--report", type=Path, help="default: walkeeper-torture-SEED.html in the temporary directory")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    options = Options(
        seed, arguments.minutes * 60, arguments.store, arguments.rate, arguments.round,
        tuple(filter(None, arguments.faults.split(","))),
        arguments.report or Path(tempfile.gettempdir()) / f"walkeeper-torture-{seed}.html",
        arguments.archiver, burns=arguments.burns, members=arguments.members, writers=arguments.writers,
        backups_each=arguments.backups_each,
    )  # fmt: skip
    try:
        return int(not torture(options))
    finally:
        end_run()


if __name__ == "__main__":
    sys.exit(main())
