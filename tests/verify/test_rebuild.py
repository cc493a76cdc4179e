"""``walkeeper verify --rebuild``: P11, a lost record from the store; P4, never more than the store has."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core.values import history_text
from tests.fixtures.archives import FOUR, ONE, SIZE, SYSTEM, TWO, Built, Verifier
from tests.fixtures.worlds import NOWHERE
from tests.status.test_status import WHOLE
from tests.twins.memory_record import MemoryRecord
from walkeeper.agent.archiver.life import Watcher
from walkeeper.agent.archiver.local_wal import LocalWal
from walkeeper.agent.archiver.ownership import Ownership, take_over
from walkeeper.core.history import History
from walkeeper.core.lsn import MIB, Lsn
from walkeeper.core.record import Gap, Record, decode_record
from walkeeper.core.takeover import LocalServer
from walkeeper.dcs.base import Leader, Member, Versioned
from walkeeper.errors import WrongCluster
from walkeeper.lib.clock import SystemClock
from walkeeper.status.ages import described
from walkeeper.status.attention import attention
from walkeeper.verify import rebuild


def record(built: Built) -> Record:
    assert built.dcs.record is not None
    return decode_record(built.dcs.record.document)


def takes_over(built: Built, name: str, history: History, lsn: int) -> Ownership:
    built.dcs.set_leader(name)
    histories = {history.timeline: history_text(history)} if history.switches else {}
    local = LocalServer(SYSTEM, SIZE, history, Lsn(lsn))
    return take_over(
        name, MemoryRecord(built.dcs), built.archive, LocalWal(local, histories, NOWHERE), Watcher(SystemClock())
    )


def test_p11_a_lost_record_is_written_anew_and_the_next_takeover_accepts_it(built: Built, verify: Verifier) -> None:
    built.put(ONE, 3, 4, 5)
    built.put_history(TWO)
    built.put(TWO, 5, 6)
    said = verify(rebuild=True)
    assert said.code == 0
    assert "timeline 2's chain\nbelow the frontier 0/700000 is in the store" in said.out
    found = record(built)
    assert (found.timeline, found.lsn, found.start, found.owner) == (2, "0/700000", "000000010000000000000003", "")
    assert verify().code == 0
    owner = takes_over(built, "b", TWO, 9 * MIB)
    assert (owner.record.lsn, owner.record.owner) == ("0/700000", "b")


@pytest.mark.parametrize("garbage", [b"garbage", b"{}", b'{"schema": 9}'])
def test_p11_a_record_that_cannot_be_read_is_replaced(built: Built, verify: Verifier, garbage: bytes) -> None:
    built.put(ONE, 3)
    built.dcs.put(garbage)
    assert verify(rebuild=True).code == 0
    assert record(built).lsn == "0/400000"


def test_a_record_that_can_be_read_is_never_replaced_whatever_it_says(built: Built, verify: Verifier) -> None:
    built.put(ONE, 3, 4)
    for system in (SYSTEM, SYSTEM + 1):
        built.record(1, 100, system=system)
        before = built.dcs.record
        said = verify(rebuild=True)
        assert said.code == 2
        assert "node1 owns it; nothing was changed" in said.err
        assert built.dcs.record == before


def test_p8_an_agent_that_takes_over_meanwhile_wins(
    built: Built, verify: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    built.put(ONE, 3)

    class Late(MemoryRecord):
        def write(self, document: bytes, expected: Versioned | None, guard: Leader | None = None) -> Versioned:
            takes_over(built, "a", ONE, 9 * MIB)
            return super().write(document, expected, guard)

    monkeypatch.setattr(rebuild, "open_records", lambda _: Late(built.dcs))
    said = verify(rebuild=True)
    assert said.code == 2
    assert "somebody wrote it meanwhile" in said.err
    assert record(built).owner == "a"


def test_p4_it_ends_before_the_first_gap_and_steps_over_recorded_ones_of_its_own_chain(
    built: Built, verify: Verifier
) -> None:
    built.put(ONE, 3, 8, 10)
    built.archive.record_gap(built.segment(1, 4), Lsn(8 * MIB))
    assert verify(rebuild=True).code == 0
    found = record(built)
    assert found.lsn == "0/900000"
    assert found.gaps == (Gap(1, "0/400000", "0/800000"),)
    assert found.gaps_total == 1
    built.dcs.wipe()
    built.put_history(TWO)  # forked in 5: 6 and 7 are its own, and nothing says that they are lost
    assert verify(rebuild=True).code == 0
    assert record(built).lsn == "0/500000"


def test_a_promotion_that_archived_nothing_keeps_nobody_from_taking_over(built: Built, verify: Verifier) -> None:
    built.put(ONE, 3, 4)
    built.put_history(TWO)
    assert verify(rebuild=True).code == 0
    assert record(built).timeline == 1
    assert takes_over(built, "a", ONE, 9 * MIB).record.lsn == "0/500000"


def test_it_goes_by_the_leaders_timeline_and_not_by_the_newest_history(built: Built, verify: Verifier) -> None:
    """Timeline 2 is a diverged one, promoted by hand and abandoned; the leader is still on 1."""
    built.put(ONE, 3, 4, 5, 6)
    built.put_history(TWO)
    built.put(TWO, 5)
    built.dcs.set_leader("a")
    built.dcs.set_members(Member("a", "primary", "running", None, None, 1, None))
    assert verify(rebuild=True).code == 0
    assert (record(built).timeline, record(built).lsn) == (1, "0/700000")


@pytest.mark.parametrize("damage", ["no start", "an empty object", "no archive", "the store"])
def test_p4_where_the_store_bears_nothing_out_nothing_is_written(built: Built, verify: Verifier, damage: str) -> None:
    built.put(ONE, 3, 4)
    if damage == "no start":
        built.store.delete(f"demo/{SYSTEM}/start/000000010000000000000003.json")
    elif damage == "an empty object":
        built.replace(built.key(1, 4), b"")
    elif damage == "no archive":
        for info in list(built.store.list("demo/")):
            built.store.delete(info.key)
    else:
        (built.config.source.parent / "store").rename(built.config.source.parent / "unmounted")
    said = verify(rebuild=True)
    assert said.code == 2
    assert "HINT: " in said.err
    assert built.dcs.record is None


def test_status_says_that_nobody_owns_it_yet(built: Built, verify: Verifier) -> None:
    built.put(ONE, 3)
    assert verify(rebuild=True).code == 0
    seen = {**WHOLE, "record": described(record(built)), "leader": "node1"}
    assert [each["text"] for each in attention(seen)] == ["Patroni's leader is node1, and nobody owns the record yet"]


def test_with_the_dcs_away_nothing_is_looked_at(built: Built, verify: Verifier) -> None:
    built.dcs.down = True
    assert verify(rebuild=True).code == 2


def test_a_rebuilt_record_keeps_another_cluster_out(built: Built, verify: Verifier) -> None:
    built.put(ONE, 3, 4)
    assert verify(rebuild=True).code == 0
    built.dcs.set_leader("a")
    with pytest.raises(WrongCluster):
        take_over(
            "a",
            MemoryRecord(built.dcs),
            built.archive,
            LocalWal(LocalServer(SYSTEM + 1, SIZE, ONE, Lsn(9 * MIB)), {}, NOWHERE),
            Watcher(SystemClock()),
        )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.frozensets(st.tuples(st.sampled_from([1, 2, 4]), st.integers(3, 12))),
    st.frozensets(st.sampled_from([TWO, FOUR])),
    st.frozensets(st.tuples(st.sampled_from([1, 2, 4]), st.integers(3, 12))),
    st.sampled_from([ONE, TWO, FOUR]),
)
def test_p4_whoever_takes_over_from_it_misses_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    stored: frozenset[tuple[int, int]],
    histories: frozenset[History],
    gaps: frozenset[tuple[int, int]],
    promoted: History,
) -> None:
    """Below the frontier that a takeover begins with, each file of its chain is stored or recorded as lost."""
    built = Built(tmp_path_factory.mktemp("rebuild"))
    for timeline, number in stored:
        built.store.create(built.key(timeline, number), b"x", {"sha256": "0" * 64, "size": str(MIB)})
    built.put_history(*histories)
    for timeline, number in gaps:
        built.archive.record_gap(built.segment(timeline, number), Lsn((number + 1) * MIB))
    rebuild.rebuild(built.config, MemoryRecord(built.dcs), None, None)
    claimed = record(built)
    if promoted.timeline < claimed.timeline:
        return  # it does not take over
    owner = takes_over(built, "a", promoted, 20 * MIB)
    for number in range(3, owner.record.position // MIB):
        file = promoted.timeline_of(number, SIZE), number
        assert file in stored | gaps, (file, claimed, owner.record)
