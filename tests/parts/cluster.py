"""A real Patroni cluster: etcd and one Patroni with its PostgreSQL per node, as plain processes on 127.0.0.1."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psycopg

from tests.parts.binaries import major_of, postgres_bin
from tests.parts.dcs import PATRONI, ROOT_PASSWORD, WALKEEPER, Dcs, Etcd3
from tests.parts.etcd import Etcd
from tests.parts.node import REWINDER, REWINDER_PASSWORD, Node
from tests.parts.postgres import REPLICATOR, REPLICATOR_PASSWORD, SMALL, SUPERUSER, SUPERUSER_PASSWORD, restore_server
from tests.parts.processes import CHECKOUT, tail, wait_until
from tests.parts.proxy import Proxy

HOLD_SLOT: Final = "walkeeper"
ON_A_FULL_DISK: Final = {"spool": {"reserve": "16MiB"}}
"""It streams there, however full this machine's disk is."""
CALLBACK: Final = f"{{python}} -I -S {CHECKOUT}/walkeeper/control/callback.py {{config}}"
RESTORE: Final = "{python} -m walkeeper -c {config} restore-wal %f %p"
CALLBACKS: Final = ("on_start", "on_stop", "on_restart", "on_role_change", "on_reload")

__all__ = [
    "CALLBACKS",
    "HOLD_SLOT",
    "PATRONI",
    "REPLICATOR",
    "ROOT_PASSWORD",
    "SUPERUSER",
    "WALKEEPER",
    "Cluster",
    "Node",
    "restore_server",
]


class Cluster:
    """``nodes`` Patroni nodes over one DCS in ``directory``. The context manager starts it and waits until all are ready.

    In ``walkeeper_config`` (the ``walkeeper:`` section), ``callbacks`` (event to command), ``restore_command``,
    ``settings`` and ``extra`` (merged over the whole patroni.yml) each string is a template, see Node.fill. With a
    ``walkeeper_config`` the callbacks and the restore_command are walkeeper's unless a test says otherwise.
    ``hold_slot`` None declares no permanent slot. ``proxied`` puts a Proxy between each node and etcd. ``guarded``: see Etcd3.
    ``tags`` are those of some nodes. ``libpq`` is what tests need to connect as some user, over what is usual.
    ``python`` runs Patroni and walkeeper, where it is another than the tests'.
    """

    def __init__(
        self,
        directory: Path,
        nodes: int = 3,
        *,
        bin_dir: Path | None = None,
        segment_size_mb: int = 1,
        ttl: int = 20,
        walkeeper_config: Mapping[str, Any] | None = None,
        callbacks: Mapping[str, str] | None = None,
        restore_command: str | None = None,
        synchronous: bool | str = False,
        settings: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
        hold_slot: str | None = HOLD_SLOT,
        dcs: Dcs | None = None,
        proxied: bool = False,
        guarded: bool = False,
        scope: str = "demo",
        env: Mapping[str, str] | None = None,
        tags: Mapping[str, Mapping[str, Any]] | None = None,
        libpq: Mapping[str, Mapping[str, str]] | None = None,
        python: Path | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory.resolve()
        self.bin_dir = bin_dir or postgres_bin()
        self.major = major_of(self.bin_dir)
        self.segment_size_mb = segment_size_mb
        self.ttl = ttl
        self.walkeeper_config = walkeeper_config
        wired = walkeeper_config is not None
        self.callbacks = dict.fromkeys(CALLBACKS, CALLBACK) if callbacks is None and wired else dict(callbacks or {})
        self.restore_command = RESTORE if restore_command is None and wired else restore_command
        self.synchronous = synchronous
        self.settings = dict(settings or {})
        self.extra = dict(extra or {})
        self.hold_slot = hold_slot
        self.proxied = proxied
        self.scope = scope
        self.etcd = Etcd()
        self.dcs = dcs or Etcd3(self.etcd, scope, guarded=guarded)
        self.tags = dict(tags or {})
        self.libpq = dict(libpq or {})
        self.python = python or Path(sys.executable)
        self.nodes = [self._make_node(f"node{number}") for number in range(1, nodes + 1)]
        for node in self.nodes:
            node.env = {"WALKEEPER_RUN_DIR": str(node.directory), **(env or {})}

    def _make_node(self, name: str) -> Node:
        proxy = Proxy(self.etcd.port) if self.proxied else None
        node = Node(name, self.directory / name, self.bin_dir, proxy, self.configuration)
        node.libpq, node.python = self.libpq, self.python
        return node

    # ---------------------------------------------------------------------------------------------------- configuration

    def configuration(self, node: Node) -> dict[str, Any]:
        """The node's patroni.yml."""
        postgresql: dict[str, Any] = {
            "listen": f"127.0.0.1:{node.port}",
            "connect_address": f"127.0.0.1:{node.port}",
            "data_dir": str(node.data),
            "bin_dir": str(self.bin_dir),
            "pgpass": str(node.directory / "pgpass"),
            "parameters": {"unix_socket_directories": str(node.socket_dir)},
            "authentication": {
                "superuser": {"username": SUPERUSER, "password": SUPERUSER_PASSWORD},
                "replication": {"username": REPLICATOR, "password": REPLICATOR_PASSWORD},
                "rewind": {"username": REWINDER, "password": REWINDER_PASSWORD},
            },
            "pg_hba": [
                "local all all scram-sha-256",
                "host all all 127.0.0.1/32 scram-sha-256",
                "local replication all scram-sha-256",
                "host replication all 127.0.0.1/32 scram-sha-256",
            ],
            "basebackup": ["no-sync", {"checkpoint": "fast"}],
        }
        if self.callbacks:
            postgresql["callbacks"] = self.callbacks
        if self.restore_command:
            postgresql["recovery_conf"] = {"restore_command": self.restore_command}
        whole: dict[str, Any] = {
            "scope": self.scope,
            "name": node.name,
            "restapi": {"listen": f"127.0.0.1:{node.rest_port}", "connect_address": f"127.0.0.1:{node.rest_port}"},
            **self.dcs.section(node),
            "bootstrap": {
                "dcs": self._dynamic(),
                "initdb": [
                    {"encoding": "UTF8"},
                    {"locale": "C"},
                    {"wal-segsize": str(self.segment_size_mb)},
                    {"auth": "scram-sha-256"},
                    "data-checksums",
                    "no-sync",
                ],
            },
            "postgresql": postgresql,
        }
        if node.name in self.tags:
            whole["tags"] = self.tags[node.name]
        if self.walkeeper_config is not None:
            whole["walkeeper"] = merged(ON_A_FULL_DISK, self.walkeeper_config)
        filled = node.fill(merged(whole, self.extra))
        assert isinstance(filled, dict)
        return filled

    def _dynamic(self) -> dict[str, Any]:
        dynamic: dict[str, Any] = {
            "ttl": self.ttl,
            "loop_wait": 1,
            "retry_timeout": 3,
            "maximum_lag_on_failover": 1 << 30,
            "synchronous_mode": self.synchronous,
            "postgresql": {
                "use_pg_rewind": True,
                "use_slots": True,
                "parameters": {
                    **SMALL,
                    "wal_log_hints": "on",
                    "hot_standby": "on",
                    "min_wal_size": f"{2 * self.segment_size_mb}MB",
                    "max_wal_size": f"{max(64, 4 * self.segment_size_mb)}MB",
                    "wal_sender_timeout": "10s",
                    **self.settings,
                },
            },
        }
        if self.hold_slot:
            dynamic["slots"] = {self.hold_slot: {"type": "physical"}}
        return dynamic

    def patch_config(self, change: Mapping[str, Any]) -> None:
        """Change Patroni's dynamic configuration; None removes a key."""
        answer = self._any_rest("config", change, method="PATCH")
        if answer is None or isinstance(answer, str):
            raise RuntimeError(f"{self.scope}: the configuration was not changed: {answer}")

    # -------------------------------------------------------------------------------------------------- life and death

    def start(self, timeout: float = 90) -> None:
        """Start the DCS and all nodes, and wait until every one of them is ready."""
        self.dcs.start()
        for node in self.nodes:
            node.start()
        self.wait_ready(timeout=timeout)

    def stop(self) -> None:
        """Kill everything."""
        for node in self.nodes:
            node.close()
        self.dcs.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, GeneratorExit):
            error.add_note("\n".join(tail(log, 15) for log in self.logs()))
        self.stop()

    def kill_host(self, node: Node | str) -> set[int]:
        """SIGKILL to everything on that node: Patroni, PostgreSQL, agent, pg_receivewal. The pids that there were."""
        return self.node(node).host.kill9()

    def start_node(self, node: Node | str) -> None:
        self.node(node).start()

    def pause(self, node: Node | str) -> None:
        """SIGSTOP to everything on that node."""
        self.node(node).host.pause()

    def resume(self, node: Node | str) -> None:
        self.node(node).host.resume()

    def expire_leader(self) -> None:
        """Let the leader's lease run out now, as the DCS does ttl seconds after a host died."""
        self.dcs.expire(self._key("leader"))

    def expire_member(self, node: Node | str) -> None:
        """Likewise the member key of a host that died."""
        self.dcs.expire(self._key(f"members/{self.node(node).name}"))

    def fail_over(self, timeout: float = 60) -> tuple[Node, Node]:
        """Kill the leader's host, let its lease run out, wait for the next leader. The old and the new one."""
        old = self.wait_leader()
        self.kill_host(old)
        self.expire_leader()
        return old, self.wait_leader(timeout, but_not=old)

    def switchover(self, to: Node | str | None = None, timeout: float = 60) -> Node:
        """A planned change of leader through Patroni's REST API; the new leader, when it can be written to."""
        old = self.wait_leader()
        body = {"leader": old.name, **({"candidate": self.node(to).name} if to is not None else {})}

        answers: list[str] = []

        def accepted() -> bool:
            answers[:] = [str(old.rest("switchover", body, timeout=timeout))]
            return "uccessfully" in answers[0] or self.leader() not in {old, None}

        try:
            wait_until(accepted, f"switchover away from {old.name}", timeout, interval=0.5, logs=self.logs())
        except TimeoutError as error:
            error.add_note(f"Patroni's last answer: {answers[0]}")
            raise
        return self.wait_leader(timeout, but_not=old)

    # ---------------------------------------------------------------------------------------------------------- looking

    def node(self, node: Node | str) -> Node:
        if isinstance(node, Node):
            return node
        return next(each for each in self.nodes if each.name == node)

    def logs(self) -> list[Path]:
        return [node.log for node in self.nodes]

    def leader(self) -> Node | None:
        """Who holds the leader key in the DCS."""
        value = self.dcs.get(self._key("leader"))
        return self.node(value.decode()) if value else None

    def _key(self, name: str) -> str:
        return f"/service/{self.scope}/{name}"

    def replicas(self) -> list[Node]:
        """The other nodes whose Patroni runs; the synchronous standby, to which alone one can switch over, comes first."""
        leader, synchronous = self.leader(), self.synchronous_standby()
        others = [node for node in self.nodes if node is not leader and node.running]
        return sorted(others, key=lambda node: node is not synchronous)

    def synchronous_standby(self) -> Node | None:
        """The one that Patroni's sync key names first."""
        key = self.dcs.get(self._key("sync"))
        names = (json.loads(key).get("sync_standby") or "") if key else ""
        return self.node(names.split(",")[0]) if names else None

    def wait_leader(self, timeout: float = 60, *, but_not: Node | None = None) -> Node:
        """The leader, when its PostgreSQL is out of recovery; with ``but_not`` a leader other than that."""

        def found() -> Node | None:
            leader = self.leader()
            return leader if leader and leader is not but_not and leader.writable() else None

        return wait_until(found, f"{self.scope}: a leader", timeout, interval=0.1, logs=self.logs())

    def wait_ready(self, count: int | None = None, timeout: float = 90) -> Node:
        """Until there is a leader and ``count`` nodes (default: all that run), the leader included, are on its timeline
        and stream. With synchronous replication also until there is a synchronous standby: nobody else may be promoted.
        """
        wanted = count or sum(node.running for node in self.nodes)

        def ready() -> bool:
            members = (self._any_rest("cluster") or {}).get("members", [])
            leaders = [member for member in members if member.get("role") == "leader" and member["state"] == "running"]
            if not leaders:
                return False
            timeline = leaders[0].get("timeline")
            good = [
                member
                for member in members
                if member is not leaders[0]
                and (member["state"] in {"streaming", "running"} or "nostream" in self.tags.get(member["name"], {}))
                and member.get("timeline") == timeline
                and self.node(member["name"]).running
            ]
            elsewhere = sum("replicatefrom" in tags or "nostream" in tags for tags in self.tags.values())
            streams = len(good) + 1 >= wanted and self._streaming() + 1 + elsewhere >= wanted
            return streams and (not self.synchronous or wanted == 1 or self.synchronous_standby() is not None)

        self.wait_leader(timeout)
        wait_until(ready, f"{self.scope}: {wanted} nodes", timeout, interval=0.1, logs=self.logs())
        return self.wait_leader()

    def _streaming(self) -> int:
        """How many of our nodes stream from the leader."""
        leader = self.leader()
        names = [node.name for node in self.nodes]
        sql = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND application_name = ANY(%s)"
        try:
            return int(leader.value(sql, [names])) if leader else 0
        except psycopg.OperationalError:
            return 0

    def connect(self, node: Node | str | None = None) -> psycopg.Connection[tuple[Any, ...]]:
        """To that node, or to the leader."""
        return (self.node(node) if node is not None else self.wait_leader()).connect()

    def conninfo(self, **more: str | int) -> str:
        """To whichever node can be written to."""
        facts: dict[str, Any] = {
            "host": ",".join("127.0.0.1" for _ in self.nodes),
            "port": ",".join(str(node.port) for node in self.nodes),
            "user": SUPERUSER,
            "password": SUPERUSER_PASSWORD,
            "dbname": "postgres",
            "connect_timeout": 2,
            "target_session_attrs": "read-write",
        }
        return psycopg.conninfo.make_conninfo("", **{**facts, **self.libpq.get(SUPERUSER, {}), **more})

    def _any_rest(self, path: str, body: object = None, *, method: str | None = None) -> Any:
        """The answer of the first node that gives one."""
        answers = (node.rest(path, body, method=method, timeout=5) for node in self.nodes if node.running)
        return next((answer for answer in answers if answer is not None), None)


def callbacks(command: str) -> dict[str, str]:
    """The same command for every callback that walkeeper listens to."""
    return dict.fromkeys(CALLBACKS, command)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` laid over it, section by section."""
    result = dict(base)
    for key, value in over.items():
        section = result.get(key)
        result[key] = merged(section, value) if isinstance(section, Mapping) and isinstance(value, Mapping) else value
    return result
