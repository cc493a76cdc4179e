"""The agent's numbers, as Prometheus reads them, and their documentation."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fixtures.backed_up import put_backup
from tests.fixtures.made_backup import config as made_config
from tests.fixtures.worlds import config_of
from tests.parts.processes import free_port, wait_until
from tests.twins.hand_clock import HandClock
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.agent import Agent
from walkeeper.agent.archiver.synchronous import Synchronous
from walkeeper.agent.backups import REFRESH_SECONDS, BackupsLook
from walkeeper.agent.http import metrics
from walkeeper.agent.http import server as web
from walkeeper.agent.http.report import STALE_SECONDS, durability, report
from walkeeper.agent.observation import Observation
from walkeeper.archive.codec import Codec
from walkeeper.archive.open import Archives
from walkeeper.archive.restorable import claimed, summary
from walkeeper.config.model import NamedStore
from walkeeper.core.about import About
from walkeeper.core.backup import BackupId
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.proof import Proof
from walkeeper.core.record import Record
from walkeeper.core.synchronous import RELEASE
from walkeeper.errors import DcsUnavailable
from walkeeper.lib.clock import SystemClock
from walkeeper.lib.schedule import Schedule
from walkeeper.postgres.server import CommitsState, ServerState
from walkeeper.store.directory.keys import DirectorySettings

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
    "durability": {
        "state": "store", "acknowledged": "1/0", "waited_seconds": 0.02, "waiting_commits": 3, "standby_name": "walkeeper_00000007", "waited_for": True,
    },
    "last_commit": {"time": "2026-11-28T08:10:23.059674Z", "lsn": "0/E0000000"},
    "disk": {"free": 1000, "total": 5000, "growth": 10.0, "seconds_left": 100.0},
    "lag_bytes": 16,
    "lag_seconds": 0.0,
    "gap_safe": True,
    "hold_slot": {"restart_lsn": "0/F0000000", "lost": False, "active_pid": None},
    "archive_command": {
        "archive_mode": "on", "archived_count": 5, "last_archived": None, "failed_count": 0, "last_failed": None, "fails": False,
    },
    "suspected": None,
    "backups": {
        "complete": 2, "damaged": 1, "attempts": 0, "newest": {"age_seconds": 60.0}, "short": False,
        "overdue": False, "proof_overdue": True, "expire_waits_seconds": 90.0,
        "window": {"start_lsn": "0/100", "end_lsn": "0/300", "seconds": 86400.0}, "proved": {"age_seconds": 3600.0},
    },
    "troubles": [],
    "members_behind": {"node2": 4096, "node3": None},
    "refused_total": {},
    "stores": [],
}  # fmt: skip
NOTHING_KNOWN: Final[dict[str, Any]] = {
    **KNOWN,
    "agent": {**KNOWN["agent"], "looked_seconds_ago": None, "archiving": False, "timeline": None, "stored_up_to": None, "spool_bytes": None},
    "server": None, "leader": None, "record_known": False, "record": None, "lag_bytes": None, "lag_seconds": None,
    "gap_safe": None, "hold_slot": None, "archive_command": None, "backups": None, "last_commit": None, "disk": None,
    "durability": {"state": None, "acknowledged": None, "waited_seconds": None, "waiting_commits": None, "standby_name": None, "waited_for": None},
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


def test_each_word_that_a_problem_may_be_about_is_documented() -> None:
    assert {*re.findall(r"^\| `(\w+)` \| [^|]+ \|$", DOCUMENT.read_text(), re.MULTILINE)} == {*About}


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
        "last_commit_timestamp_seconds",
        "pg_wal_disk_free_bytes",
        "gaps",
        "frontier_lsn_bytes",
        "server_lsn_bytes",
        "spool_bytes",
        "commits_wait_seconds",
        "commits_waiting",
        "acknowledged_lsn_bytes",
        "durability_degraded",
    ):
        assert f"walkeeper_{name}" not in found


FAR: Final[dict[str, Any]] = {
    "name": "far", "url": "s3://far", "archiving": True, "stored_up_to": "0/E0000000", "record_known": True,
    "record": {**KNOWN["record"], "frontier": "0/D0000000"}, "lag_bytes": 4096, "lag_seconds": 70.0, "suspected": None,
    "backups": {**KNOWN["backups"], "proved": None, "proof_overdue": False},
    "troubles": [{**PROBLEM, "what": "archiver_store", "reason": "store_unavailable"}],
}  # fmt: skip


def test_what_is_known_of_every_store_has_its_name() -> None:
    def lines(**changes: Any) -> list[str]:
        text = metrics.exposition(lambda: {**KNOWN, **changes}, "")[1].decode()
        return [line for line in text.splitlines() if line[0] != "#"]

    unknown = {
        **FAR,
        "name": "new",
        "record_known": False,
        "backups": None,
        "record": None,
        "lag_bytes": None,
        "lag_seconds": None,
        "troubles": [],
    }
    with_stores = lines(stores=[FAR, unknown])
    more = sorted(set(with_stores) - set(lines()))
    assert [line for line in more if re.match("walkeeper_(backup|window)", line)] == [
        'walkeeper_backup_age_seconds{store="far"} 60.0',
        'walkeeper_backup_attempts{store="far"} 0.0',
        'walkeeper_backup_overdue{store="far"} 0.0',
        'walkeeper_backups_complete{store="far"} 2.0',
        'walkeeper_backups_damaged{store="far"} 1.0',
        'walkeeper_window_end_lsn_bytes{store="far"} 768.0',
        'walkeeper_window_seconds{store="far"} 86400.0',
        'walkeeper_window_short{store="far"} 0.0',
        'walkeeper_window_start_lsn_bytes{store="far"} 256.0',
    ]
    assert [line for line in more if not re.match("walkeeper_(backup|window)", line)] == [
        'walkeeper_expire_waits_seconds{store="far"} 90.0',
        'walkeeper_frontier_lsn_bytes{store="far"} 3.489660928e+09',
        'walkeeper_frontier_timeline{store="far"} 2.0',
        'walkeeper_gaps{store="far"} 0.0',
        'walkeeper_lag_bytes{store="far"} 4096.0',
        'walkeeper_lag_seconds{store="far"} 70.0',
        'walkeeper_record_known{store="far"} 1.0',
        'walkeeper_record_known{store="new"} 0.0',
        'walkeeper_suspected_bytes{store="far"} 0.0',
        'walkeeper_suspected_bytes{store="new"} 0.0',
        'walkeeper_troubles{store="far"} 1.0',
        'walkeeper_troubles{store="new"} 0.0',
        'walkeeper_trouble{reason="store_unavailable",store="far",what="archiver_store"} 1.0',
    ]
    assert set(lines()) <= set(with_stores), "of the first nothing changes"


def test_health_names_the_store_of_a_problem(served: Served) -> None:
    served.report["stores"] = [FAR]
    code, text = served.get("/health")
    assert code == 503
    assert [(problem["store"], problem["reason"]) for problem in json.loads(text)["troubles"]] == [
        ("far", "store_unavailable")
    ]


def test_the_report_has_the_agents_of_the_other_stores(tmp_path: Path) -> None:
    server: Any = SimpleNamespace(bin_dir=tmp_path, data=tmp_path / "data", port=1)
    clock = SystemClock()
    stores = (NamedStore("far", DirectorySettings(tmp_path / "far")),)
    config = replace(config_of(server, "a", tmp_path), others=stores)
    first, far = (Agent(each, MemoryStore(), MemoryRecord(MemoryDcs()), clock) for each in config.of_each_store)
    assert report(first)["stores"] == []
    first.beside = (far,)
    far.problems.report(About.DCS, DcsUnavailable("etcd3: no answer", hint="walkeeper takeover"))
    state = ServerState(7, False, 1, Lsn(3 * MIB), SegmentSize(MIB), 15, "replica")
    record = Record(
        system_identifier="7", segment_size=MIB, timeline=1, lsn="0/100000", start="x", owner="a", session="s"
    )
    far.observer.observation = Observation(time.monotonic(), state, record=record, record_known=True)
    (said,) = report(first)["stores"]
    assert (said["name"], said["archiving"], said["record"]["frontier"], said["lag_bytes"], said["stored_up_to"]) == (
        "far", False, "0/100000", 2 * MIB, None,
    )  # fmt: skip
    (problem,) = said["troubles"]
    assert (problem["text"], problem["hint"]) == ("etcd3: no answer", "walkeeper takeover --store far")
    assert said.keys() == FAR.keys()
    far.observer.observation = replace(far.observer.observation, at=time.monotonic() - STALE_SECONDS - 1)
    assert report(first)["stores"][0]["record"] is None, "too old to be the present"


@pytest.mark.parametrize(
    ("durability", "lines"),
    [
        (None, []),
        (
            KNOWN["durability"],
            [
                "walkeeper_commits_wait_seconds 0.02",
                "walkeeper_commits_waiting 3.0",
                "walkeeper_acknowledged_lsn_bytes 4.294967296e+09",
                "walkeeper_durability_degraded 0.0",
            ],
        ),
        (
            {**KNOWN["durability"], "state": "degraded", "waited_seconds": 40.0, "waiting_commits": None},
            [
                "walkeeper_commits_wait_seconds 0.0",
                "walkeeper_acknowledged_lsn_bytes 4.294967296e+09",
                "walkeeper_durability_degraded 1.0",
            ],
        ),
        (
            {**KNOWN["durability"], "state": "waiting", "acknowledged": None, "waited_seconds": 40.0},
            [
                "walkeeper_commits_wait_seconds 40.0",
                "walkeeper_commits_waiting 3.0",
                "walkeeper_durability_degraded 0.0",
            ],
        ),
    ],
)
def test_how_commits_fare_that_wait_for_the_store(durability: dict[str, Any] | None, lines: list[str]) -> None:
    text = metrics.exposition(lambda: {**KNOWN, "durability": durability}, "")[1].decode()
    named = [line for line in text.splitlines() if re.match(r"walkeeper_(commits_|acknowledged|durability)", line)]
    assert named == lines


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


STREAMS: Final = {"lsn": Lsn(2 * MIB), "degraded": False, "acknowledged": Lsn(MIB), "to_be_said": 0.01}


def synchronous_of(lsn: Lsn, acknowledged: Lsn, to_be_said: float, *, degraded: bool) -> Any:
    """One that has received so much, and waits for so long to acknowledge more."""
    nothing: Any = None
    received: Any = SimpleNamespace(lsn=lsn)
    found = Synchronous(received, nothing, nothing, "", None, nothing, nothing)
    found.wake.close()
    found._waits_to_be_stored, found._waits_to_be_said = 0.02, to_be_said
    found._promise.degraded = degraded
    found._promise.given = replace(found._promise.given, lsn=acknowledged)
    return found


@pytest.mark.parametrize(
    ("streaming", "state", "acknowledged", "waited"),
    [
        (STREAMS, "store", "0/100000", 0.02),
        ({**STREAMS, "to_be_said": 40.0}, "waiting", "0/100000", 40.0),
        ({**STREAMS, "to_be_said": 40.0, "acknowledged": Lsn(0)}, "waiting", None, 40.0),
        ({**STREAMS, "to_be_said": RELEASE, "degraded": True}, "degraded", "0/100000", RELEASE),
        ({**STREAMS, "to_be_said": 40.0, "degraded": True}, "waiting", "0/100000", 40.0),  # no lease
        ({**STREAMS, "acknowledged": Lsn(0)}, "none", None, 0.02),
        ({**STREAMS, "lsn": Lsn(0)}, "none", None, None),
        (None, None, None, None),  # another node archives
    ],
)
def test_the_report_says_what_commits_wait_for(
    tmp_path: Path, streaming: dict[str, Any] | None, state: str | None, acknowledged: str | None, waited: float | None
) -> None:
    here: Any = SimpleNamespace(bin_dir=tmp_path, data=tmp_path / "data", port=1)
    config = config_of(here, "a", tmp_path, receiver="builtin", durability="store")
    synchronous = None if streaming is None else SimpleNamespace(synchronous=synchronous_of(**streaming))
    agent: Any = SimpleNamespace(config=config, archiver=synchronous)
    server = ServerState(7, False, 1, Lsn(MIB), SegmentSize(MIB), 15, "replica")
    for commits, waiting, named in (
        (None, None, None),  # could not be asked
        (CommitsState(None, "walkeeper_00000007", connected=1), None, True),
        (CommitsState(0, "", connected=0), 0, False),
    ):
        assert durability(agent, Observation(server=server, commits=commits)) == {
            "state": state, "acknowledged": acknowledged, "waited_seconds": waited, "waiting_commits": waiting,
            "standby_name": "walkeeper_00000007", "waited_for": named,
        }  # fmt: skip
    agent.config = replace(config, durability="local")
    assert durability(agent, Observation()) is None


def test_what_base_backups_restore_is_served_where_it_is_known() -> None:
    text = metrics.exposition(lambda: KNOWN, "")[1].decode()
    for line in (
        "walkeeper_backups_complete 2.0", "walkeeper_backups_damaged 1.0", "walkeeper_backup_age_seconds 60.0", "walkeeper_backup_proved_age_seconds 3600.0",
        "walkeeper_window_start_lsn_bytes 256.0", "walkeeper_window_end_lsn_bytes 768.0", "walkeeper_window_seconds 86400.0",
        "walkeeper_window_short 0.0", "walkeeper_backup_overdue 0.0", "walkeeper_proof_overdue 1.0", "walkeeper_expire_waits_seconds 90.0",
    ):  # fmt: skip
        assert line in text.splitlines()
    none = metrics.exposition(lambda: {**KNOWN, "backups": {**KNOWN["backups"], "newest": None, "window": None}}, "")[
        1
    ].decode()
    assert "walkeeper_window" not in none.replace("walkeeper_window_short", "")
    assert "walkeeper_backup" not in metrics.exposition(lambda: {**KNOWN, "backups": None}, "")[1].decode()


def test_the_agent_looks_at_base_backups_in_the_background_and_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noon = datetime(2026, 11, 28, 12, tzinfo=UTC).timestamp()
    monkeypatch.setattr("walkeeper.agent.backups.wall_seconds", lambda: noon)
    store, clock = MemoryStore(), HandClock()
    daily = Schedule.parse("1d")
    settings = replace(made_config(tmp_path), backup_schedule=daily, backup_verify_schedule=daily)
    archives = Archives(store, "demo", None, Codec())
    put_backup(archives.backups(7), BackupId("20261128T020000Z", 1, "1a2b3c4d"), Lsn(6 * MIB + 40), Lsn(6 * MIB + 256))
    record = Record(
        system_identifier="7", segment_size=MIB, timeline=1, lsn=str(Lsn(9 * MIB)), start=Segment(1, 5, SegmentSize(MIB)).name,
        owner="a", session="s",
    )  # fmt: skip
    look = BackupsLook(archives, settings, clock)
    assert look.summary(None) is None
    wait_until(lambda: look.summary(record) is not None, "a look")
    found = look.summary(record)
    assert found is not None
    assert found["complete"] == 1
    assert (found["overdue"], found["proof_overdue"]) == (False, False)
    later = datetime(2026, 12, 5, tzinfo=UTC).timestamp()
    looked = claimed(archives, record)
    told = summary(looked, later, settings)
    assert told is not None
    assert (told["overdue"], told["proof_overdue"]) == (True, True)
    proof = Proof(backup="20261128T020000Z-00000001-1a2b3c4d", at="2026-12-04T00:00:00Z", timeline=1, lsn="0/600100")
    told = summary(replace(looked, proved=proof), later, settings)
    assert told is not None
    assert (told["overdue"], told["proof_overdue"]) == (True, False)
    calls = len(store.calls)
    look.summary(record)
    assert len(store.calls) == calls
    store.down = True
    clock.now += REFRESH_SECONDS
    assert look.summary(record) is not None  # what was found before, while the store is away
