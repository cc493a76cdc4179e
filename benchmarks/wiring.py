"""A Patroni cluster with walkeeper wired into it as a user would, and how to read what both of them say."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.places import Place
from tests.parts.cluster import Cluster, Node
from tests.parts.processes import CHECKOUT, new_directory, wait_until
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.write import Archive
from walkeeper.core.record import Record, decode_record

ARCHIVE_PUSH: Final = f"WALKEEPER_PYTHON={{python}} {CHECKOUT}/walkeeper/shell/walkeeper-archive-push -c {{config}} %p"

_EVENT: Final = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) [A-Z]+ (\w+)(.*)")
_SERVER: Final = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) UTC \[\d+\] [A-Z]+:  (.*)")
_FACT: Final = re.compile(r'(\w+)=("[^"]*"|\S+)')


@dataclass(frozen=True, slots=True)
class Event:
    """A line of a log. ``at`` is wall time in seconds; the agents and the servers share one clock here."""

    at: float
    word: str
    facts: dict[str, str]


def make_cluster(
    place: Place | None,
    *,
    nodes: int = 3,
    segment_size_mb: int = 1,
    restore_command: bool = True,
    walkeeper: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    archive_command: str | None = None,
) -> Cluster:
    """Not started yet. Without a place there is no walkeeper at all, and no hold slot.

    Agents are started by Patroni's callbacks, unless the place is a slow directory: see ``start_agents``.
    """
    wired: dict[str, Any] = {}
    if place is not None:
        section = {
            "store": place.section(),
            "agent": {
                "listen": "127.0.0.1:{metrics_port}",
                "log_file": "{directory}/agent.log",
                "start_from_callback": not _needs_slow_agents(place),
            },
            **(walkeeper or {}),
        }
        wired = {"walkeeper_config": section, "restore_command": None if restore_command else ""}
    if archive_command is not None:
        settings = {"archive_mode": "on", **(settings or {})}
        wired["extra"] = {"postgresql": {"parameters": {"archive_command": archive_command}}}  # each node has its own
    return Cluster(
        new_directory("c"),
        nodes,
        segment_size_mb=segment_size_mb,
        hold_slot="walkeeper" if place is not None else None,
        settings={"log_timezone": "UTC", **(settings or {})},
        env={"TZ": "UTC"},
        **wired,
    )


def start(cluster: Cluster, place: Place | None, timeout: float = 120) -> None:
    """Start it, and its agents, and wait until all members stream and one of the agents owns the record."""
    cluster.etcd.start()
    for node in cluster.nodes:
        node.start()
        if place is not None and _needs_slow_agents(place):
            start_slow_agent(node, place)
    cluster.wait_ready(timeout=timeout)
    if place is not None:
        wait_until(lambda: record_of(cluster), "the record", 60, logs=[agent_log(node) for node in cluster.nodes])


def start_slow_agent(node: Node, place: Place) -> None:
    command = [sys.executable, "-m", "benchmarks.slow_store", node.config, str(place.put_delay)]
    node.host.start(command, log=node.directory / "slow-agent.log", env={"TZ": "UTC", **node.env})


def _needs_slow_agents(place: Place) -> bool:
    return place.kind == "directory" and place.put_delay > 0


# ------------------------------------------------------------------------------------------------------------- the record


def record_of(cluster: Cluster) -> Record | None:
    found = cluster.etcd.get(f"/service/{cluster.scope}/walkeeper")
    return None if found is None else decode_record(found)


def archive_of(cluster: Cluster, place: Place) -> Archive:
    """What the agents of that cluster write, to look at."""
    record = wait_until(lambda: record_of(cluster), "the record", 60)  # somebody may just have wiped it
    layout = Layout(cluster.scope, None, int(record.system_identifier))
    return Archive(place.store(), layout, record.size, Codec())


def wait_archived(cluster: Cluster, leader: Node, timeout: float) -> Record:
    """End the leader's segment, and wait until the frontier has passed all that was written before."""
    leader.execute("SELECT pg_logical_emit_message(true, 'benchmark', 'the end')")
    target = str(leader.value("SELECT pg_switch_wal()::text"))
    timeline = int(str(leader.value("SELECT pg_walfile_name(pg_current_wal_lsn())"))[:8], 16)

    def there() -> Record | None:
        record = record_of(cluster)
        if record is None or record.timeline != timeline:
            return None
        reached = leader.value("SELECT %s::pg_lsn >= %s::pg_lsn", [record.lsn, target])
        return record if reached else None

    logs = [agent_log(node) for node in cluster.nodes]
    return wait_until(there, f"the frontier at {target} of timeline {timeline}", timeout, interval=0.1, logs=logs)


# ------------------------------------------------------------------------------------------------------------------- logs


def spool_wal(node: Node) -> Path:
    return node.data.with_name(f"{node.data.name}.walkeeper") / "wal"


def spool_fetch(node: Node) -> Path:
    """Where what another member delivers arrives."""
    return spool_wal(node).with_name("fetch")


def agent_log(node: Node) -> Path:
    return node.directory / "agent.log"


def agent_events(node: Node) -> Iterator[Event]:
    """The agent's log, in order."""
    for match in _matches(agent_log(node), _EVENT):
        yield Event(_seconds(match[1]), match[2], {name: value.strip('"') for name, value in _FACT.findall(match[3])})


def server_events(node: Node) -> Iterator[Event]:
    """PostgreSQL's own lines in Patroni's log, in order; the whole message is the word."""
    for match in _matches(node.log, _SERVER):
        yield Event(_seconds(match[1]), match[2], {})


def first_event(events: Iterator[Event], word: str, after: float) -> float | None:
    """When the first event that begins with ``word`` came, at or after wall time ``after``."""
    return next((event.at for event in events if event.word.startswith(word) and event.at >= after), None)


def _matches(log: Path, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
    if not log.exists():
        return
    for line in log.read_text("utf-8", "replace").splitlines():
        match = pattern.match(line)
        if match:
            yield match


def _seconds(stamp: str) -> float:
    return datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC).timestamp()
