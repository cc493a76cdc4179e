"""Nothing is archived into a store that was not seen to keep its word."""

from __future__ import annotations

import threading

from walkeeper.agent.problems import Problems
from walkeeper.core.about import About
from walkeeper.errors import WalkeeperError
from walkeeper.store.base import Store


class Probe:
    """Once a process. Safe from several threads."""

    def __init__(self, store: Store, problems: Problems) -> None:
        self._store = store
        self._problems = problems
        self._lock = threading.Lock()
        self._done = False

    def try_it(self) -> None:
        """At the start; whoever needs the store tries again."""
        try:
            self.ensure()
        except WalkeeperError as problem:
            self._problems.report(About.STORE_PROBE, problem)

    def ensure(self) -> None:
        """Raises the store's errors, among them StoreUnfit."""
        with self._lock:
            if not self._done:
                self._store.probe()
                self._done = True
                self._problems.clear(About.STORE_PROBE)
