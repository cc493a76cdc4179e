"""``walkeeper agent`` whose directory store takes longer for each object that it creates, as a distant store does.

    python -m benchmarks.slow_store CONFIG SECONDS

Everything else is the agent's own program. The delay comes before the object is written: until then nothing is stored.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from walkeeper.agent.process import run
from walkeeper.config import load
from walkeeper.store.base import Store, StoreSettings
from walkeeper.store.directory import DirectoryStore
from walkeeper.store.directory.keys import DirectorySettings


class SlowDirectoryStore(DirectoryStore):
    """Each ``create`` takes ``seconds`` longer."""

    def __init__(self, root: Path, seconds: float) -> None:
        super().__init__(root)
        self._seconds = seconds

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> None:
        time.sleep(self._seconds)
        super().create(key, body, metadata)


def main(config: Path, seconds: float) -> int:
    def open_slow_store(settings: StoreSettings) -> Store:
        assert isinstance(settings, DirectorySettings)
        return SlowDirectoryStore(settings.path, seconds)

    run.open_store = open_slow_store  # type: ignore[attr-defined]  # the one seam that is taken hold of
    return run.main(load(config, os.environ, for_agent=True))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2])))
