"""A node whose agent is a process of its own: real PostgreSQL, real etcd, a directory as the store, no Patroni."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from tests.parts.etcd import Etcd
from tests.parts.postgres import REPLICATOR, REPLICATOR_PASSWORD, Postgres
from tests.parts.processes import Host, Process, free_port, new_directory, wait_until
from tests.worlds import HOLD_SLOT
from walkeeper import ask, rundir
from walkeeper.archive import Archive
from walkeeper.codec import Codec
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.record import Record, decode_record
from walkeeper.errors import AgentError
from walkeeper.layout import Layout
from walkeeper.store.directory import DirectoryStore

SIZE: Final = SegmentSize(MIB)


class Machine:
    """One node of the cluster ``scope``, in a directory of its own; server and etcd may be shared with other scopes."""

    def __init__(self, scope: str, server: Postgres, etcd: Etcd) -> None:
        self.scope, self.server, self.etcd = scope, server, etcd
        self.directory = new_directory("a")
        self.config = self.directory / "patroni.yml"
        self.store = self.directory / "store"
        self.spool = self.directory / "spool"
        self.run_directory = self.directory / "run"
        self.metrics_port = free_port()
        self.host = Host("agent", self.directory)
        self.log = self.directory / "stderr.log"
        self.password = REPLICATOR_PASSWORD
        self.walkeeper: dict[str, Any] = {
            "store": {"directory": str(self.store)},
            "spool": {"directory": str(self.spool)},
            "agent": {"poll_interval": "200ms", "listen": "off", "stop_timeout": "2s", "dcs_timeout": "2s"},
        }
        self.patroni: dict[str, Any] = {}
        self.store.mkdir()
        self.run_directory.mkdir(mode=0o700)
        self.configure()
        self.lead("a")

    # ------------------------------------------------------------------------------------------------------ its cluster

    def configure(self, **agent: object) -> None:
        """Write the configuration; ``agent`` changes keys of that section."""
        self.walkeeper["agent"].update(agent)
        whole = {
            "scope": self.scope,
            "name": "a",
            "etcd3": {"host": self.etcd.host},
            "postgresql": {
                "listen": f"127.0.0.1:{self.server.port}",
                "data_dir": str(self.server.data),
                "bin_dir": str(self.server.bin_dir),
                "authentication": {"replication": {"username": REPLICATOR, "password": self.password}},
            },
            **self.patroni,
            "walkeeper": self.walkeeper,
        }
        self.config.touch(mode=0o600)
        self.config.write_text(yaml.safe_dump(whole))

    def lead(self, name: str) -> None:
        """What Patroni would have written into etcd."""
        self.etcd.put(f"/service/{self.scope}/leader", name)
        self.etcd.put(f"/service/{self.scope}/config", json.dumps({"slots": {HOLD_SLOT: {"type": "physical"}}}))
        member = {
            "conn_url": f"postgres://127.0.0.1:{self.server.port}/postgres",
            "role": "primary",
            "state": "running",
        }
        self.etcd.put(f"/service/{self.scope}/members/a", json.dumps(member))

    @property
    def record(self) -> Record | None:
        document = self.etcd.get(f"/service/{self.scope}/walkeeper")
        return None if document is None else decode_record(document)

    def wait_archived(self, count: int = 2, seconds: float = 20) -> Lsn:
        """Complete some segments and wait until the record has passed them."""
        end = Segment.parse(self.server.complete_segments(count)[-1], SIZE).end
        wait_until(
            lambda: (record := self.record) is not None and record.position >= end,
            f"the frontier at {end}", seconds, logs=[self.log],
        )  # fmt: skip
        return end

    def wait_owned(self, seconds: float = 20) -> Record:
        return wait_until(lambda: self.record, "a record", seconds, logs=[self.log])

    def stored(self) -> list[str]:
        layout = Layout(self.scope, None, self.server.system_identifier)
        archive = Archive(DirectoryStore(self.store), layout, SIZE, Codec())
        return sorted(segment.name for segment in archive.segments())

    # -------------------------------------------------------------------------------------------------------- the agent

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        return {"WALKEEPER_RUN_DIR": str(self.run_directory), **(more or {})}

    def start(self, *arguments: str, env: Mapping[str, str] | None = None, program: str | None = None) -> Process:
        """Start an agent; ``program`` is Python text to run in place of ``-m walkeeper``."""
        python = [sys.executable, *(("-c", program) if program else ("-m", "walkeeper"))]
        command = [*python, "-c", str(self.config), "agent", *arguments]
        return self.host.start(command, log=self.log, env=self.environment(env), cwd=Path("/"))

    def wait_ready(self, seconds: float = 20) -> dict[str, Any]:
        return wait_until(self.report, "the agent's answer", seconds, logs=[self.log])

    @property
    def socket(self) -> str:
        return rundir.socket_path(self.config, self.environment())

    def report(self) -> dict[str, Any] | None:
        """What the agent says of itself; None while it does not answer."""
        try:
            return ask.ask(self.socket, "status", 5)
        except AgentError:
            return None

    def says(self, word: str, log: Path | None = None) -> list[str]:
        """The lines of its log with that word."""
        path = log or self.log
        return [line for line in path.read_text().splitlines() if word in line] if path.exists() else []

    def wait_says(self, word: str, seconds: float = 20, log: Path | None = None) -> str:
        return wait_until(lambda: self.says(word, log), word, seconds, logs=[log or self.log])[-1]

    def receivers(self) -> set[int]:
        """The pg_receivewal processes that write into its spool."""
        found = set()
        for pid in self.host.pids():
            command = command_line(pid)
            if "pg_receivewal" in command and str(self.spool) in command and "-c" not in command.split("\0"):
                found.add(pid)
        return found

    def close(self) -> None:
        self.host.kill9()


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def environment_of(pid: int) -> str:
    return Path(f"/proc/{pid}/environ").read_text(errors="replace")


def end(pid: int, number: int = signal.SIGTERM, seconds: float = 10) -> None:
    """Signal a process that is not our child, and wait until it is gone."""
    os.kill(pid, number)
    wait_until(lambda: not command_line(pid), f"the end of {pid}", seconds)
