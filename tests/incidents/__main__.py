"""Break a real cluster eight times, and note what each screen says of it, when, and whether the fix that it gives fixes:

make incidents [ARGS="--only disk,gap --screens DIRECTORY"]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.incidents.incidents import INCIDENTS
from tests.incidents.night import Night
from tests.parts.processes import end_run

DISKS: Final = "WALKEEPER_TEST_DISKS"
"""Environment variable: where tools/with-small-disks has made some."""


def main() -> int:
    """1 where a screen did not say what happened, or a fix did not fix."""
    parser = argparse.ArgumentParser(prog="make incidents ARGS=…", description=(__doc__ or "").partition(",")[0])
    parser.add_argument("--only", default="", help=f"some of {','.join(INCIDENTS)}, joined by commas; default: all")
    parser.add_argument("--screens", type=Path, help="where each screen is written to; default: a temporary directory")
    arguments = parser.parse_args()
    names = [*filter(None, arguments.only.split(","))] or list(INCIDENTS)
    if unknown := set(names) - set(INCIDENTS):
        parser.error(f"--only: no incident {', '.join(sorted(unknown))}; there are {', '.join(INCIDENTS)}")
    screens = arguments.screens or Path(tempfile.mkdtemp(prefix="walkeeper-incidents-"))
    screens.mkdir(parents=True, exist_ok=True)
    try:
        with Night(screens, Path(os.environ[DISKS]) if DISKS in os.environ else None) as night:
            for name in names:
                night.play(name, INCIDENTS[name])
            print(f"\n{night.table()}\n\nThe screens are in {screens}")
            return int(any(each.failed for each in night.told))
    finally:
        end_run()


if __name__ == "__main__":
    sys.exit(main())
