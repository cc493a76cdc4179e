"""With exactly the rights that examples/ give, and every kind of secret set: it works, and no secret shows anywhere."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pyrage
import pytest

from tests.fixtures.agents import Machine, command_line, environment_of
from tests.parts.etcd import Etcd, least_rights
from tests.parts.postgres import Postgres
from tests.parts.processes import CHECKOUT, new_directory, wait_until
from tests.parts.seaweedfs import LEAST_ACTIONS, SeaweedFS
from walkeeper.archive.codec import Codec
from walkeeper.config import load
from walkeeper.store.open import open_store

pytestmark = [pytest.mark.postgres, pytest.mark.s3]
SCOPE = "discreet"
EXAMPLES = CHECKOUT / "examples"
DATABASE, DCS, ROOT = "pg-5ecret-of-the-role", "dcs-5ecret-of-the-user", "dcs-5ecret-of-root"
BUCKET = "s3-5ecret-of-the-bucket"
CODES = "authentication-5ecret-of-the-hosts"


class Discreet(Machine):
    """A node whose store, DCS and database let it do no more than examples/ say."""

    def __init__(self, server: Postgres, etcd: Etcd, bucket: SeaweedFS) -> None:
        super().__init__(SCOPE, server, etcd)
        identity = pyrage.x25519.Identity.generate()
        self.identity = str(identity)
        key = self.directory / "age-key"
        key.touch(mode=0o600)
        key.write_text(f"{identity}\n")
        self.walkeeper["store"] = {
            "s3": {
                "bucket": bucket.bucket, "prefix": "postgresql", "endpoint": bucket.endpoint, "region": bucket.region,
                "path_style": True, "access_key_id": bucket.access_key, "secret_access_key": bucket.secret_key,
            }
        }  # fmt: skip
        self.walkeeper["encryption"] = {"recipients": [str(identity.to_public())], "identity_file": str(key)}
        self.walkeeper["authentication"] = {
            "key_files": [str(self._secret("codes", CODES))], "since": "000000010000000000000000",
        }  # fmt: skip
        self.walkeeper["postgresql"] = {"user": "walkeeper", "password_file": str(self._secret("pg", DATABASE))}
        self.walkeeper["agent"]["listen"] = f"127.0.0.1:{self.metrics_port}"
        self.patroni = {"etcd3": {"host": etcd.host, "username": "walkeeper", "password": DCS}}
        self.configure(log_level="debug")

    @property
    def secrets(self) -> dict[str, str]:
        return {"database": DATABASE, "DCS": DCS, "bucket": BUCKET, "age": self.identity, "codes": CODES}

    def _secret(self, name: str, value: str) -> Path:
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(value)
        return path

    def dcs(self) -> str:
        """Everything that the cluster has in etcd."""
        prefix = f"/service/{SCOPE}/"
        fields = {"key": _base64(prefix), "range_end": _base64(prefix[:-1] + "0")}
        found = self.etcd.rpc("/kv/range", fields).get("kvs", [])
        return "\n".join(base64.b64decode(kv["key"]).decode() + base64.b64decode(kv["value"]).decode() for kv in found)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.fixture(scope="module")
def machine() -> Iterator[Discreet]:
    bucket = SeaweedFS(actions=LEAST_ACTIONS)
    bucket.secret_key = BUCKET
    with (
        bucket,
        Etcd() as etcd,
        Postgres(new_directory("p") / "pg", auth="scram-sha-256") as server,
    ):
        role = re.sub(r"^--.*$", "", (EXAMPLES / "role.sql").read_text(), flags=re.MULTILINE)
        server.execute(role.replace(":password", f"'{DATABASE}'"))
        server.physical_slot("walkeeper")
        made = Discreet(server, etcd, bucket)
        etcd.require_password(ROOT)
        etcd.add_user("walkeeper", DCS, least_rights(SCOPE))
        agent = made.start()
        try:
            made.wait_ready()
            made.wait_says("takeover")
            yield made
            assert agent.alive
        finally:
            made.close()


def test_with_the_rights_of_the_examples_it_archives_and_moves_the_slot(machine: Discreet) -> None:
    last = machine.server.complete_segments(2)[-1]
    wait_until(lambda: any(last in line for line in machine.says("archived")), f"{last} archived", logs=[machine.log])
    before = machine.server.restart_lsn("walkeeper")
    machine.server.complete_segments(2)
    wait_until(lambda: machine.server.restart_lsn("walkeeper") != before, "the slot moves", logs=[machine.log])
    report = machine.report()
    assert report is not None
    assert report["troubles"] == []


def test_the_rights_are_really_no_more_than_that(machine: Discreet) -> None:
    token = machine.etcd.token("walkeeper", DCS)
    for key in (f"/service/{SCOPE}/leader", f"/service/{SCOPE}/config", "/service/other/walkeeper"):
        with pytest.raises(OSError, match="403"):
            machine.etcd.rpc("/kv/put", {"key": _base64(key), "value": _base64("x")}, token)
    attributes = machine.server.execute(
        "select rolsuper, rolcreatedb, rolcreaterole, rolbypassrls, rolreplication from pg_roles where rolname = 'walkeeper'"
    )
    assert attributes == [(False, False, False, False, True)]
    assert machine.server.value("select count(*) from pg_auth_members where member = 'walkeeper'::regrole") == 0


def test_no_secret_shows_in_processes_logs_metrics_status_dcs_or_files(machine: Discreet) -> None:
    wait_until(machine.receivers, "pg_receivewal", logs=[machine.log])
    last = machine.server.complete_segments(1)[-1]
    wait_until(lambda: any(last in line for line in machine.says("archived")), f"{last} archived", logs=[machine.log])
    restored = machine.server.pg_wal / "RECOVERYXLOG"
    command = [sys.executable, "-m", "walkeeper", "-c", str(machine.config)]
    surroundings = {**machine.host.environment(), **machine.environment()}
    said = [
        subprocess.run(
            [*command, *words],
            env=surroundings,
            cwd=machine.server.data,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        for words in (["restore-wal", last, str(restored)], ["status"], ["status", "--json"])
    ]
    assert said[0].returncode == 0, said[0].stderr
    restored.unlink()
    with urllib.request.urlopen(f"http://127.0.0.1:{machine.metrics_port}/metrics", timeout=30) as answer:
        metrics = answer.read().decode()
    pids = machine.host.pids()
    assert len(pids) >= 2
    places = {
        "output of commands": "".join(run.stdout + run.stderr for run in said),
        "metrics": metrics,
        "DCS": machine.dcs(),
        "the agent's own report": json.dumps(machine.report()),
        "configuration as Python shows it": repr(load(machine.config, {})),
        **{f"command line of {pid}": command_line(pid) for pid in pids},
        **{f"environment of {pid}": environment_of(pid) for pid in pids},
        **{str(path): path.read_bytes().decode("latin-1") for path in files(machine)},
    }
    assert "walkeeper" in places["DCS"]
    for place, text in places.items():
        for kind, secret in machine.secrets.items():
            assert secret not in text, f"the {kind} secret shows in {place}"


def test_p16_what_somebody_plants_in_the_bucket_is_not_restored(machine: Discreet) -> None:
    """With the agent's own credentials for the bucket, and without the key."""
    first, second = machine.server.complete_segments(2)
    wait_until(
        lambda: any(second in line for line in machine.says("archived")), f"{second} archived", logs=[machine.log]
    )
    store = open_store(load(machine.config, {}).store)
    (key,) = (info.key for info in store.list("") if f"/{first}.zst.age" in info.key)
    forged = (machine.server.pg_wal / second).read_bytes()
    store.create(key.removesuffix(".age"), Codec().encode(forged), {"format": "1"})
    found = store.get(key)
    assert found is not None
    planted = f"{first[:8]}000000FF00000001"
    store.create(key.replace(f"{first[:16]}/{first}", f"{planted[:16]}/{planted}"), bytes(found), found.metadata)
    restored = machine.server.pg_wal / "RECOVERYXLOG"

    def restore(name: str) -> subprocess.CompletedProcess[str]:
        words = ["-c", str(machine.config), "restore-wal", name, str(restored)]
        return subprocess.run(
            [sys.executable, "-m", "walkeeper", *words], env={**machine.host.environment(), **machine.environment()},
            cwd=machine.server.data, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    assert restore(first).returncode == 0
    assert restored.read_bytes() == (machine.server.pg_wal / first).read_bytes()
    restored.unlink()
    refused = restore(planted)
    assert refused.returncode not in (0, 1)
    assert not restored.exists()


def test_no_secret_shows_in_what_it_says_when_it_is_refused(machine: Discreet) -> None:
    """Wrong rights and dead servers make libraries talk."""
    machine.server.execute("alter role walkeeper nologin")
    machine.server.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'walkeeper'")
    try:
        machine.wait_says("not permitted to log in")
    finally:
        machine.server.execute("alter role walkeeper login")
    wait_until(lambda: not (machine.report() or {"troubles": [1]})["troubles"], "no problem", 60, logs=[machine.log])
    text = machine.log.read_text()
    for kind, secret in machine.secrets.items():
        assert secret not in text, f"the {kind} secret shows in the log"


def test_files_and_sockets_are_nobody_elses(machine: Discreet) -> None:
    for path in [machine.spool, *machine.spool.rglob("*")]:
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert mode & 0o077 == 0, f"{path}: {mode:04o}"
        assert path.lstat().st_uid == os.getuid()
    assert stat.S_IMODE(Path(machine.socket).stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(machine.socket).parent.stat().st_mode) == 0o700


def files(machine: Discreet) -> Iterator[Path]:
    """What the agent wrote."""
    for directory in (machine.spool, machine.run_directory):
        for path in directory.rglob("*"):
            if path.is_file():
                yield path
    yield machine.log
