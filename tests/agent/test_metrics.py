"""The agent's numbers, as Prometheus reads them, and their documentation."""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fixtures.worlds import config_of
from tests.parts.processes import free_port
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.agent import Agent
from walkeeper.agent.http import metrics
from walkeeper.agent.http import server as web
from walkeeper.agent.http.report import STALE_SECONDS, report
from walkeeper.agent.observation import Observation
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.lib.clock import SystemClock
from walkeeper.postgres.server import ServerState

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "metrics.md"
KNOWN: Final[dict[str, Any]] = {
    "agent": {
        "name": "node1", "scope": 'a "scope"\\\n', "version": "1", "pid": 1, "started_at": "", "looked_seconds_ago": 0.5,
        "store": "file:///x", "archiving": True, "timeline": 2, "stored_up_to": "1/0", "uploaded_segments": 3,
        "uploaded_bytes": 1000, "tail_pieces": 3, "tail_bytes": 300, "spool_bytes": 0, "spool_limit": 64, "archiver": "streaming",
    },
    "server": {"system_identifier": "7", "in_recovery": False, "timeline": 2, "lsn": "1/10", "major": 15},
    "leader": "node1",
    "record_known": True,
    "record": {"owner": "node1", "timeline": 2, "frontier": "0/F0000000", "segment_size": 1 << 20, "gaps": 0},
    "lag_bytes": 16,
    "lag_seconds": 0.0,
    "gap_safe": True,
    "hold_slot": {"restart_lsn": "0/F0000000", "lost": False, "active_pid": None},
    "archive_command": {
        "archive_mode": "on", "archived_count": 5, "last_archived": None, "failed_count": 0, "last_failed": None, "fails": False,
    },
    "suspected": None,
    "troubles": [],
    "members_behind": {"node2": 4096, "node3": None},
    "refused_total": {},
}  # fmt: skip
NOTHING_KNOWN: Final[dict[str, Any]] = {
    **KNOWN,
    "agent": {**KNOWN["agent"], "looked_seconds_ago": None, "archiving": False, "timeline": None, "stored_up_to": None, "spool_bytes": None},
    "server": None, "leader": None, "record_known": False, "record": None, "lag_bytes": None, "lag_seconds": None,
    "gap_safe": None, "hold_slot": None, "archive_command": None,
}  # fmt: skip
PROBLEM: Final = {"what": "dcs", "reason": "dcs_unavailable", "text": "etcd3: no answer", "hint": "", "since": ""}


class Served:
    """The report, which a test may change, and where it is served."""

    def __init__(self) -> None:
        self.report = deepcopy(KNOWN)
        self.page = "<!doctype html>"
        self.port = free_port()
        pages = web.Pages(lambda: self.report, lambda: self.get_page())  # noqa: PLW0108 - a test may change it
        self.end: Callable[[], None] = web.serve("127.0.0.1", self.port, pages)

    def get_page(self) -> str:
        return self.page

    def get(self, path: str = "/metrics") -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, refusal.read().decode()

    def samples(self) -> dict[str, float]:
        families = text_string_to_metric_families(self.get()[1])
        return {sample.name: sample.value for family in families for sample in family.samples}


@pytest.fixture
def served() -> Iterator[Served]:
    serving = Served()
    yield serving
    serving.end()


def documented() -> list[str]:
    return re.findall(r"^\| `(walkeeper_\w+)` \| (?:gauge|counter)", DOCUMENT.read_text(), re.MULTILINE)


def test_the_document_is_made_from_the_code() -> None:
    assert DOCUMENT.read_text() == metrics.reference(), "run: python -m walkeeper.agent.http.metrics > docs/metrics.md"


def test_what_is_served_is_what_is_documented(served: Served) -> None:
    served.report["troubles"] = [PROBLEM]
    served.report["refused_total"] = {"dcs_unavailable": 2}
    assert sorted(served.samples()) == sorted(documented())


def test_values_and_labels_survive_the_format(served: Served) -> None:
    found = served.samples()
    assert found["walkeeper_frontier_lsn_bytes"] == 0xF0000000
    assert found["walkeeper_server_lsn_bytes"] == (1 << 32) + 0x10
    assert found["walkeeper_archiving"] == found["walkeeper_gap_safe"] == 1
    assert found["walkeeper_uploaded_segments_total"] == 3
    behind = next(
        each for each in text_string_to_metric_families(served.get()[1]) if each.name == "walkeeper_member_behind_bytes"
    )
    assert [(sample.labels["member"], sample.value) for sample in behind.samples] == [("node2", 4096)]
    info = next(family for family in text_string_to_metric_families(served.get()[1]) if family.name == "walkeeper_info")
    assert info.samples[0].labels == {
        "version": "1",
        "scope": 'a "scope"\\\n',
        "member": "node1",
        "archiver": "streaming",
    }


def test_what_is_not_known_is_left_out(served: Served) -> None:
    served.report = deepcopy(NOTHING_KNOWN)
    found = served.samples()
    assert found["walkeeper_server_up"] == found["walkeeper_record_known"] == found["walkeeper_archiving"] == 0
    for name in (
        "lag_bytes",
        "lag_seconds",
        "gap_safe",
        "gaps",
        "frontier_lsn_bytes",
        "server_lsn_bytes",
        "spool_bytes",
    ):
        assert f"walkeeper_{name}" not in found


def test_a_look_that_is_old_is_not_reported_as_the_present(tmp_path: Path) -> None:
    server: Any = SimpleNamespace(bin_dir=tmp_path, data=tmp_path / "data", port=1)
    agent = Agent(config_of(server, "a", tmp_path), MemoryStore(), MemoryRecord(MemoryDcs()), SystemClock())
    state = ServerState(7, False, 1, Lsn(MIB), SegmentSize(MIB), 15, "replica")
    assert report(agent)["agent"]["looked_seconds_ago"] is None
    for age, known in ((1.0, True), (STALE_SECONDS + 1, False)):
        agent.observer.observation = Observation(
            time.monotonic() - age, state, record_known=True, leader="a", leader_known=True, gap_unsafe=""
        )
        said = report(agent)
        assert (said["server"] is not None, said["record_known"], said["leader"] == "a", said["gap_safe"]) == (
            known,
        ) * 3 + (True if known else None,)
        assert said["agent"]["looked_seconds_ago"] >= age
