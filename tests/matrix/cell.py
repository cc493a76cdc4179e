"""What every cell of the matrix does to its cluster: load, the leader's host is killed, another one leads, it is handed over,
everything dies in the middle of the load; then a base backup and the archive must give back each acknowledged row."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import yaml

from tests.parts.cluster import CALLBACK, RESTORE, Cluster, Node, callbacks, merged
from tests.parts.dcs import Dcs
from tests.parts.ledger import Ledger
from tests.parts.processes import CHECKOUT, wait_until
from tests.test_cluster import SCRIPT, SIZE, Archived, restored_rows
from walkeeper.core.history import parse_history
from walkeeper.core.lsn import MIB, Lsn
from walkeeper.core.record import Record
from walkeeper.store.directory import DirectoryStore


class Guarded(Cluster):
    """walkeeper has files of its own, which name its own user of the DCS."""

    def configuration(self, node: Node) -> dict[str, Any]:
        whole = super().configuration(node)
        assert isinstance(self.dcs, GuardedDcs)
        copy = node.directory / "patroni-for-walkeeper.yml"
        section = {"patroni_config": str(copy), **whole.pop("walkeeper")}
        for path, content in ((copy, {**whole, **self.dcs.walkeepers(node)}), (own_config(node), section)):
            path.touch(mode=0o600)
            path.write_text(yaml.safe_dump(content))
        return whole


@runtime_checkable
class GuardedDcs(Dcs, Protocol):
    def walkeepers(self, node: Node) -> Mapping[str, Any]:
        """The section for walkeeper's own user."""


def own_config(node: Node) -> Path:
    return node.directory / "walkeeper.yml"


def archived(directory: Path, *, archiver: str = "streaming", guarded: bool = False, **options: Any) -> Archived:
    """A cluster that is wired as a user wires it, and not started yet. ``options`` are Cluster's."""
    store = directory / "store"
    store.mkdir()
    section = {
        "store": {"directory": str(store)},
        "agent": {"listen": "127.0.0.1:{metrics_port}"},
        "tail": {"interval": "200ms"},
        "archiver": archiver,
    }
    if archiver == "command":
        command = f"WALKEEPER_PYTHON={{python}} {SCRIPT} -c {{config}} %p"
        over = {"postgresql": {"parameters": {"archive_command": command}}}
        options["extra"] = merged(over, options.get("extra", {}))
        options["settings"] = {"archive_mode": "on", **options.get("settings", {})}
    config = "{directory}/walkeeper.yml" if guarded else "{config}"
    cluster = (Guarded if guarded else Cluster)(
        directory / "cluster",
        walkeeper_config=section,
        callbacks=callbacks(CALLBACK.replace("{config}", config)),
        restore_command=RESTORE.replace("{config}", config),
        **{"segment_size_mb": SIZE // MIB, **options},
    )
    return Archived(cluster, store)


def outlives(archived: Archived, directory: Path, *, rows: int = 40, whole: bool = False) -> None:
    """A kill, a switchover, and the death of all nodes. ``whole``: a segment is completed before that, too."""
    cluster = archived.cluster
    first = cluster.wait_leader()
    archived.wait_owner(first)
    backup = first.base_backup(directory / "backup")
    with Ledger.heavy(cluster.conninfo(), mib_per_second=3) as ledger:
        ledger.wait_for(rows)
        received_by_all(cluster, first)
        old, new = cluster.fail_over()
        archived.wait_owner(new)
        ledger.wait_for(rows)
        cluster.start_node(old)
        cluster.wait_ready()
        third = cluster.switchover()
        archived.wait_owner(third)
        ledger.wait_for(rows)
        if whole:
            archived.wait_frontier(archived.finish_segment(third))
            ledger.wait_for(rows)
    lost_nothing(archived, directory, backup, ledger, third)


def received_by_all(cluster: Cluster, leader: Node) -> None:
    """What the leader has written by now: a replica that is busy may lack all of it, and may be promoted."""
    lsn = leader.value("SELECT pg_current_wal_flush_lsn()::text")
    query = "SELECT coalesce(pg_last_wal_receive_lsn() >= %s::pg_lsn, false)"
    wait_until(
        lambda: all(node.value(query, [lsn]) for node in cluster.replicas()), f"all have {lsn}", 60, logs=cluster.logs()
    )


def lost_nothing(archived: Archived, directory: Path, backup: Path, ledger: Ledger, leader: Node) -> Record:
    """The load has ended; the tail, where there is one, has its last row. Kills everything, and restores."""
    cluster = archived.cluster
    if cluster.walkeeper_config and cluster.walkeeper_config["archiver"] == "command":
        record = archived.wait_frontier(archived.finish_segment(leader))
    else:
        record = archived.wait_frontier(Lsn.parse(leader.value("SELECT pg_current_wal_flush_lsn()::text")))
        assert record.position != record.position.floor(archived.size), "inside the open segment"
    assert record.gaps_total == 0
    found = verified(leader)
    assert found["deep"]["damaged"] == 0
    assert found["timelines"][-1] == record.timeline
    assert [each for each in found["findings"] if each["severity"] != "note"] == []
    for node in cluster.nodes:
        cluster.kill_host(node)
    root = archived.archive(record).layout.root
    content = DirectoryStore(archived.store).get(f"{root}history/{record.timeline:08X}.history")
    assert content is not None
    wanted = ledger.covered(parse_history(record.timeline, content), record.position)
    # What the next leader had not received when the host died is the cluster's loss: it lies beyond a fork.
    lost = [row for row in ledger.rows() if row.id not in wanted]
    assert not [row for row in lost if row.timeline == record.timeline]
    assert restored_rows(archived, backup, ledger, wanted, directory) == []
    said = "\n".join(archived.log(node).read_text() for node in cluster.nodes)
    assert "postgresql_not_known" not in said
    assert "Traceback" not in said
    print(f"{len(wanted)} rows, {len(lost)} lost by the cluster, {found['deep']['segments']} segments")
    return record


def verified(node: Node) -> dict[str, Any]:
    return says(node, "verify", "--deep", "--json")


def says(node: Node, *command: str, code: int = 0, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What one of walkeeper's commands prints there, as JSON."""
    config = own_config(node) if own_config(node).exists() else node.config
    done = subprocess.run(
        [node.python, "-m", "walkeeper", "-c", config, *command],
        env=node.host.environment({**node.env, **(env or {})}), cwd=CHECKOUT, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return dict(json.loads(done.stdout))
