"""One node of a Patroni cluster, and how to reach it."""

from __future__ import annotations

import json
import shutil
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import psycopg
import yaml

from tests.parts.postgres import REPLICATOR, REPLICATOR_PASSWORD, SUPERUSER, SUPERUSER_PASSWORD
from tests.parts.processes import Host, Process, free_port, new_directory
from tests.parts.proxy import Proxy

REWINDER: Final = "rewinder"
REWINDER_PASSWORD: Final = "rewinder-secret"


class Node:
    """One machine: Patroni, PostgreSQL and whatever Patroni's callbacks start."""

    def __init__(
        self,
        name: str,
        directory: Path,
        bin_dir: Path,
        proxy: Proxy | None,
        configuration: Callable[[Node], Mapping[str, Any]],
    ) -> None:
        directory.mkdir(parents=True)
        self.name = name
        self.bin_dir = bin_dir
        self.proxy = proxy
        """Between this node and the DCS, if there is one."""
        self.directory = directory.resolve()
        self.data = self.directory / "data"
        self.config = self.directory / "patroni.yml"
        self.log = self.directory / "patroni.log"
        self.socket_dir = new_directory("s")
        self.port, self.rest_port, self.metrics_port = free_port(), free_port(), free_port()
        self.host = Host(name, self.directory)
        self.env: dict[str, str] = {}
        """More environment for the next start; it reaches PostgreSQL, the callbacks and what they start."""
        self.python = Path(sys.executable)
        self.libpq: Mapping[str, Mapping[str, str]] = {}
        """By user, over what conninfo says."""
        self.rest_tls: ssl.SSLContext | None = None
        """Where the REST API wants HTTPS."""
        self._configuration = configuration
        self._patroni: Process | None = None

    @property
    def running(self) -> bool:
        """Whether Patroni runs."""
        return self._patroni is not None and self._patroni.alive

    @property
    def patroni(self) -> Process:
        if self._patroni is None:
            raise RuntimeError(f"{self.name}: Patroni was not started")
        return self._patroni

    def fill(self, value: Any) -> Any:
        """Put this node's facts into every string of a piece of configuration, in place of ``{config}``, ``{name}``,
        ``{directory}``, ``{data}``, ``{python}`` and ``{metrics_port}``; a string that is nothing else becomes a number."""
        if isinstance(value, Mapping):
            return {key: self.fill(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.fill(item) for item in value]
        if not isinstance(value, str):
            return value
        if value == "{metrics_port}":
            return self.metrics_port
        facts = {
            "config": self.config,
            "name": self.name,
            "directory": self.directory,
            "data": self.data,
            "python": self.python,
            "metrics_port": self.metrics_port,
        }
        for name, fact in facts.items():
            value = value.replace(f"{{{name}}}", str(fact))
        return value

    def start(self) -> None:
        """Start Patroni, with its configuration written again."""
        self.config.touch(mode=0o600)
        self.config.write_text(yaml.safe_dump(self._configuration(self), sort_keys=False))
        self._patroni = self.host.start(
            [self.python, "-m", "tests.parts.patroni", self.config], log=self.log, env={"LC_ALL": "C", **self.env}
        )

    def rest(self, path: str, body: object = None, *, method: str | None = None, timeout: float = 30) -> Any:
        """Patroni's REST API: its JSON (or text), whatever the status. None when nobody answers."""
        data = None if body is None else json.dumps(body).encode()
        scheme = "https" if self.rest_tls else "http"
        request = urllib.request.Request(f"{scheme}://127.0.0.1:{self.rest_port}/{path}", data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout, context=self.rest_tls) as answer:
                text = answer.read()
        except urllib.error.HTTPError as refusal:
            with refusal:
                text = refusal.read()
        except OSError:
            return None
        try:
            return json.loads(text)
        except ValueError:
            return text.decode("utf-8", "replace")

    def conninfo(self, user: str = SUPERUSER, *, dbname: str = "postgres", **more: str | int) -> str:
        known = {SUPERUSER: SUPERUSER_PASSWORD, REPLICATOR: REPLICATOR_PASSWORD, REWINDER: REWINDER_PASSWORD}.get(user)
        facts: dict[str, str | int | None] = {"host": "127.0.0.1", "port": self.port, "user": user}
        facts |= {"password": known, "dbname": dbname}
        facts |= {**self.libpq.get(user, {}), **more}
        return psycopg.conninfo.make_conninfo("", **{"connect_timeout": 5, **facts})

    def connect(self, user: str = SUPERUSER) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection in autocommit mode."""
        return psycopg.connect(self.conninfo(user), autocommit=True)

    def execute(self, sql: str, parameters: Sequence[object] | None = None) -> list[tuple[Any, ...]]:
        with self.connect() as connection:
            cursor = connection.execute(sql.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def value(self, sql: str, parameters: Sequence[object] | None = None) -> Any:
        return self.execute(sql, parameters)[0][0]

    def writable(self) -> bool:
        """Whether PostgreSQL answers and is out of recovery."""
        try:
            return not self.value("SELECT pg_is_in_recovery()")
        except psycopg.OperationalError:
            return False

    def segments(self) -> list[str]:
        """The segments in its pg_wal, in order."""
        return sorted(path.name for path in (self.data / "pg_wal").iterdir() if len(path.name) == 24)

    def base_backup(self, target: Path) -> Path:
        """A plain base backup without WAL, as for an archive."""
        self.host.run(
            [
                *(self.bin_dir / "pg_basebackup", "-d", self.conninfo(REPLICATOR), "-D", target),
                *("-X", "none", "-c", "fast", "--no-sync"),
            ],
            timeout=120,
        )
        return target

    def close(self) -> None:
        self.host.kill9()
        if self.proxy:
            self.proxy.close()
        shutil.rmtree(self.socket_dir, ignore_errors=True)
