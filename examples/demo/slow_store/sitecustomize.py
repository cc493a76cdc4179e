"""Makes a store directory slow, so that one laptop can show what a store far away does. Only for the demo.

Python imports a module of this name at its start when the directory is on PYTHONPATH, as it is on the demo's nodes. The
agent that a callback starts is then the real one, started the real way, but for each object that it stores it waits as many
seconds as the file named by DEMO_STORE_DELAY says at that moment.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path


def slow_down(delay: Path) -> None:
    from walkeeper.store.directory import DirectoryStore  # noqa: PLC0415 - other programs of the node must not load it

    create = DirectoryStore.create

    def slowly(self: DirectoryStore, key: str, body: bytes, metadata: Mapping[str, str]) -> None:
        time.sleep(float(delay.read_text()))
        create(self, key, body, metadata)

    DirectoryStore.create = slowly  # type: ignore[method-assign]


if "DEMO_STORE_DELAY" in os.environ and sys.orig_argv[-5:-3] == ["walkeeper", "agent"]:
    slow_down(Path(os.environ["DEMO_STORE_DELAY"]))
