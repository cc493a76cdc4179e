"""Requests to S3, by kind: what an agent asks idle, busy and at a takeover, and what commands ask, in a bucket that is one
cluster's alone, and in one where a hundred have their archives below one prefix.

One server, its agent, etcd; S3 is a program of this process (``tests.parts.scripted_s3``).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final
from xml.sax.saxutils import escape

from benchmarks import table
from benchmarks.agents import HOLD_SLOT, Agent
from benchmarks.material import SCOPE
from tests.parts.etcd import Etcd
from tests.parts.postgres import Postgres
from tests.parts.processes import new_directory, wait_until
from tests.parts.scripted_s3 import Exchange, ScriptedS3
from walkeeper.core.lsn import MIB, Lsn

CLUSTERS: Final = (1, 100)
SEGMENT_MB: Final = 16
WATCHED: Final = 300.0
"""Seconds, told as an hour's."""
SEGMENTS: Final = 60
"""Of the load."""
LONGEST: Final = 120.0
KINDS: Final = ("PUT", "LIST", "HEAD", "GET", "DELETE")
HEADER: Final = ("", *KINDS, "about others")
COMMANDS: Final = ("status", "doctor", "verify", "list", "backups", "gap list", "expire")
_ROW: Final = "SELECT pg_logical_emit_message(true, 'bench', 'a row')"
_FILL: Final = """
SELECT pg_logical_emit_message(true, 'bench', (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 32768)))"""


@dataclass(frozen=True, slots=True)
class Asked:
    """Requests by kind; ``others`` of them were about what is not this cluster's."""

    kinds: Counter[str]
    others: int
    seconds: float
    segments: int = 0

    def row(self, what: str) -> tuple[str, ...]:
        return (what, *(f"{self.kinds[kind]:,}" for kind in KINDS), str(self.others))

    def an_hour(self) -> Asked:
        return Asked(
            Counter({kind: round(count * 3600 / self.seconds) for kind, count in self.kinds.items()}),
            self.others,
            3600.0,
        )


class Bucket:
    """A bucket whose requests are counted; it lists folders, too."""

    def __init__(self, s3: ScriptedS3) -> None:
        self.s3 = s3
        self._listed: list[str] = []
        s3.always("LIST", self._list)

    def section(self) -> dict[str, Any]:
        # fmt: off
        return {"s3": {
            "bucket": self.s3.bucket, "endpoint": self.s3.endpoint, "region": "us-east-1", "path_style": True, "prefix": "all",
            "access_key_id": self.s3.accepted_key, "secret_access_key": "a-secret-of-the-benchmark",
        }}
        # fmt: on

    def settle(self, clusters: int) -> None:
        """As many archives below one prefix: copies of this one, under names before and behind its own."""
        with self.s3.lock:
            ours = {key: stored for key, stored in self.s3.objects.items() if key.startswith(f"all/{SCOPE}/")}
            for number in range(1, clusters):
                other = f"all/{SCOPE}-{number}/" if number % 2 else f"all/a{number}/"
                for key, stored in ours.items():
                    self.s3.objects[key.replace(f"all/{SCOPE}/", other, 1)] = stored

    def is_quiet(self) -> bool:
        """For a second: who fetches ahead goes on for a while."""
        before = len(self.s3.requests)
        time.sleep(1.0)
        return len(self.s3.requests) == before

    @contextmanager
    def asked(self, found: dict[str, Asked], what: str, segments: int = 0) -> Iterator[None]:
        before, listed, begun = len(self.s3.requests), len(self._listed), time.monotonic()
        yield
        seconds, now, prefixes = time.monotonic() - begun, self.s3.requests[before:], self._listed[listed:]
        about = [key for operation, key in now if key and operation != "LIST"] + prefixes  # no key: about the bucket
        others = [key for key in about if not key.startswith((f"all/{SCOPE}/", "all/probe/"))]
        found[what] = Asked(Counter(operation for operation, _ in now), len(others), seconds, segments)
        print(f"  {what}: {dict(found[what].kinds)}, of others {others[:3] or 0}", flush=True)

    def _list(self, exchange: Exchange) -> None:
        exchange.whole_body()
        prefix, after = exchange.query.get("prefix", ""), exchange.query.get("continuation-token", "")
        ends = exchange.query.get("delimiter", "") or "\n"
        with self.s3.lock:
            self._listed.append(prefix)
            sizes = {key: len(stored.body) for key, stored in self.s3.objects.items() if key.startswith(prefix)}
        heads = {key: key.removeprefix(prefix).partition(ends) for key in sizes}
        names = sorted({f"{prefix}{head}{slash}" for head, slash, _ in heads.values()} - {""})
        names = [name for name in names if name > after]
        page = names[: self.s3.page_size]
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if len(names) > len(page) else ""
        entries = "".join(
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            if name.endswith("/")
            else f"<Contents><Key>{escape(name)}</Key><Size>{sizes[name]}</Size></Contents>"
            for name in page
        )
        text = f"<ListBucketResult><IsTruncated>{str(bool(token)).lower()}</IsTruncated>{token}{entries}</ListBucketResult>"
        exchange.answer(200, text.encode(), {"Content-Type": "application/xml"})


def run() -> None:
    """Measure and print."""
    hours: dict[str, Asked] = {}
    for clusters in CLUSTERS:
        found: dict[str, Asked] = {}
        with ExitStack() as stack:
            etcd, s3 = stack.enter_context(Etcd()), stack.enter_context(ScriptedS3())
            settings = {
                "archive_mode": "on",
                "archive_command": "/bin/true",
                "wal_keep_size": "1GB",
                "max_wal_size": "2GB",
            }
            server = Postgres(new_directory("q") / "pg", segment_size_mb=SEGMENT_MB, settings=settings)
            stack.enter_context(server)
            server.replication_role()
            server.physical_slot(HOLD_SLOT)
            bucket = Bucket(s3)
            if clusters == 1:
                hours = _hours(bucket, etcd, server)
            _commands(bucket, etcd, server, clusters, found)
        table.show(f"{clusters} clusters in the bucket", HEADER, [each.row(what) for what, each in found.items()])
    rows = [(*each.an_hour().row(what), f"{each.segments:.0f}") for what, each in hours.items()]
    table.show(f"An hour, told of {WATCHED:.0f} s", (*HEADER, "segments meanwhile"), rows)


def _agent(bucket: Bucket, etcd: Etcd, server: Postgres, **keys: Any) -> Agent:
    return Agent(new_directory("a"), bucket.section(), etcd, server.data, server.port, **keys)


def _hours(bucket: Bucket, etcd: Etcd, server: Postgres) -> dict[str, Asked]:
    """Each way with a new agent, which is past its start."""
    found: dict[str, Asked] = {}
    with _agent(bucket, etcd, server):
        time.sleep(WATCHED / 10)
        with bucket.asked(found, "a replica's"):
            time.sleep(WATCHED)
    ways: dict[str, tuple[dict[str, Any], Callable[[Postgres], None]]] = {
        "idle": ({}, _nothing),
        "a row each second": ({}, _rows),
        "the same, tail off": ({"tail": {"interval": "off"}}, _rows),
        f"{SEGMENTS} segments": ({}, _segments),
        f"{SEGMENTS} segments, tail off": ({"tail": {"interval": "off"}}, _segments),
    }
    for what, (keys, load) in ways.items():
        agent = _agent(bucket, etcd, server, **keys)
        agent.lead(server.bin_dir)
        with agent:
            agent.wait_owned(LONGEST)
            time.sleep(WATCHED / 10)
            first = _number(server)
            with bucket.asked(found, what):
                load(server)
            found[what] = Asked(found[what].kinds, found[what].others, found[what].seconds, _number(server) - first)
    return found


def _number(server: Postgres) -> int:
    return Lsn.parse(server.lsn()) // (SEGMENT_MB * MIB)


def _nothing(_: Postgres) -> None:
    time.sleep(WATCHED)


def _rows(server: Postgres) -> None:
    _steadily(server, _ROW, 1.0)


def _segments(server: Postgres) -> None:
    _steadily(server, _FILL, WATCHED / (SEGMENTS * SEGMENT_MB))


def _steadily(server: Postgres, statement: str, pause: float) -> None:
    begun = due = time.monotonic()
    with server.connect() as connection:
        while due < begun + WATCHED:
            connection.execute(statement.encode())
            due += pause
            time.sleep(max(0.0, due - time.monotonic()))


def _commands(bucket: Bucket, etcd: Etcd, server: Postgres, clusters: int, found: dict[str, Asked]) -> None:
    """An agent archives some segments; then the others are there, and nobody asks but who is measured."""
    agent = _agent(bucket, etcd, server)
    agent.lead(server.bin_dir)
    with agent:
        agent.wait_owned(LONGEST)
        names = server.complete_segments(8)
        wait_until(lambda: any(f"/{names[-1]}.zst" in key for key in list(bucket.s3.objects)), "the segments", LONGEST)
    bucket.settle(clusters)
    with bucket.asked(found, "a takeover"), agent:
        agent.wait_owned(LONGEST)
        wait_until(bucket.is_quiet, "the end of what it looks at", LONGEST)
    for command in COMMANDS:
        _command(bucket, agent, server, command, found)
    (server.data / "recovery.signal").touch()
    try:
        _command(bucket, agent, server, f"restore-wal {names[-2]} pg_wal/RECOVERYXLOG", found, "restore-wal: a hit")
    finally:
        (server.data / "recovery.signal").unlink()


def _command(
    bucket: Bucket, agent: Agent, server: Postgres, words: str, found: dict[str, Asked], what: str = ""
) -> None:
    command = [sys.executable, "-m", "walkeeper", "-c", str(agent.config), *words.split()]
    with bucket.asked(found, what or f"`{words}`"):
        subprocess.run(
            command,
            env={**os.environ, **agent.environment},
            cwd=server.data,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=LONGEST,
        )
        wait_until(bucket.is_quiet, "the end of what it has left running", LONGEST)
