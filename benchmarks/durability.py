"""What a commit costs that waits: for nothing but its own disk, for a standby on the same machine, for the store.

pgbench inserts small rows; the agent stores what is received at once, in a bucket whose PUTs take so many milliseconds longer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final

from benchmarks import table
from benchmarks.agents import HOLD_SLOT, Agent
from benchmarks.material import pgbench_of
from benchmarks.memory import cpu_seconds
from benchmarks.places import Place, Places
from tests.parts.etcd import Etcd
from tests.parts.postgres import REPLICATOR, REPLICATOR_PASSWORD, Postgres
from tests.parts.processes import new_directory, wait_until
from walkeeper.core.synchronous import standby_name

DELAYS: Final = (1, 5, 20, 50)
"""Milliseconds that each PUT takes longer."""
CLIENTS: Final = (1, 8, 32, 64)
SECONDS: Final = 6
LONGEST: Final = 60.0
STANDBY: Final = "beside"
_INSERT: Final = "INSERT INTO bench (payload) VALUES (repeat('x', 100));\n"
_SYNCHRONOUS: Final = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync' AND application_name = '{}'"


@dataclass(slots=True)
class Measured:
    latency: list[float] = field(default_factory=list)
    """Milliseconds a commit, on average of each run."""
    rate: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Milliseconds of the agent's for each second."""


def run(rounds: int) -> None:
    """Measure and print. Raises RuntimeError where there is no pgbench."""
    found: dict[tuple[str, int], Measured] = {}
    with ExitStack() as stack:
        etcd = stack.enter_context(Etcd())
        settings = {"max_wal_size": "2GB", "max_connections": "100", "synchronous_commit": "on", "fsync": "on"}
        server = stack.enter_context(Postgres(new_directory("r") / "pg", segment_size_mb=16, settings=settings))
        server.replication_role()
        server.physical_slot(HOLD_SLOT)
        server.execute("CREATE TABLE bench (id bigserial, payload text)")
        place = stack.enter_context(Places("s3", DELAYS[0] / 1000)).new()
        for _ in range(rounds):
            _measure(server, "its own disk", found, None)
            with _standby(server):
                _measure(server, "a standby on this machine", found, None)
            with _store(server, etcd, place) as agent:
                for delay in DELAYS:
                    place.slow(delay / 1000)
                    _measure(server, f"the store, {delay} ms", found, lambda: cpu_seconds(agent.pid))
    _show(found)


@contextmanager
def _standby(server: Postgres) -> Iterator[None]:
    """Another server, which has everything on its disk before a commit returns."""
    other = Postgres(new_directory("r") / "pg", settings=server.settings)
    try:
        server.base_backup(other.data, wal="stream")
        password = f"user={REPLICATOR} password={REPLICATOR_PASSWORD} application_name={STANDBY}"
        other.configure({"primary_conninfo": f"host=127.0.0.1 port={server.port} {password}"})
        (other.data / "standby.signal").touch()
        other.start()
        with _waiting_for(server, STANDBY):
            yield
    finally:
        other.close()


@contextmanager
def _store(server: Postgres, etcd: Etcd, place: Place) -> Iterator[Agent]:
    agent = Agent(new_directory("k"), place.section(), etcd, server.data, server.port, "durable")
    agent.lead(server.bin_dir)
    with agent:
        agent.wait_owned()
        with _waiting_for(server, standby_name(server.system_identifier)):
            yield agent


@contextmanager
def _waiting_for(server: Postgres, name: str) -> Iterator[None]:
    try:
        _set(server, name)
        wait_until(lambda: bool(server.value(_SYNCHRONOUS.format(name))), f"{name} to be synchronous", LONGEST)
        yield
    finally:
        _set(server, "")


def _set(server: Postgres, name: str) -> None:
    server.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
    server.execute("SELECT pg_reload_conf()")


def _measure(
    server: Postgres, what: str, found: dict[tuple[str, int], Measured], cpu: Callable[[], float] | None
) -> None:
    pgbench = pgbench_of(server)
    if pgbench is None:
        raise RuntimeError("there is no pgbench: Debian's package postgresql has it")
    script = server.directory / "insert.sql"
    script.write_text(_INSERT)
    for clients in CLIENTS:
        before = cpu() if cpu is not None else 0.0
        command = [pgbench, "-n", "-f", script, "-c", clients, "-j", 2, "-T", SECONDS, server.conninfo(socket=True)]
        said = server.host.run(command, timeout=LONGEST)
        one = found.setdefault((what, clients), Measured())
        one.latency.append(float(re.findall(r"latency average = ([\d.]+) ms", said)[0]))
        one.rate.append(float(re.findall(r"tps = ([\d.]+)", said)[0]))
        if cpu is not None:
            one.cpu.append((cpu() - before) * 1000 / SECONDS)
        print(f"{what}, {clients} clients: {one.latency[-1]:.1f} ms, {one.rate[-1]:.0f} a second", flush=True)


def _show(found: dict[tuple[str, int], Measured]) -> None:
    rows = [
        (
            what,
            clients,
            table.median(one.latency, 1),
            table.median(one.rate),
            table.median(one.cpu) if one.cpu else table.NONE,
        )
        for (what, clients), one in found.items()
    ]
    header = ("a commit waits for", "clients", "ms a commit", "commits a second", "agent, ms of CPU a second")
    table.show(f"INSERT of a small row, fsync on, {SECONDS} s each; medians", header, rows)
