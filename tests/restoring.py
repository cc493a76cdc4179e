"""A node for restores: a data directory, an agent's socket in front of a store in memory, what PostgreSQL would run."""

from __future__ import annotations

import os
import shlex
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.core.worlds import plain_segment
from tests.parts.processes import CHECKOUT
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from tests.twins.memory_store import MemoryStore
from walkeeper import rundir
from walkeeper.archive import Archive
from walkeeper.clock import SystemClock
from walkeeper.codec import Codec
from walkeeper.config import load
from walkeeper.control import AgentLock, ControlServer
from walkeeper.core.history import History
from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.layout import Layout
from walkeeper.restore import client
from walkeeper.restore.serving import Restoring

SYSTEM = 7300000000000000001
SCRIPT: Final = CHECKOUT / "walkeeper" / "shell" / "walkeeper-restore-wal"
SEGMENT = Segment(1, 5, SegmentSize(MIB))
PLAIN = plain_segment(SEGMENT, SYSTEM)


def restore_command(config: Path, way: str) -> str:
    """``served`` by whoever has the store open, which fetches ahead; or ``alone``: all of it in a process of its own."""
    if way == "served":
        return f"{sys.executable} -m walkeeper -c {config} restore-wal %f %p"
    alone = f"{sys.executable} -m walkeeper.restore.command {config} %f %p"
    return f"sh -c {shlex.quote(f'{alone}; said=$?; case $said in 10) exit 0;; 11) exit 1;; esac; exit $said')}"


class Node:
    """A data directory, an agent's socket in front of a store in memory, and what PostgreSQL would run."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WALKEEPER_RUN_DIR", str(directory))
        self.config = directory / "patroni.yml"
        self.data = directory / "data"
        (self.data / "pg_wal").mkdir(parents=True)
        (self.data / "global").mkdir()
        (self.data / "global" / "pg_control").write_bytes(struct.pack("=QI", SYSTEM, 1300) + bytes(8000))
        monkeypatch.chdir(self.data)
        self.store = MemoryStore()
        self.dcs = MemoryDcs()
        self.archive = Archive(self.store, Layout("demo", None, SYSTEM), SEGMENT.size, Codec())
        self.archive.archive_segment(SEGMENT, PLAIN, History(1))
        self.archive.state_start(SEGMENT)
        self.socket = Path(rundir.socket_path(str(self.config), dict(os.environ)))
        self.lock = Path(rundir.lock_path(str(self.socket)))
        self.configure()

    def configure(self, **restore: object) -> None:
        """With these keys under ``restore``. The configured store does not exist."""
        section = {"store": {"directory": "/nonexistent/store"}, "restore": restore}
        self.config.write_text(yaml.safe_dump({"scope": "demo", "walkeeper": section}))
        self.begin()

    def begin(self) -> None:
        """As an agent that starts."""
        self.restoring = Restoring(
            load(self.config, {}), self.store, self.lock.parent, SystemClock(), lambda: MemoryRecord(self.dcs)
        )

    def server(self, files: tuple[str, ...]) -> None:
        """Make it look like one in that state; this process is its postmaster."""
        for name in files:
            (self.data / name).write_text(f"{os.getpid()}\n{self.data}\n1700000000\n")

    def restore(self, name: str = SEGMENT.name) -> int | None:
        return client.restore(str(self.config), name, "pg_wal/RECOVERYXLOG")

    def shell(self, name: str = SEGMENT.name, *, python: str = sys.executable, more: Mapping[str, str] | None = None,
              shell: str = "sh", under: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """The whole restore_command, in the data directory. ``under``: what runs it, strace for instance."""
        environ = {**os.environ, "WALKEEPER_PYTHON": python, **(more or {})}
        command = [*under, shell, str(SCRIPT), "-c", str(self.config), name, "pg_wal/RECOVERYXLOG"]
        return subprocess.run(
            command, cwd=self.data, env=environ, capture_output=True, text=True, timeout=60, check=False
        )

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in (self.data / "pg_wal").iterdir())


def link(node: Node) -> Path | None:
    """What leads walkeeper-restore-wal to what lies ready."""
    return next((path for path in node.lock.parent.iterdir() if path.name.startswith("ready.")), None)


def ready(node: Node) -> list[str]:
    """The names of what lies ready."""
    found = link(node)
    return sorted(path.name for path in found.iterdir() if not path.name.startswith(".")) if found else []


@contextmanager
def listening(server: ControlServer) -> Iterator[None]:
    server.open()
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield
    finally:
        server.close()
        thread.join(10)


@contextmanager
def answering(node: Node) -> Iterator[None]:
    """Its agent, in threads of this process."""
    with AgentLock(node.lock) as lock, listening(ControlServer(node.socket, lock, {"restore": node.restoring.answer})):
        node.restoring.start(lambda name, work: threading.Thread(target=work, name=name, daemon=True).start())
        try:
            yield
        finally:
            node.restoring.stop()
