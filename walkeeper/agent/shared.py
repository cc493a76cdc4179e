"""What the agents of a cluster's several stores have in common, in one process: one for each store, and one hold slot."""

from __future__ import annotations

import threading
from functools import partial

from walkeeper.agent.archiver.elsewhere import OtherStore
from walkeeper.agent.archiver.holding import Holding
from walkeeper.agent.backup_job import BackupJob
from walkeeper.archive.read import Reader
from walkeeper.config import Config
from walkeeper.lib.clock import Clock


class Shared:
    """Made for the first; each of them enters its store."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self.ended = threading.Event()
        """When the process must end."""
        self.holding = Holding(config.stores, config.durable_in, clock)
        self.stores: dict[str, Reader] = {}
        self.backup_jobs: dict[str, BackupJob] = {}

    def label(self, config: Config) -> str:
        """What stands in the log of that agent's: nothing for the first."""
        return "" if config.store_name == self.holding.first else config.store_name

    def backup_runs_before(self, config: Config) -> bool:
        """Whether a backup into a store before that one runs somewhere in the cluster, or is about to."""
        for store, job in self.backup_jobs.items():  # in their order
            if store == config.store_name:
                break
            if job.seen is not None and job.seen.state in ("wanted", "running") and not job.silent:
                return True
        return False

    def other_stores(self, config: Config, system_identifier: int) -> tuple[OtherStore, ...]:
        """Those beside that configuration's, for a server of that cluster."""
        return tuple(
            OtherStore(name, reader, partial(self.holding.promises, name, system_identifier))
            for name, reader in self.stores.items()
            if name != config.store_name
        )
