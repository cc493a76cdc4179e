"""Base backups of a cluster under load while whatever takes part is killed; each is restored for real, and compared.

Killed are ``walkeeper backup``, PostgreSQL, the agent that archives, and the store's gateway. Whoever takes the backup calls it
again until it is stored. Then ``verify --restore`` proves it, PostgreSQL's own programs included, and every row that was
acknowledged below the frontier must be there.
"""

from __future__ import annotations

import json
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import psycopg
import pytest

from tests.fixtures.agents import SIZE, Machine
from tests.parts.etcd import Etcd
from tests.parts.ledger import Ledger
from tests.parts.postgres import Postgres
from tests.parts.processes import Process, new_directory, wait_until
from tests.parts.seaweedfs import SeaweedFS
from walkeeper.archive.open import open_archives
from walkeeper.config import load
from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.postgres.scratch import ScratchServer
from walkeeper.proof import command
from walkeeper.proof.found import Check

pytestmark = [pytest.mark.postgres, pytest.mark.s3, pytest.mark.slow]

VICTIMS: Final = ("backup", "server", "agent", "store")
LONGEST: Final = 3.0
"""Seconds that an undisturbed backup takes, about."""
CALLS: Final = 12
"""Of ``walkeeper backup`` for one backup; kills come during the first ones."""
SUM: Final = "SELECT (count(*), sum(hashtext(m)))::text FROM t"


class World(Machine):
    """A server with an agent, and a bucket."""

    def __init__(self, server: Postgres, etcd: Etcd, bucket: SeaweedFS) -> None:
        super().__init__("demo", server, etcd)
        self.bucket = bucket
        self.walkeeper["store"] = {
            "s3": {
                "bucket": bucket.bucket, "prefix": "postgresql", "endpoint": bucket.endpoint, "region": bucket.region,
                "path_style": True, "access_key_id": bucket.access_key, "secret_access_key": bucket.secret_key,
            }
        }  # fmt: skip
        self.configure()
        server.execute("CREATE TABLE t AS SELECT md5(g::text) AS m FROM generate_series(1, 200000) g")
        self.sum = server.value(SUM)
        self.agent = self.start()
        self.wait_owned()
        self.below = new_directory("v")
        self.calls = 0

    def kill(self, victim: str, backup: Process) -> None:
        """And start again what somebody would start again by himself; who takes the backup notices."""
        if victim == "backup":
            backup.send(signal.SIGKILL)
        elif victim == "server":
            self.server.kill9()
            self.server.start(120)
        elif victim == "agent":
            self.agent.send(signal.SIGKILL)
            self.agent.wait()
            self.agent = self.start()
        else:
            self.bucket.stop()
            time.sleep(0.5)
            self.bucket.start()

    def backup(self, *arguments: str) -> Process:
        self.calls += 1
        log = self.directory / f"backup-{self.calls}.log"
        words = ["-m", "walkeeper", "backup", "-c", self.config, "--max-rate", "12MB", *arguments]
        return self.host.start([sys.executable, *words], log=log, env=self.environment())

    def archived(self) -> Lsn:
        """The frontier, once it has passed everything that there is now."""
        end = Segment.parse(self.server.complete_segments(1)[-1], SIZE).end
        wait_until(
            lambda: (found := self.record) is not None and found.position >= end, "the frontier", 120, logs=[self.log]
        )
        record = self.record
        assert record is not None
        return record.position


@pytest.fixture
def world() -> Iterator[World]:
    server = Postgres(new_directory("p"), settings={"wal_keep_size": "64MB"})
    server.init()
    server.host.run([server.bin_dir / "pg_checksums", "--enable", "--no-sync", "-D", server.data])
    with SeaweedFS() as bucket, Etcd() as etcd, server:
        server.replication_role()
        server.physical_slot("walkeeper")
        made = World(server, etcd, bucket)
        yield made
        made.close()


def taken(world: World, chance: random.Random, killed: Counter[str]) -> tuple[str, int]:
    """One backup, whatever it takes: its id, and how often it was called."""
    id_ = ""
    for call in range(1, CALLS + 1):
        process = world.backup(*(["--resume", id_] if id_ else []))
        victims = [chance.choice(VICTIMS) for _ in range(chance.randint(1, 2))] if call <= 3 else []
        for victim in victims:
            time.sleep(chance.uniform(0, LONGEST / len(victims)))
            if process.alive:
                world.kill(victim, process)
                killed[victim] += 1
        code = process.wait(300)
        said = process.log.read_text()
        begun = re.findall(r"backup_begins backup=(\S+)", said)
        id_ = begun[-1] if begun else id_
        if code == 0 or (id_ and "is stored already" in said):
            return id_, call
        if "nothing of it is stored" in said:
            id_ = ""
        assert "Traceback" not in said, said
    raise AssertionError(f"backup {id_}: not taken in {CALLS} calls")


def test_p7_p14_whatever_is_killed_while_backups_are_taken_each_of_them_restores(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pytestconfig: pytest.Config
) -> None:
    rounds, seed = pytestconfig.getoption("--backups"), pytestconfig.getoption("--seed")
    chance = random.Random(seed)
    monkeypatch.setenv("WALKEEPER_RUN_DIR", str(new_directory("r")))
    config = replace(load(world.config, {}), bin_dir=world.server.bin_dir)
    seen: dict[str, Any] = {}
    original = command._relations

    def looked(server: ScratchServer, superuser: str | None) -> Check:
        """Beside pg_amcheck: the rows."""
        with psycopg.connect(host=str(server.sockets), port=5432, user=superuser, dbname="postgres") as restored:
            seen["sum"] = restored.execute(SUM.encode()).fetchall()[0][0]
            seen["odd"] = restored.execute("SELECT count(*) FROM ledger WHERE payload <> 'row ' || id").fetchall()[0][0]
            seen["lacks"] = ledger.compare(restored, seen["expected"])
        return original(server, superuser)

    monkeypatch.setattr(command, "_relations", looked)
    killed, calls, checks, rows = Counter[str](), Counter[int](), Counter[str](), 0
    begun = time.monotonic()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with Ledger.light(world.server.conninfo()) as ledger:
            for number in range(rounds):
                id_, called = taken(world, chance, killed)
                frontier = world.archived()
                seen.clear()
                seen["expected"] = ledger.covered(History(1), frontier)
                capsys.readouterr()
                code = command.main(config, command.Request(below=world.below, json=True))
                said = capsys.readouterr()
                found = json.loads(said.out)
                assert (code, found["verdict"], found["backup"]) == (0, "sound", id_), (number, said.out, said.err)
                assert (seen["sum"], seen["odd"], seen["lacks"]) == (world.sum, 0, []), number
                calls[called] += 1
                rows += len(seen["expected"])
                checks.update(each["name"] for each in found["checks"] if each["state"] == "ok")
                _forget(world, id_)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert list(world.below.iterdir()) == []
    with capsys.disabled():
        told = f"{rounds} backups (seed {seed}) in {time.monotonic() - begun:.0f} s, each restored and compared"
        print(f"\n{told}; kills: {dict(killed)}; backups by calls: {dict(sorted(calls.items()))}")
        print(
            f"clean: {dict(checks)}; rows compared with the ledger: {rows}; writers lost their server {ledger.errors} times"
        )


def _forget(world: World, id_: str) -> None:
    """Its objects go, so that the disk lasts; ``backup.json`` first, as in expire."""
    archives = open_archives(load(world.config, {}))
    keys = [
        info.key for info in archives.store.list(f"{archives.layout(world.server.system_identifier).backups}{id_}/")
    ]
    for key in sorted(keys, key=lambda key: not key.endswith("backup.json")):
        archives.store.delete(key)
