"""``make fuzz``: as long as one likes, other inputs each time. Exit code 1: something was found, and is printed.

One target after the other gets a share of examples, round after round. A seed says all of a round: the line that is printed for
what was found plays it again.
"""

from __future__ import annotations

import argparse
import logging
import random
import resource
import sys
import time
import traceback
from collections import Counter
from typing import Any, Final

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, run, uncaught

SHARE_SECONDS: Final = 10.0
"""Seconds of one target in one round, about."""
MOST: Final = 500
"""Examples of a round: hypothesis keeps all it has made of it, whole segments too."""
MAX_MEMORY: Final = 1024
"""MiB that the whole process may take: a segment of the largest bomb is refused long before."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--target", choices=sorted(TARGETS))
    parser.add_argument("--seed", type=int, help="one round of the target with that seed, and no more")
    options = parser.parse_args()
    logging.getLogger("walkeeper").setLevel(logging.CRITICAL + 1)
    names = [options.target] if options.target else list(TARGETS)
    until = time.monotonic() + 60 * options.minutes
    count: Counter[str] = Counter()
    speed = dict.fromkeys(names, 5.0)
    found: set[str] = set()
    while time.monotonic() < until and len(found) < len(names):
        for name in names:
            if name in found or time.monotonic() > until:
                continue
            number = options.seed if options.seed is not None else random.randrange(1 << 32)
            began = time.monotonic()
            examples = min(MOST, max(10, int(SHARE_SECONDS * speed[name])))
            if not one_round(name, number, examples):
                found.add(name)
                print(f"FOUND: {name}; again: make fuzz ARGS='--target \"{name}\" --seed {number}'", flush=True)
            count[name] += examples
            speed[name] = examples / max(0.1, time.monotonic() - began)
        if options.seed is not None:
            break
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    for name in names:
        print(f"{name:14} {count[name]:>9,} inputs{'  FOUND' if name in found else ''}")
    print(f"at most {memory} MiB; {len(found)} targets with something found")
    return 1 if found or memory > MAX_MEMORY else 0


def one_round(name: str, number: int, examples: int) -> bool:
    """Whether nothing was found. Prints the smallest input that was."""
    last: Any = None

    @seed(number)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def take(data: Any) -> None:
        nonlocal last
        last = data.draw(TARGETS[name].made)
        run(name, last)

    for died in uncaught():
        try:
            take()
        except Exception as problem:  # noqa: BLE001 - that is what is looked for
            traceback.print_tb(problem.__traceback__)
            print(f"{name}: {repr(problem)[:1000]}\n{repr(last)[:2000]}", file=sys.stderr, flush=True)
            return False
        if died:
            print(f"{name}: a thread died of {died[0]}", file=sys.stderr)
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
