"""The tortured cluster: three Patroni nodes with agents, an etcd, a store, a load whose acknowledged rows are known, a diary."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

import psycopg
import yaml

from benchmarks import wiring
from benchmarks.places import DirectoryPlace, Place
from tests.parts import cluster
from tests.parts.cluster import WALKEEPER, Cluster, callbacks
from tests.parts.ledger import Acknowledged, Ledger
from tests.parts.node import Node
from tests.parts.processes import CHECKOUT, describe, new_directory, wait_until
from tests.parts.ways import Way, keys_of
from tests.torture.backups import KEEP, RATE, STILL, Jobs, Pieces
from walkeeper.archive.backups import Backups
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.core import backup_job
from walkeeper.core.backup import BackupId
from walkeeper.core.backup_job import Job
from walkeeper.core.lsn import MIB, Lsn
from walkeeper.core.names import Segment
from walkeeper.core.record import Record, decode_record
from walkeeper.core.synchronous import standby_name
from walkeeper.errors import BadJob, BadRecord, WalkeeperError
from walkeeper.postgres.base_backup import APPLICATION

CAUGHT_UP_LOOK: Final = 80.0
"""Seconds after which it is asked anew who leads, and how far that one is."""
SEGMENT_MB: Final = 4
MEMBERS: Final = 3
WRITERS: Final = 2
OTHERS: Final = 28
"""Connections that are not a writer's."""
ROW_BYTES: Final = 16 * 1024
CONFIG: Final = "{directory}/walkeeper.yml"
"""Walkeeper's own: its user in etcd may write one key (examples/dcs/etcd-role.sh)."""
PRE_PROMOTE: Final = "{python} -m walkeeper -c " + CONFIG + " pre-promote --timeout 20"
CALLBACK, RESTORE, PUSH = (
    command.replace("{config}", CONFIG) for command in (cluster.CALLBACK, cluster.RESTORE, wiring.ARCHIVE_PUSH)
)
RECORD: Final = "/service/demo/walkeeper"
_SAMPLE: Final = 1.0
_LOOK: Final = "select case when pg_is_in_recovery() then null else pg_current_wal_lsn()::text end"
_READING: Final = f"""
select pid, extract(epoch from clock_timestamp())::float8, backup_streamed from pg_stat_progress_basebackup
join pg_stat_activity using (pid) where application_name = '{APPLICATION}' and backup_streamed > 0"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the diary. ``at`` and ``until`` in seconds after the start; ``kind``: fault, backup, check, note or violation."""

    at: float
    kind: str
    text: str
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One look: where the leader's WAL ends and the frontier is; None is not known."""

    at: float
    leader: str | None
    lsn: int | None
    record: Record | None


@dataclass(slots=True)
class SecondLife:
    """What the server at ``port`` wrote after its volume had gone back, in monotonic seconds: it is nobody's, and no archive's."""

    port: int
    since: float
    until: float = math.inf

    def has(self, row: Acknowledged) -> bool:
        return row.port == self.port and self.since <= row.at < self.until


@dataclass(slots=True)
class Diary:
    """Events and frontier on one time line."""

    entries: list[Entry] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)

    @property
    def now(self) -> float:
        return time.monotonic() - self.begun

    def tell(self, kind: str, text: str, until: float | None = None, *, since: float | None = None) -> None:
        """``since``: when it began, if that is over."""
        entry = Entry(self.now if since is None else since, kind, text, until)
        self.entries.append(entry)
        print(f"{entry.at:8.1f} s  {kind:<9} {text}", flush=True)

    @property
    def violations(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.kind == "violation"]


class Rig:
    """A context manager: started and under load inside, gone after."""

    def __init__(
        self,
        place: Place,
        diary: Diary,
        *,
        rate: float,
        archiver: Way = "streaming",
        members: int = MEMBERS,
        writers: int = WRITERS,
        far: Place | None = None,
        backups_each: float = 0.0,
    ) -> None:
        """With ``command`` PostgreSQL's archive_command is walkeeper's script. ``far``: a second store.

        ``backups_each``: seconds between two base backups, which the agents then take.
        """
        stores = [place.section(), *([{"name": "far", **far.section()}] if far is not None else [])]
        self.section = {
            **({"store": place.section()} if far is None else {"stores": stores}),
            **keys_of(archiver),
            "spool": {"limit": "16MB"},
            "agent": {"listen": "127.0.0.1:{metrics_port}", "log_file": "{directory}/agent.log"},
        }
        self.jobs = Jobs(backups_each) if backups_each else None
        if backups_each:
            self.section["backup"] = {
                "schedule": f"{backups_each:g}s",
                "max_rate": RATE,
                "keep": KEEP,
                "expire": True,
            }
        # A pg_rewind whose source goes away leaves a data directory that nothing but a new one fixes.
        postgresql: dict[str, Any] = {"pg_ctl_timeout": 30, "remove_data_directory_on_rewind_failure": True}
        if archiver == "command":
            postgresql["parameters"] = {"archive_command": PUSH}
        self.durable = archiver == "durable"
        """Whether commits wait for the store: then every row that was acknowledged has to be in it."""
        if self.durable:
            postgresql["pre_promote"] = PRE_PROMOTE
        self.connections = {"max_connections": f"{OTHERS + writers}"}
        """A setting that a restored server must have, too."""
        self.place = place
        self.far = None if far is None else Far(self, far)
        self.diary = diary
        self.cluster = Cluster(
            new_directory("c"), members, segment_size_mb=SEGMENT_MB, proxied=True, guarded=far is None,
            callbacks=callbacks(CALLBACK), restore_command=RESTORE,
            settings=self.connections | ({"archive_mode": "on"} if archiver == "command" else {}),
            extra={"postgresql": postgresql},
        )  # fmt: skip
        self.ledger = Ledger(
            self.cluster.conninfo(), writers=writers, ballast=ROW_BYTES, pause=writers * ROW_BYTES / (rate * MIB)
        )
        self.promoted: set[str] = set()
        """Who was promoted by hand beside a leader, at any time."""
        self.second_lives: list[SecondLife] = []
        self.held: dict[Segment, str] = {}
        """What its leader's pg_wal lacks and is not archived, and who has it: it may never be called lost. Nobody is ""."""
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.callback(self.cluster.stop)
            for node in self.cluster.nodes:
                self._write_config(node)
            self.cluster.start(timeout=120)
            wait_until(self.record, "the record", 60, logs=[wiring.agent_log(node) for node in self.cluster.nodes])
            if self.durable:
                self._wait_for_the_store()
            if self.jobs is not None:
                self._fill()
            stack.enter_context(self.ledger)
            self._watcher.start()
            self._open = stack.pop_all()
        self.diary.tell("note", f"started: {self.cluster.wait_leader().name} leads")
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watcher.join(timeout=20)
        self._open.close()

    def _wait_for_the_store(self) -> None:
        """From here on every commit does."""
        leader = self.cluster.wait_leader()
        name = standby_name(int(leader.value("select system_identifier from pg_control_system()")))
        parameters = {"synchronous_standby_names": name}
        self.cluster.patch_config({"check_timeline": True, "postgresql": {"parameters": parameters}})
        wait_until(
            lambda: leader.value("select count(*) from pg_stat_replication where sync_state = 'sync'"),
            "an agent that acknowledges", 60, logs=[wiring.agent_log(leader)],
        )  # fmt: skip

    def _fill(self) -> None:
        """So that a base backup takes its time, and has what nobody changes."""
        self.cluster.wait_leader().execute(
            "create table still as select number, "
            "(select string_agg(md5(number || ' ' || part), '') from generate_series(1, 32) as part) as text "
            f"from generate_series(1, {STILL // 1100}) as number"
        )

    def config(self, node: Node) -> Path:
        """Walkeeper's configuration on that node."""
        return Path(node.fill(CONFIG))

    def reconfigure(self, nodes: Iterable[Node], changes: Mapping[str, Any] | None = None) -> None:
        """What the section says, with such changes, on those nodes, and a SIGHUP to their agents."""
        for node in nodes:
            self._write_config(node, changes or {})
            for pid in self.processes(node, "agent")[-1:]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGHUP)

    def _write_config(self, node: Node, changes: Mapping[str, Any] = MappingProxyType({})) -> None:
        """With walkeeper's rights in etcd, and its own copy of Patroni's configuration."""
        patroni = self.cluster.configuration(node)
        if self.far is None:  # the example grants the keys of one store
            patroni["etcd3"] |= WALKEEPER
        copy = node.directory / "patroni-for-walkeeper.yml"
        whole = {"patroni_config": str(copy), **node.fill({**self.section, **changes})}
        for path, content in ((copy, patroni), (self.config(node), whole)):
            new = path.with_suffix(".new")
            new.touch(mode=0o600)
            new.write_text(yaml.safe_dump(content))
            new.replace(path)

    # ---------------------------------------------------------------------------------------------------------- looking

    def record(self, key: str = RECORD) -> Record | None:
        """The record; None while there is none, or etcd does not answer."""
        try:
            document = self.cluster.etcd.get(key)
            return None if document is None else decode_record(document)
        except (OSError, ValueError, BadRecord):
            return None

    def job(self) -> Job | None:
        """The cluster's base backup; None while there is none, or etcd does not answer."""
        try:
            document = self.cluster.etcd.get(f"{RECORD}-backup")
            return None if document is None else backup_job.decode(document)
        except (OSError, ValueError, BadJob):
            return None

    def backups(self, system_identifier: int) -> Backups:
        """As they lie in the store."""
        return Backups(self.place.store(), Layout(self.cluster.scope, None, system_identifier), Codec())

    def leader(self) -> Node | None:
        try:
            return self.cluster.leader()
        except (OSError, ValueError):
            return None

    def processes(self, node: Node, part: str) -> list[int]:
        """Its processes of one kind: ``agent``, ``backup``, ``receiver``, ``patroni`` or ``postmaster``."""
        found = []
        for pid in sorted(node.host.pids()):
            command = describe(pid)
            kinds = {
                "agent": "walkeeper" in command and " agent" in command,
                "backup": "walkeeper" in command and " backup --job " in command,
                "receiver": "/pg_receivewal" in command and "-c" not in command.split(),
                "patroni": "-m tests.parts.patroni" in command,
                "postmaster": "/postgres -D" in command,
            }
            if kinds[part]:
                found.append(pid)
        return found

    def problems(self, node: Node) -> str:
        """What its agent says is wrong; for the diary."""
        url = f"http://127.0.0.1:{node.metrics_port}/health"
        with contextlib.suppress(OSError, ValueError):
            try:
                with urllib.request.urlopen(url, timeout=3) as answer:
                    found = json.load(answer)
            except urllib.error.HTTPError as bad:
                with bad:
                    found = json.load(bad)
            said = ", ".join(f"{each['what']} ({each['reason']})" for each in found["troubles"])
            return f"its agent says: {said or 'all is well'}"
        return "its agent does not answer"

    def _watch(self) -> None:
        while not self._ended.wait(_SAMPLE):
            leader, record = self.leader(), self.record()
            lsn = None
            if leader is not None:
                with (
                    contextlib.suppress(psycopg.Error, OSError),
                    psycopg.connect(
                        leader.conninfo(connect_timeout=2, options="-c statement_timeout=1000"), autocommit=True
                    ) as connection,
                ):
                    row = connection.execute(_LOOK).fetchone()
                    lsn = int(Lsn.parse(row[0])) if row and row[0] else None
                    if self.jobs is not None:
                        for pid, seconds, sent in connection.execute(_READING):
                            self.jobs.read(leader.name, pid, seconds, sent)
            self._look_at_the_job()
            self.diary.samples.append(Sample(self.diary.now, leader.name if leader else None, lsn, record))

    def _look_at_the_job(self) -> None:
        if self.jobs is None or (job := self.job()) is None:
            return
        if (run := self.jobs.note(self.diary.now, job, self._pieces)) is not None:
            self.diary.tell("backup", str(run), run.until, since=run.at)

    def _pieces(self, job: Job) -> Pieces | None:
        with contextlib.suppress(OSError, WalkeeperError):
            return self.backups(int(job.system_identifier)).pieces(BackupId.parse(job.backup))
        return None

    # ----------------------------------------------------------------------------------------------------------- fixing

    def start_agent(self, node: Node) -> None:
        """By a callback: for one whose parent was killed with it, nobody else does before Patroni calls back again."""
        command = node.fill(CALLBACK).split()
        node.host.run([*command, "on_reload", "replica", "demo"], env=node.env)

    def settle(self, timeout: float = 240) -> Node:
        """After the faults: everything is started, and the cluster is whole again. The leader."""
        for node in self.cluster.nodes:
            node.host.resume()
            if node.proxy is not None:
                node.proxy.delay = 0.0
                node.proxy.fix()
            if not node.running:
                node.start()
            elif not self.processes(node, "agent"):
                self.start_agent(node)
        wait_until(self._no_longer_paused, "the end of a pause", 60)
        with contextlib.suppress(TimeoutError):
            return self.cluster.wait_ready(len(self.cluster.nodes), timeout / 4)
        for node in self._diverged():
            self.diary.tell("note", f"{node.name} was promoted beside the leader, and does not come back: built again")
            node.rest("reinitialize", {"force": True}, timeout=20)
        return self.cluster.wait_ready(len(self.cluster.nodes), timeout)

    def _diverged(self) -> list[Node]:
        """Whom neither Patroni nor PostgreSQL bring back, because they go by the number (docs/limits.md): as doctor tells it.

        Of a server that does not even come up nobody can tell it, but who has promoted it.
        """
        self.cluster.wait_leader()
        self.wait_caught_up()
        return [node for node in self.cluster.nodes if self._told_diverged(node) or self._known_diverged(node)]

    def _known_diverged(self, node: Node) -> bool:
        if node.name not in self.promoted:
            return False
        try:
            node.value("select 1")
        except psycopg.Error:
            return True
        return False

    def _told_diverged(self, node: Node) -> bool:
        done = subprocess.run(
            [sys.executable, "-m", "walkeeper", "-c", self.config(node), "doctor", "--json"],
            env=node.host.environment(node.env), cwd=CHECKOUT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=90, check=False,
        )  # fmt: skip
        findings = json.loads(done.stdout)["findings"]
        return any(
            (each["rule"], each["state"], each["member"]) == (rule, "error", node.name)
            for each in findings
            for rule in ("leaders_timeline", "one_branch")
        )

    def wait_caught_up(self, timeout: float = 240) -> Record:
        """Until the frontier has passed everything that was written so far, by whoever leads: that may change meanwhile."""
        until = time.monotonic() + timeout
        while True:
            left = until - time.monotonic()
            try:
                record = wiring.wait_archived(self.cluster, self.cluster.wait_leader(left), min(left, CAUGHT_UP_LOOK))
                if self.far is not None:
                    self.far.wait_for(record, min(left, CAUGHT_UP_LOOK))
            except TimeoutError:
                if time.monotonic() > until:
                    raise
            else:
                return record

    @property
    def stores(self) -> list[Rig | Far]:
        """The cluster, looked at from each of its stores."""
        return [self] if self.far is None else [self, self.far]

    @contextlib.contextmanager
    def hidden(self, segment: Segment) -> Iterator[None]:
        """Its object is not in the archive, and no agent runs that would notice, and store it again."""
        assert isinstance(self.place, DirectoryPlace)
        archive = wiring.archive_of(self.cluster, self.place)
        stored = self.place.root / archive.layout.file(segment, ".zst")
        agents = [pid for node in self.cluster.nodes for pid in self.processes(node, "agent")]
        for pid in agents:
            os.kill(pid, signal.SIGSTOP)
        aside = stored.rename(stored.with_name(".hidden"))
        try:
            yield
        finally:
            aside.rename(stored)
            for pid in agents:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def paused(self, value: bool) -> None:
        self.cluster.patch_config({"pause": True if value else None})

    def _no_longer_paused(self) -> bool:
        """A fault that ends while nobody answers leaves a pause behind."""
        with contextlib.suppress(OSError, RuntimeError):
            self.paused(False)
            return True
        return False

    def members(self) -> str:
        """For the diary."""
        for node in self.cluster.nodes:
            answer = node.rest("cluster", timeout=3)
            if isinstance(answer, dict):
                return json.dumps(
                    [{key: m.get(key) for key in ("name", "role", "state", "timeline")} for m in answer["members"]]
                )
        return "nobody answers"


class Far:
    """The same cluster, looked at from its second store."""

    def __init__(self, rig: Rig, place: Place) -> None:
        self._rig = rig
        self.place = place

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rig, name)

    def record(self) -> Record | None:
        return self._rig.record(f"{RECORD}-far")

    def wait_for(self, record: Record, timeout: float) -> None:
        """Until it has what the first store's record says."""

        def there() -> bool:
            own = self.record()
            return own is not None and own.timeline == record.timeline and own.position >= record.position

        logs = [wiring.agent_log(node) for node in self._rig.cluster.nodes]
        wait_until(there, f"{record.lsn} in the second store", timeout, logs=logs)


def base_backup(rig: Rig) -> Path:
    """Of the leader, without WAL; what it needs up to its end is archived."""
    backup = rig.cluster.wait_leader(120).base_backup(new_directory("b") / "base")
    rig.wait_caught_up()
    return backup
