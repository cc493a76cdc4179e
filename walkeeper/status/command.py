"""``walkeeper status``: the whole cluster at a glance, from any node.

Exit codes: 0 everything is known and well, 1 something needs a look, 2 something could not be learnt.
"""

from __future__ import annotations

import json as json_module

from walkeeper.config import Config
from walkeeper.lib.terminal import answered, tell
from walkeeper.status.gather import gather
from walkeeper.status.text import render


def main(config: Config, *, json: bool = False) -> int:
    """Print the status; returns the exit code."""
    status = gather(config)
    tell(json_module.dumps(status, indent=2) if json else render(status))
    return answered(int(status["exit_code"]))
