"""One cell of the matrix is one major version of PostgreSQL: a cluster under load, its leader killed, handed over, restored."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.matrix.versions import MAJORS
from tests.parts.binaries import all_postgres, postgres_bin
from tests.parts.cluster import Cluster, callbacks
from tests.parts.ledger import Ledger
from tests.parts.processes import CHECKOUT
from tests.test_cluster import CALLBACK, SIZE, Archived, restored_rows
from walkeeper.core.history import parse_history
from walkeeper.core.lsn import MIB, Lsn
from walkeeper.store.directory import DirectoryStore

pytestmark = [pytest.mark.cluster, pytest.mark.matrix, pytest.mark.slow]


@pytest.mark.parametrize("major", MAJORS)
def test_p4_each_major_version_loses_no_row_over_a_kill_and_a_switchover(short_path: Path, major: int) -> None:
    """Everything dies at the end, in the middle of the load: what the archive has is the tail's last row, too."""
    assert major in all_postgres(), f"PostgreSQL {major} is not here: tools/postgres-from-debian"
    (short_path / "store").mkdir()
    cluster = Cluster(
        short_path / "cluster",
        bin_dir=postgres_bin(major),
        segment_size_mb=SIZE // MIB,
        walkeeper_config={
            "store": {"directory": str(short_path / "store")},
            "agent": {"listen": "127.0.0.1:{metrics_port}"},
            "tail": {"interval": "200ms"},
        },
        callbacks=callbacks(f"{{python}} -I -S {CALLBACK} {{config}}"),
        restore_command="{python} -m walkeeper -c {config} restore-wal %f %p",
    )
    for node in cluster.nodes:
        node.env["WALKEEPER_RUN_DIR"] = str(node.directory)
    with cluster:
        assert cluster.major == major
        archived = Archived(cluster, short_path / "store")
        first = cluster.wait_leader()
        archived.wait_owner(first)
        backup = first.base_backup(short_path / "backup")
        with Ledger.heavy(cluster.conninfo(), mib_per_second=3) as ledger:
            ledger.wait_for(40)
            old, new = cluster.fail_over()
            archived.wait_owner(new)
            ledger.wait_for(40)
            cluster.start_node(old)
            cluster.wait_ready()
            third = cluster.switchover()
            archived.wait_owner(third)
            ledger.wait_for(40)
        end = Lsn.parse(third.value("SELECT pg_current_wal_flush_lsn()::text"))
        record = archived.wait_frontier(end)
        assert record.position != record.position.floor(SIZE), "inside the open segment"
        assert record.gaps_total == 0
        found = verified(first.config, first.env)
        assert (found["deep"]["damaged"], found["timelines"]) == (0, [1, 2, 3])
        assert [each for each in found["findings"] if each["severity"] != "note"] == []
        for node in cluster.nodes:
            cluster.kill_host(node)
        content = DirectoryStore(archived.store).get(
            f"{archived.archive(record).layout.root}history/{record.timeline:08X}.history"
        )
        assert content is not None
        wanted = ledger.covered(parse_history(record.timeline, content), record.position)
        assert len(wanted) == len(ledger.rows())
        assert restored_rows(archived, backup, ledger, wanted, short_path) == []
        said = "\n".join(archived.log(node).read_text() for node in cluster.nodes)
        assert "postgresql_not_known" not in said
        print(f"PostgreSQL {major}: {len(wanted)} of {len(ledger.rows())} rows, {found['deep']['segments']} segments")


def verified(config: Path, env: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "walkeeper", "-c", config, "verify", "--deep", "--json"],
        env=env, cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout))
