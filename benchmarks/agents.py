"""An agent of a benchmark, as a process of its own, for one server that no Patroni runs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.material import SCOPE, as_installed, write_config
from tests.parts.etcd import Etcd
from tests.parts.postgres import REPLICATOR, REPLICATOR_PASSWORD
from tests.parts.processes import Host, Process, wait_until
from tests.parts.ways import Way, keys_of
from walkeeper.control import client, paths
from walkeeper.core.record import decode_record
from walkeeper.errors import AgentError

HOLD_SLOT: Final = "walkeeper"
LONGEST: Final = 60.0


class Agent:
    """The agent of member ``a`` of a cluster in that etcd, which another leads until ``lead``.

    The context manager starts it, waits until it answers, and stops it; again and again, if need be.
    """

    def __init__(
        self,
        directory: Path,
        store: Mapping[str, Any],
        etcd: Etcd,
        data: Path,
        port: int,
        way: Way = "streaming",
        hold_slot: str = HOLD_SLOT,
        **keys: Any,
    ) -> None:
        """``keys`` are more of walkeeper's section. Each agent of one server needs a slot of its own: they move it."""
        self.directory = directory
        self.config = directory / "patroni.yml"
        self.environment = as_installed(directory)
        self._section = {
            "store": dict(store),
            **keys_of(way),
            "spool": {"directory": str(directory / "spool")},
            "agent": {"listen": "off"},
            "hold_slot": hold_slot,
            **keys,
        }
        self._slot = hold_slot
        self._etcd = etcd
        self._data, self._port = data, port
        self._host = Host("agent", directory)
        self._process: Process | None = None
        self._before: object = None
        self._bin_dir: Path | None = None
        etcd.put(f"/service/{SCOPE}/leader", "b")
        self._write()

    def lead(self, bin_dir: Path) -> None:
        """What Patroni would have written into etcd for a leader."""
        self._bin_dir = bin_dir
        self._write()
        member = {"conn_url": f"postgres://127.0.0.1:{self._port}/postgres", "role": "primary", "state": "running"}
        self._etcd.put(f"/service/{SCOPE}/config", json.dumps({"slots": {self._slot: {"type": "physical"}}}))
        self._etcd.put(f"/service/{SCOPE}/members/a", json.dumps(member))
        self._etcd.put(f"/service/{SCOPE}/leader", "a")

    def wait_owned(self, longest: float = LONGEST) -> None:
        """Until it has written the record, since it was started."""
        wait_until(lambda: self._record() != self._before, "the record", longest, interval=0.01, logs=[self._log])

    def _record(self) -> object:
        return self._etcd.get(f"/service/{SCOPE}/walkeeper")

    def position(self) -> int:
        """Up to where it has archived, as its record says."""
        record = self._record()
        assert isinstance(record, bytes)
        return decode_record(record).position

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self._before = self._record()
        command = [sys.executable, "-m", "walkeeper", "agent", "-c", self.config]
        self._process = self._host.start(command, log=self._log, env=self.environment)
        wait_until(self._answers, "the agent", LONGEST, interval=0.01, logs=[self._log])
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        try:
            self._process.stop()
        finally:
            self._host.kill9()

    @property
    def _log(self) -> Path:
        return self.directory / "agent.log"

    def _answers(self) -> bool:
        try:
            return bool(client.ask(paths.socket_path(str(self.config), self.environment), "status", 5))
        except AgentError:
            return False

    def _write(self) -> None:
        patroni = {
            "name": "a",
            "etcd3": {"host": self._etcd.host},
            "postgresql": {
                "listen": f"127.0.0.1:{self._port}",
                "data_dir": str(self._data),
                "authentication": {"replication": {"username": REPLICATOR, "password": REPLICATOR_PASSWORD}},
                **({"bin_dir": str(self._bin_dir)} if self._bin_dir else {}),
            },
        }
        shutil.rmtree(self.directory / "spool", ignore_errors=True)
        write_config(self.config, self._section, patroni)
