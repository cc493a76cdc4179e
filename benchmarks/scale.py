"""What commands cost where the archive holds a million segments: seconds, memory, and requests to S3 by kind.

One server whose WAL is that far, its agent, etcd; S3 is a program of this process (``tests.parts.scripted_s3``) that keeps what
it is given and lists as many segments below it, in pages of a thousand. So a request costs next to no time here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import table
from benchmarks.agents import HOLD_SLOT, Agent
from benchmarks.cost import Meter, adopt_orphans
from benchmarks.material import SCOPE, conditions
from benchmarks.memory import cpu_seconds, peak_mib
from tests.parts.etcd import Etcd
from tests.parts.postgres import Postgres
from tests.parts.processes import new_directory, wait_until
from tests.parts.scripted_s3 import Exchange, ScriptedS3
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.write import Archive
from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.store.open import open_store

SIZE: Final = SegmentSize(MIB)
PACKED: Final = 4_000_000
"""Bytes, of a segment that is only listed."""
LONGEST: Final = 1800.0
_ENTRY: Final = (
    "<Contents><Key>%s</Key><LastModified>2026-11-01T10:00:00.000Z</LastModified>"
    "<ETag>&quot;d41d8cd98f00b204e9800998ecf8427e&quot;</ETag><Size>%d</Size><StorageClass>STANDARD</StorageClass></Contents>"
)
_FOLDER: Final = "<CommonPrefixes><Prefix>%s</Prefix></CommonPrefixes>"


@dataclass(frozen=True, slots=True)
class Cost:
    """``wall`` and ``cpu`` in seconds, ``peak`` in MiB."""

    wall: float
    cpu: float
    peak: float
    requests: Counter[str]
    code: int = 0


class Million:
    """Lists names besides what the server has: those objects are nowhere else."""

    def __init__(self, s3: ScriptedS3, keys: Sequence[str]) -> None:
        self._s3 = s3
        self._keys = keys
        s3.always("LIST", self._list)

    def _list(self, exchange: Exchange) -> None:
        exchange.whole_body()
        prefix, after = exchange.query.get("prefix", ""), exchange.query.get("continuation-token", "")
        ends, wanted = exchange.query.get("delimiter", "") or "\n", self._s3.page_size + 1
        page = self._page(prefix, after, ends, wanted)
        with self._s3.lock:
            for key, stored in self._s3.objects.items():
                name = _cut(key, prefix, ends)
                if key.startswith(prefix) and name > after:
                    page[name] = len(stored.body)
        names = sorted(page)
        more = len(names) >= wanted
        names = names[: wanted - 1]
        token = f"<NextContinuationToken>{names[-1]}</NextContinuationToken>" if more else ""
        entries = "".join(_FOLDER % name if name.endswith(ends) else _ENTRY % (name, page[name]) for name in names)
        text = f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}</ListBucketResult>"
        exchange.answer(200, text.encode(), {"Content-Type": "application/xml"})

    def _page(self, prefix: str, after: str, ends: str, wanted: int) -> dict[str, int]:
        found: dict[str, int] = {}
        at = bisect_right(self._keys, max(prefix, after))
        while at < len(self._keys) and self._keys[at].startswith(prefix) and len(found) < wanted:
            name = _cut(self._keys[at], prefix, ends)
            if name > after:
                found[name] = PACKED
            at = bisect_right(self._keys, f"{name}\x7f") if name.endswith(ends) else at + 1
        return found


def _cut(key: str, prefix: str, ends: str) -> str:
    """Up to the first one behind the prefix: a folder's name, where the key lies in one."""
    head, end, _ = key.removeprefix(prefix).partition(ends)
    return f"{prefix}{head}{end}"


def run(segments: int) -> None:
    """Measure and print: all of them there, and every second one missing."""
    adopt_orphans()
    for step in (1, 2):
        costs = _measure(segments, step)
        rows = [
            (
                what,
                cost.code,
                f"{cost.wall:.1f}",
                f"{cost.cpu:.1f}",
                f"{cost.peak:.0f}",
                *(f"{cost.requests[kind]:,}" for kind in ("LIST", "HEAD", "GET", "PUT")),
            )
            for what, cost in costs.items()
        ]
        missing = "" if step == 1 else ", every second one missing"
        header = ("", "exit", "wall, s", "CPU, s", "peak, MiB", "LIST", "HEAD", "GET", "PUT")
        table.show(f"{segments:,} segments{missing}; {conditions()}", header, rows)


def _measure(segments: int, step: int) -> dict[str, Cost]:
    with ExitStack() as stack:
        directory = new_directory("n")
        s3 = stack.enter_context(ScriptedS3())
        etcd = stack.enter_context(Etcd())
        server = Postgres(directory / "pg", segment_size_mb=SIZE // MIB, settings={"wal_keep_size": "64MB"})
        server.init()
        first = Segment(1, segments, SIZE)
        server.host.run([server.bin_dir / "pg_resetwal", "-l", first.name, "-D", server.data])
        stack.enter_context(server)
        server.replication_role()
        server.physical_slot(HOLD_SLOT)
        # fmt: off
        section = {"s3": {
            "bucket": s3.bucket, "endpoint": s3.endpoint, "region": "us-east-1", "path_style": True,
            "access_key_id": s3.accepted_key, "secret_access_key": "a-secret-of-the-benchmark",
        }}
        # fmt: on
        agent = Agent(new_directory("a"), section, etcd, server.data, server.port)
        agent.lead(server.bin_dir)
        with agent:
            agent.wait_owned()
            names = server.complete_segments(8)
            layout = Layout(SCOPE, None, server.system_identifier)
            wait_until(lambda: any(names[-1] in key for key in list(s3.objects)), "the segments", 60)
        _shift_start(s3, layout)
        stored = min(key for key in s3.objects if key.startswith(layout.wal))
        lowest = Segment.parse(stored.rpartition("/")[2][:24], SIZE).number
        keys = [layout.file(Segment(1, number, SIZE), ".zst") for number in range(1, lowest, step)]
        Million(s3, keys)
        return _costs(agent, etcd, s3, server, names, whole=step == 1)


def _shift_start(s3: ScriptedS3, layout: Layout) -> None:
    """The archive begins with the first segment there is."""
    for key in [key for key in s3.objects if key.startswith(layout.starts)]:
        del s3.objects[key]
    Archive(open_store(s3.settings()), layout, SIZE, Codec(1)).state_start(Segment(1, 1, SIZE))


def _costs(
    agent: Agent, etcd: Etcd, s3: ScriptedS3, server: Postgres, names: Sequence[str], *, whole: bool
) -> dict[str, Cost]:
    """``names`` are the newest segments. Where it is not ``whole`` no agent runs meanwhile: it would look for what is missing."""

    def commands(*asked: str) -> dict[str, Cost]:
        return {each: _command(each.split(), agent, s3, server.data) for each in asked}

    if not whole:
        costs = commands("verify", "list", "list --json", "backups", "expire")
        etcd.delete(f"/service/{SCOPE}/walkeeper")
        return costs | {"takeover, without a record": _takeover(agent, s3)}
    after = Segment(1, Segment.parse(names[-1], SIZE).number + 100, SIZE)
    costs = {"takeover, by the record": _takeover(agent, s3)}
    etcd.delete(f"/service/{SCOPE}/walkeeper")
    costs["takeover, without a record"] = _takeover(agent, s3)
    with agent:
        agent.wait_owned(LONGEST)
        costs |= commands("status", "doctor", "verify", "list", "backups", "expire")
    (server.data / "recovery.signal").touch()
    for what, name in (("a hit", names[-1]), ("a miss", after.name)):
        (costs[f"restore-wal: {what}"],) = commands(f"restore-wal {name} pg_wal/RECOVERYXLOG").values()
    return costs


def _takeover(agent: Agent, s3: ScriptedS3) -> Cost:
    before, begun = len(s3.requests), time.monotonic()
    with agent:
        agent.wait_owned(LONGEST)
        wall, cpu, peak = time.monotonic() - begun, cpu_seconds(agent.pid), peak_mib(agent.pid)
    return Cost(wall, cpu, peak, _requests(s3, before))


def _command(arguments: Sequence[str], agent: Agent, s3: ScriptedS3, data: Path) -> Cost:
    """As PostgreSQL runs restore_command: in its data directory. CPU and requests with those of what it detaches."""
    before, begun, meter = len(s3.requests), time.monotonic(), Meter()
    command = [sys.executable, "-m", "walkeeper", "-c", str(agent.config), *arguments]
    environment = {**os.environ, **agent.environment}
    with (agent.directory / "commands.log").open("ab") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=data, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        peak = 0.0
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            peak = max(peak, peak_mib(process.pid))
            time.sleep(0.01)
        wall, code = time.monotonic() - begun, process.wait()
    return Cost(wall, meter.read(), peak, _requests(s3, before), code)


def _requests(s3: ScriptedS3, before: int) -> Counter[str]:
    """Since there were so many. The agent's own are among them."""
    return Counter(operation for operation, _ in s3.requests[before:])
