"""A node for tests: a real PostgreSQL, a real pg_receivewal, a real agent in this process; store and DCS as the test likes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from tests.parts.postgres import REPLICATOR, REPLICATOR_PASSWORD, Postgres
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from walkeeper.agent.agent import Agent
from walkeeper.agent.report import report
from walkeeper.clock import SystemClock
from walkeeper.config import AgentSettings, Config, Node, PostgresqlSettings
from walkeeper.core.lsn import Lsn
from walkeeper.core.record import Record, decode_record
from walkeeper.store.base import Store
from walkeeper.store.settings import DirectorySettings

HOLD_SLOT = "walkeeper"

_T = TypeVar("_T")


def wait_for(what: Callable[[], _T | None], seconds: float = 60.0) -> _T:
    """Its first true value; an AssertionError if there is none."""
    deadline = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < deadline, f"still not true after {seconds} s"
        time.sleep(0.05)
    return value


def prepare(server: Postgres) -> None:
    """What walkeeper needs of a server: its role and the hold slot."""
    server.replication_role()
    server.physical_slot(HOLD_SLOT)


def config_of(server: Postgres, name: str, directory: Path, **changes: object) -> Config:
    """As the configuration would say it for that server. ``changes`` replace fields."""
    config = Config(
        source=directory / "walkeeper.yml",
        patroni_config=directory / "patroni.yml",
        scope="demo",
        namespace="service",
        group=None,
        bin_dir=server.bin_dir,
        store=DirectorySettings(directory / "store"),
        compression_level=1,
        encryption_recipients=(),
        identity_file=None,
        upload_workers=2,
        hold_slot=HOLD_SLOT,
        spool_limit=64 * 1024 * 1024,
        tail_interval=None,
        restore_deadline=2.0,
        agent=AgentSettings(
            start_from_callback=False,
            poll_interval=0.2,
            listen=None,
            log_file=None,
            log_level=logging.INFO,
            stop_timeout=5.0,
            dcs_timeout=2.0,
        ),
        node=Node(
            name=name,
            data_dir=server.data,
            spool_directory=directory / f"spool-{name}",
            postgresql=PostgresqlSettings("127.0.0.1", server.port, REPLICATOR, REPLICATOR_PASSWORD, "postgres", ()),
        ),
    )
    return replace(config, **changes)  # type: ignore[arg-type]


class RunningAgent:
    """An agent in this process, from entering to leaving the context."""

    def __init__(self, config: Config, store: Store, dcs: MemoryDcs) -> None:
        self.records = MemoryRecord(dcs)
        self.agent = Agent(config, store, self.records, SystemClock())
        self.dcs = dcs

    @property
    def record(self) -> Record:
        assert self.dcs.record is not None
        return decode_record(self.dcs.record.document)

    @property
    def frontier(self) -> Lsn:
        return self.record.position

    @property
    def archiving(self) -> bool:
        return self.agent.archiver is not None

    def troubles(self) -> set[str]:
        return {trouble["what"] for trouble in report(self.agent)["troubles"]}

    def wait_frontier(self, lsn: str | Lsn, seconds: float = 20.0) -> None:
        target = Lsn.parse(lsn) if isinstance(lsn, str) else lsn
        wait_for(lambda: self.dcs.record is not None and self.frontier >= target, seconds)

    def __enter__(self) -> Self:
        self.agent.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.agent.stop()
        assert self.agent.crew.lost is None
