"""The place and the name that patroni.yml and copied scripts of walkeeper 0.1 have for ``walkeeper.control.callback``."""

# ruff: noqa: PTH120 - pathlib costs more than all that this program does

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # the script's own directory is not on the path under -I, and would be the wrong one without
    sys.path.append(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from walkeeper.control.callback import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
