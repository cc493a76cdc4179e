"""``walkeeper status``: the whole cluster at a glance, from any node.

Exit codes: 0 everything is known and well, 1 something needs a look, 2 something could not be learnt.
"""

from __future__ import annotations

import io
import json as json_module
import sys

from walkeeper.config import Config
from walkeeper.status.gather import gather
from walkeeper.status.text import render


def main(config: Config, *, json: bool = False) -> int:
    """Print the status; returns the exit code."""
    status = gather(config)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a name that the terminal's encoding lacks
    print(json_module.dumps(status, indent=2) if json else render(status))  # noqa: T201 - it is for standard output
    sys.stdout.flush()
    return int(status["exit_code"])
