"""A refusal that outlives who refused (promise P13): a volume went back, a member was built from it, and that one is promoted.

It has nothing left that would show whose WAL it has. Over a store and a DCS in memory, with files of WAL to compare.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import cast

import msgspec
import pytest

from tests.agent.test_beliefs import ONE, SIZE, SYSTEM, Life, World
from tests.core.values import history_text
from tests.fixtures.worlds import config_of
from tests.parts.postgres import Postgres
from tests.twins.hand_clock import HandClock
from tests.twins.memory_record import MemoryRecord
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.agent import Agent
from walkeeper.agent.archiver.beliefs import check_record
from walkeeper.agent.archiver.comparing import shared_up_to
from walkeeper.agent.archiver.local_wal import LocalWal
from walkeeper.agent.archiver.refusals import Refusals
from walkeeper.agent.problems import GRACE_SECONDS, Problems
from walkeeper.agent.remembering import AGAIN_SECONDS, WRITTEN_SECONDS, Remembering
from walkeeper.core.about import About
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn
from walkeeper.core.members import Member
from walkeeper.core.remembered import decode, encode
from walkeeper.core.second_life import SecondLife
from walkeeper.core.takeover import LocalServer
from walkeeper.dcs.base import REMEMBERED
from walkeeper.errors import (
    ArchiveMissing,
    BeyondServer,
    CasConflict,
    NothingToCompare,
    NumberUsedTwice,
    OfSecondLife,
    OtherBytes,
    Refused,
    StandbyLags,
    StoreUnavailable,
    WrongTimeline,
)
from walkeeper.postgres.server import ServerState

LATE = History(2, (Switch(1, Lsn(12 * MIB + 8192)),))
"""Promoted from the second life, long behind where it parts from the first."""
BACK = 7 * MIB + 8192
SECOND = Life(letter=b"n", until=BACK)
SEEN = 12 * MIB


class Cluster(World):
    """And what each member's agent has of the other document in the DCS."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.clock = HandClock()
        self.problems = Problems(self.clock)
        self.remembered = {name: MemoryRecord(self.dcs, REMEMBERED) for name in "abc"}
        self.agents = {name: self.agent_of(name, self.store) for name in "abc"}

    def agent_of(self, name: str, store: MemoryStore) -> Agent:
        """Not started. Its server's pg_wal is what ``files`` makes for that name."""
        data = self.directory / "nodes" / name
        data.mkdir(parents=True, exist_ok=True)
        if not (data / "pg_wal").is_symlink():
            (data / "pg_wal").symlink_to(self.directory / name)
        server = cast(Postgres, type("Server", (), {"data": data, "port": 1, "bin_dir": None}))
        agent = Agent(
            config_of(server, name, self.directory), store, MemoryRecord(self.dcs), self.clock,
            remembered=self.remembered[name],
        )  # fmt: skip
        agent.problems = agent.remembering._problems = self.problems
        return agent

    @property
    def remembering(self) -> dict[str, Remembering]:
        return {name: agent.remembering for name, agent in self.agents.items()}

    def local(self, name: str, history: History, lsn: int, *, in_recovery: bool = False) -> LocalWal:
        (self.directory / name).mkdir(exist_ok=True)
        known = {history.timeline: history_text(history)} if history.switches else {}
        return LocalWal(LocalServer(SYSTEM, SIZE, history, Lsn(lsn), in_recovery), known, self.directory / name)

    def takes_over(
        self, name: str, history: History, lsn: int, *, accepted: Collection[str] = (), about: object = None
    ) -> None:
        """The agent itself, which has its first look then."""
        self.dcs.set_leader(name)
        agent, pg_wal = self.agents[name], self.directory / name
        pg_wal.mkdir(exist_ok=True)
        if history.switches:
            (pg_wal / f"{history.timeline:08X}.history").write_bytes(history_text(history))
        state = ServerState(SYSTEM, False, history.timeline, Lsn(lsn), SIZE, 15, "replica")
        agent._committer_server.state = lambda: state  # type: ignore[method-assign]
        agent._committer_server.slot = lambda name: None  # type: ignore[method-assign]
        owned = agent._take_over(state, frozenset(accepted), about).ownership
        self.clock.now += WRITTEN_SECONDS + 1
        agent.remembering.tend(owned.record, {}, (), owned.lives)

    def moves(self, *names: str) -> None:
        """Their configuration says another prefix: nothing is there."""
        self.store = MemoryStore()
        self.archive = self.archive_in(self.store)
        self.agents |= {name: self.agent_of(name, self.store) for name in names}

    def asks_until_it_comes_through(self, name: str, history: History, lsn: int) -> list[str]:
        """A person accepts each refusal that can be: their reasons, in order."""
        refusals, met = Refusals(self.clock, lambda: None), list[str]()
        while len(met) < 4:
            accepted = refusals.accepted
            try:
                self.takes_over(name, history, lsn, accepted=accepted)
            except Refused as problem:
                met.append(problem.reason)
                refusals.refused(problem, "the same", accepted)
                refusals.answer({"accept": True})
            else:
                break
        return met

    @property
    def lives(self) -> list[tuple[int, int, int, str]]:
        found = self.dcs.documents.get(REMEMBERED)
        known: tuple[SecondLife, ...] = () if found is None else decode(found.document).second_lives
        return [(each.timeline, each.shared_up_to // MIB, each.seen_at // MIB, each.member) for each in known]

    def refuses(self, kind: type[Exception], name: str, history: History, lsn: int, **more: Collection[str]) -> str:
        record = self.dcs.record
        with pytest.raises(kind) as caught:
            self.takes_over(name, history, lsn, **more)
        assert self.dcs.record == record
        return str(caught.value)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def went_back(cluster: Cluster, number: int = 9) -> None:
    """The leader's volume, below the frontier; its server has written on past it, and its agent has refused."""
    cluster.owned(Life(), number=number)
    cluster.files("a", SECOND, range(3, 12))
    cluster.refuses(OtherBytes, "a", ONE, SEEN)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_p13_what_was_built_from_a_second_life_is_not_spliced_onto_the_first(cluster: Cluster) -> None:
    went_back(cluster)
    assert cluster.lives == [(1, 7, 12, "a")]
    cluster.files("b", Life(LATE, b"n", BACK), [10, 11, 12])
    told = cluster.refuses(OfSecondLife, "b", LATE, 13 * MIB)
    (at,) = (life.at for life in decode(cluster.dcs.documents[REMEMBERED].document).second_lives)
    assert told == (
        f"timeline 1: at {at} a's server had other WAL of it than the archive, above 0/700000, and nothing shows whose this server "
        "has up to 0/900000"
    )
    assert cluster.lives == [(1, 7, 12, "a")]


def test_a_person_lets_it_pass_and_is_not_asked_again(cluster: Cluster) -> None:
    went_back(cluster)
    cluster.files("b", Life(LATE, b"n", BACK), [12])
    cluster.takes_over("b", LATE, 13 * MIB, accepted={"second_life"})
    assert cluster.frontier == (2, 9, "b")
    cluster.stores(Life(LATE, b"n", BACK), *range(9, 13))
    cluster.takes_over("b", LATE, 13 * MIB)
    assert cluster.frontier == (2, 13, "b")


def test_p13_who_has_other_bytes_is_refused_for_that(cluster: Cluster) -> None:
    went_back(cluster)
    cluster.files("b", Life(LATE, b"n", BACK), range(8, 13))
    cluster.refuses(OtherBytes, "b", LATE, 13 * MIB)


def test_p13_segments_that_both_lives_share_do_not_show_that_a_server_is_of_the_first(cluster: Cluster) -> None:
    went_back(cluster)
    cluster.stores(Life(), 9, 10)
    cluster.files("b", Life(LATE, b"n", BACK), [3, 4, 12])
    cluster.refuses(OfSecondLife, "b", LATE, 13 * MIB)


def test_p13_what_a_first_life_stored_and_did_not_record_is_not_gone_over(cluster: Cluster) -> None:
    """The second has the same frontier, and meets the other's segments when it stores its own."""
    cluster.owned(Life(), number=7)
    cluster.files("a", SECOND, range(3, 12))
    cluster.takes_over("a", ONE, 12 * MIB)
    cluster.stores(Life(), 7, 8)  # the last words of the first
    cluster.remembering["a"].tend(cluster.record, {}, (), {}, Lsn(12 * MIB))
    assert cluster.lives == [(1, 7, 12, "a")]
    cluster.files("b", Life(LATE, b"n", BACK), [12])
    cluster.refuses(OfSecondLife, "b", LATE, 13 * MIB)


@pytest.mark.parametrize("wrote_on", [False, True])
def test_p13_a_volume_that_went_back_to_before_a_promotion_is_a_second_life_too(
    cluster: Cluster, wrote_on: bool
) -> None:
    """Its timeline is over (``wrong_timeline``), and a member that was built from it is promoted from that timeline."""
    cluster.owned(Life(), number=9)
    promoted = History(2, (Switch(1, Lsn(9 * MIB + 8192)),))
    cluster.files("b", Life(promoted), [8, 9])
    cluster.takes_over("b", promoted, 10 * MIB)
    cluster.files("a", SECOND, range(3, 12 if wrote_on else 7))
    cluster.refuses(WrongTimeline, "a", ONE, 12 * MIB if wrote_on else BACK + 8192)
    assert cluster.lives == [(1, 7, 12 if wrote_on else 7, "a")]
    built = History(3, (Switch(1, Lsn(12 * MIB + 8192)),))
    cluster.files("c", Life(built, b"n", BACK), [12])
    cluster.refuses(OfSecondLife, "c", built, 13 * MIB)


def test_an_old_primary_on_a_branch_that_ended_is_no_second_life(cluster: Cluster) -> None:
    cluster.owned(Life(), number=9)
    promoted = History(2, (Switch(1, Lsn(8 * MIB + 8192)),))
    cluster.files("b", Life(promoted), [7, 8])
    cluster.takes_over("b", promoted, 9 * MIB)
    cluster.files("a", Life(), range(5, 11))  # and it has written on
    cluster.refuses(WrongTimeline, "a", ONE, 11 * MIB)
    assert cluster.lives == []


@pytest.mark.parametrize("other", [False, True])
def test_the_store_is_asked_once_in_a_situation_whether_an_ended_timeline_has_two_lives(
    cluster: Cluster, other: bool
) -> None:
    """An old primary meets ``wrong_timeline`` each half minute until Patroni has rewound it."""
    cluster.owned(Life(), number=9)
    promoted = History(2, (Switch(1, Lsn(8 * MIB + 8192)),))
    cluster.files("b", Life(promoted), [7, 8])
    cluster.takes_over("b", promoted, 9 * MIB)
    cluster.files("a", SECOND if other else Life(), range(3, 11))
    asked = []
    for about in ("one", "one", "another"):
        cluster.store.calls.clear()
        with pytest.raises(WrongTimeline):
            cluster.takes_over("a", ONE, 11 * MIB, about=about)
        asked.append(sum(key.startswith(cluster.archive.layout.tails) for _, key in cluster.store.calls))
    assert asked[1] == 0 < asked[0] == asked[2]
    assert bool(cluster.lives) is other


def test_a_server_in_recovery_on_an_ended_timeline_is_no_second_life(cluster: Cluster) -> None:
    cluster.owned(Life(), number=9)
    promoted = History(2, (Switch(1, Lsn(8 * MIB + 8192)),))
    cluster.files("b", Life(promoted), [7, 8])
    cluster.takes_over("b", promoted, 9 * MIB)
    cluster.files("a", SECOND, range(3, 11))
    cluster.store.calls.clear()
    wal = cluster.local("a", ONE, 11 * MIB, in_recovery=True)
    with pytest.raises(WrongTimeline), cluster.remembering["a"].second_lives(cluster.archive, wal):
        raise WrongTimeline("of another branch")
    assert (cluster.store.calls, cluster.lives) == ([], [])


def test_p13_a_server_is_held_against_it_without_a_record_too(cluster: Cluster) -> None:
    went_back(cluster)
    cluster.dcs.wipe()
    cluster.files("b", Life(LATE, b"n", BACK), [12])
    cluster.refuses(OfSecondLife, "b", LATE, 13 * MIB)


def test_p13_a_member_of_the_second_life_that_is_promoted_after_one_of_the_first_is_refused(cluster: Cluster) -> None:
    went_back(cluster)
    first = History(2, (Switch(1, Lsn(9 * MIB + 8192)),))
    cluster.files("b", Life(first), range(8, 12))
    cluster.takes_over("b", first, 12 * MIB)
    three = History(3, (Switch(1, Lsn(13 * MIB)),))
    cluster.files("c", Life(three, b"n", BACK), [13])
    cluster.refuses(OfSecondLife, "c", three, 14 * MIB)


@pytest.mark.parametrize("numbers", [(9, 10, 11, 12), (11, 12)])
def test_p13_what_a_second_life_stored_around_a_segment_of_the_first_does_not_speak_for_it(
    cluster: Cluster, numbers: tuple[int, ...]
) -> None:
    """It met the first one's 9 as a conflict, and stored the two that follow."""
    went_back(cluster)
    cluster.stores(Life(), 9)
    cluster.stores(SECOND, 10, 11)
    cluster.files("b", Life(LATE, b"n", BACK), numbers)
    cluster.refuses(OtherBytes if 9 in numbers else OfSecondLife, "b", LATE, 13 * MIB)


# --- what goes on without a person ------------------------------------------------------------------------------------


def test_a_member_of_the_first_life_shows_it_and_goes_on(cluster: Cluster) -> None:
    went_back(cluster)
    first = History(2, (Switch(1, Lsn(9 * MIB + 8192)),))
    cluster.files("b", Life(first), range(8, 12))
    cluster.takes_over("b", first, 12 * MIB)
    assert cluster.frontier == (2, 9, "b")
    cluster.files("c", Life(first), [11])
    for path in (cluster.directory / "b").iterdir():
        path.unlink()  # recycled, each of them
    cluster.takes_over("b", first, 12 * MIB)  # its agent was started again
    cluster.takes_over("c", History(3, (*first.switches, Switch(2, Lsn(13 * MIB)))), 13 * MIB)
    assert cluster.frontier == (3, 9, "c")


def test_a_fork_below_where_the_lives_part_needs_nothing(cluster: Cluster) -> None:
    """A restore in place goes there."""
    went_back(cluster)
    below = History(2, (Switch(1, Lsn(7 * MIB + 100)),))
    cluster.files("b", Life(below), [7])
    cluster.takes_over("b", below, 8 * MIB)
    assert cluster.frontier == (2, 7, "b")


def test_a_volume_that_went_back_within_the_open_segment_shares_all_that_is_whole(cluster: Cluster) -> None:
    cluster.owned(Life(), number=9, inside=40_960)
    cluster.files("a", Life(letter=b"n", until=9 * MIB + 8192), range(3, 9), written=9 * MIB + 81_920)
    cluster.refuses(OtherBytes, "a", ONE, 9 * MIB + 81_920)
    assert cluster.lives == [(1, 9, 9, "a")]
    late = History(2, (Switch(1, Lsn(10 * MIB + 100)),))
    early = History(2, (Switch(1, Lsn(9 * MIB + 100)),))
    cluster.files("b", Life(late, b"n", 9 * MIB + 8192), [10])
    cluster.refuses(OfSecondLife, "b", late, 11 * MIB)  # who would bring segment 9 has the first
    cluster.files("c", Life(early), [9, 10])
    cluster.takes_over("c", early, 11 * MIB)
    assert cluster.frontier == (2, 9, "c")


@pytest.mark.parametrize("store", ["the same", "another"])
def test_p13_a_volume_that_goes_forward_again_does_not_speak_for_what_was_built_from_it(
    cluster: Cluster, store: str
) -> None:
    """But in an archive that begins anew nothing is of the first life."""
    went_back(cluster)
    cluster.files("a", Life(), range(3, 12))
    if store == "another":
        cluster.moves("a", "b")
    cluster.takes_over("a", ONE, 12 * MIB, accepted={"archive_missing"})
    assert cluster.lives == ([(1, 7, 12, "a")] if store == "the same" else [])
    cluster.files("b", Life(LATE, b"n", BACK), [12])
    if store == "the same":
        cluster.refuses(OfSecondLife, "b", LATE, 13 * MIB)
    else:
        cluster.takes_over("b", LATE, 13 * MIB)


def passed(cluster: Cluster) -> list[int]:
    return [life.passed for life in decode(cluster.dcs.documents[REMEMBERED].document).second_lives]


@pytest.mark.parametrize("document", [None, b"{damaged"])
def test_who_has_a_timeline_that_was_taken_over_since_needs_no_record_for_it(
    cluster: Cluster, document: bytes | None
) -> None:
    went_back(cluster)
    first = History(2, (Switch(1, Lsn(9 * MIB + 8192)),))
    cluster.files("b", Life(first), range(8, 12))
    cluster.takes_over("b", first, 12 * MIB)
    assert passed(cluster) == [2]
    late = History(3, (*first.switches, Switch(2, Lsn(15 * MIB + 8192))))
    cluster.stores(Life(late), *range(9, 18))
    for path in (cluster.directory / "b").iterdir():
        path.unlink()
    cluster.files("b", Life(late), range(17, 19))
    cluster.takes_over("b", late, 19 * MIB)
    assert passed(cluster) == [3]
    if document is None:
        cluster.dcs.wipe()
    else:
        cluster.dcs.put(document)
    cluster.takes_over("b", late, 19 * MIB)
    assert cluster.frontier == (3, 18, "b")
    cluster.dcs.wipe()
    other = History(4, (Switch(1, Lsn(17 * MIB)),))
    cluster.files("c", Life(other, b"n", BACK), [18])
    cluster.refuses(OfSecondLife, "c", other, 19 * MIB)


def test_an_old_note_ends_where_the_archive_was_shortened_past_it(cluster: Cluster) -> None:
    went_back(cluster)
    first = History(2, (Switch(1, Lsn(9 * MIB + 8192)),))
    cluster.files("b", Life(first), range(8, 16))
    cluster.takes_over("b", first, 16 * MIB)
    cluster.stores(Life(first), *range(9, 14))
    cluster.takes_over("b", first, 16 * MIB)
    assert cluster.frontier == (2, 14, "b")
    cluster.put_record(start=Life(first).segment(12).name)
    cluster.takes_over("b", first, 16 * MIB)
    assert cluster.lives == []


# --- other refusals ---------------------------------------------------------------------------------------------------


def test_another_prefix_is_the_way_out(cluster: Cluster) -> None:
    """It is said to be that: the record alone does not refuse it as a second life."""
    went_back(cluster)
    cluster.moves("a")
    assert cluster.asks_until_it_comes_through("a", ONE, SEEN) == ["archive_missing"]
    assert (cluster.frontier, cluster.lives) == ((1, 12, "a"), [])


def test_an_archive_that_was_given_up_is_followed_by_another_once_both_its_keys_are_removed(cluster: Cluster) -> None:
    cluster.takes_over("a", ONE, 12 * MIB)
    cluster.clock.now += WRITTEN_SECONDS + 1
    cluster.remembering["a"].tend(cluster.record, {"a": Member("a", "10.0.0.1", 5432, 1000.0)}, ["a"])
    cluster.moves("a")
    cluster.dcs.wipe()
    cluster.refuses(ArchiveMissing, "a", ONE, 13 * MIB)
    cluster.dcs.wipe(REMEMBERED)
    cluster.takes_over("a", ONE, 13 * MIB)
    assert cluster.frontier == (1, 13, "a")


def test_what_was_promoted_from_a_second_life_goes_on_under_another_prefix(cluster: Cluster) -> None:
    went_back(cluster)
    cluster.files("b", Life(LATE, b"n", BACK), range(8, 13))
    cluster.refuses(OtherBytes, "b", LATE, 13 * MIB)
    cluster.moves("b")
    assert cluster.asks_until_it_comes_through("b", LATE, 13 * MIB) == ["archive_missing"]


def test_a_number_that_was_used_twice_is_named_and_no_second_life(cluster: Cluster) -> None:
    theirs = History(2, (Switch(1, Lsn(5 * MIB + 8192)),))
    cluster.owned(Life(), number=5)
    cluster.files("b", Life(theirs), range(3, 9))
    cluster.takes_over("b", theirs, 9 * MIB)
    cluster.stores(Life(theirs), 5, 6, 7)
    cluster.takes_over("b", theirs, 9 * MIB)
    ours = History(2, (Switch(1, Lsn(6 * MIB + 8192)),))
    cluster.files("c", Life(ours, b"n", 6 * MIB), range(3, 12))
    cluster.refuses(NumberUsedTwice, "c", ours, 12 * MIB)
    assert cluster.lives == []


def test_a_record_whose_sum_is_another_segments_is_named_and_no_second_life(cluster: Cluster) -> None:
    cluster.owned(Life(), number=9)
    cluster.files("a", Life(), range(3, 12))
    cluster.put_record(lsn=str(Lsn(7 * MIB)))
    assert "than the record's owner stored" in cluster.refuses(OtherBytes, "a", ONE, SEEN)
    assert cluster.lives == []


def test_two_refusals_are_accepted_one_after_the_other(cluster: Cluster) -> None:
    went_back(cluster)
    cluster.files("b", Life(LATE), [11, 12])
    for key in [key for key in cluster.store.objects if Life().segment(8).name in key]:
        del cluster.store.objects[key]
    assert cluster.asks_until_it_comes_through("b", LATE, 13 * MIB) == ["store_behind", "second_life"]


@pytest.mark.parametrize("accepted", ["nothing_to_compare", "beyond_server"])
def test_p13_another_acceptance_does_not_pass_a_second_life(cluster: Cluster, accepted: str) -> None:
    went_back(cluster)
    cluster.files("b", Life(LATE, b"n", BACK), [12])
    cluster.refuses(OfSecondLife, "b", LATE, 13 * MIB, accepted={accepted})
    cluster.files("c", SECOND, [11])
    cluster.refuses(NothingToCompare, "c", ONE, 12 * MIB)
    cluster.refuses(OfSecondLife, "c", ONE, 12 * MIB, accepted={"nothing_to_compare"})
    assert cluster.lives == [(1, 7, 12, "a")]
    cluster.takes_over("c", ONE, 12 * MIB, accepted={"nothing_to_compare", "second_life"})
    assert cluster.lives == []


# --- what goes on without a person, again -----------------------------------------------------------------------------


def test_a_record_that_somebody_edited_is_put_right_by_a_person_as_before(cluster: Cluster) -> None:
    cluster.owned(Life(), number=9)
    cluster.put_record(lsn="0/2000000", below_sha256="")
    cluster.files("a", Life(), range(3, 12))
    cluster.refuses(BeyondServer, "a", ONE, 12 * MIB)
    assert cluster.lives == [(1, 9, 12, "a")]
    cluster.takes_over("a", ONE, 12 * MIB, accepted={"beyond_server"})
    assert cluster.frontier == (1, 9, "a")


def test_a_standby_leader_that_lags_is_no_second_life(cluster: Cluster) -> None:
    cluster.owned(Life(), number=9)
    cluster.files("b", Life(), range(3, 7))
    cluster.dcs.set_leader("b")
    with (
        pytest.raises(StandbyLags),
        cluster.remembering["b"].second_lives(
            cluster.archive, cluster.local("b", ONE, 7 * MIB, in_recovery=True)
        ) as lives,
    ):
        cluster.take_over("b", ONE, 7 * MIB, in_recovery=True, second_lives=lives)
    assert cluster.lives == []


def test_an_object_that_somebody_replaced_is_no_second_life(cluster: Cluster) -> None:
    cluster.owned(Life(), number=9)
    cluster.put_record(below_sha256="0" * 64)
    cluster.refuses(OtherBytes, "a", ONE, 12 * MIB)
    assert cluster.lives == []


def test_an_archive_in_which_nothing_is_yet_begins_again(cluster: Cluster) -> None:
    cluster.take_over("a", ONE, 9 * MIB)
    cluster.refuses(BeyondServer, "a", ONE, 7 * MIB)
    cluster.files("b", Life(LATE), range(9, 13))
    cluster.takes_over("b", LATE, 13 * MIB)
    assert cluster.frontier == (2, 9, "b")


# --- how it is noted --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("back", [3 * MIB + 8192, 7 * MIB, 8 * MIB + 8192, 20 * MIB])
def test_what_two_lives_share_is_found_by_a_few_looks(cluster: Cluster, back: int) -> None:
    cluster.owned(Life(), number=12)
    cluster.files("a", Life(letter=b"n", until=back), range(3, 20))
    cluster.store.calls.clear()
    assert shared_up_to(cluster.archive, cluster.local("a", ONE, 20 * MIB)) == min(back // MIB, 12) * MIB
    assert (
        len({key.rpartition("/")[2][:24] for call, key in cluster.store.calls if call == "head"}) <= 5
    )  # of 17 segments


def test_nothing_shows_what_is_shared_where_the_server_begins_later(cluster: Cluster) -> None:
    cluster.owned(Life(), number=12)
    cluster.files("a", Life(letter=b"n", until=BACK), range(10, 20))
    assert shared_up_to(cluster.archive, cluster.local("a", ONE, 20 * MIB)) == 0


def test_p13_it_is_noted_while_the_store_is_away_and_what_is_shared_as_soon_as_that_answers(cluster: Cluster) -> None:
    cluster.owned(Life(), number=9)
    cluster.files("a", SECOND, range(3, 8))
    for down, kind, shared in ((True, StoreUnavailable, 0), (False, BeyondServer, 7), (True, BeyondServer, 7)):
        cluster.store.down = down
        cluster.refuses(kind, "a", ONE, 8 * MIB)
        assert cluster.lives == [(1, shared, 8, "a")]
    cluster.refuses(StoreUnavailable, "a", ONE, 12 * MIB)  # by now the record alone does not show it
    assert cluster.lives == [(1, 7, 8, "a")]


def test_p13_a_dcs_that_cannot_be_written_is_written_while_the_refusal_stands(cluster: Cluster) -> None:
    cluster.remembered["a"].read_only = True
    went_back(cluster)
    assert cluster.lives == []
    cluster.remembered["a"].read_only = False
    cluster.refuses(OtherBytes, "a", ONE, SEEN)
    assert cluster.lives == [(1, 7, 12, "a")]
    cluster.dcs.wipe(REMEMBERED)
    cluster.refuses(OtherBytes, "a", ONE, SEEN)
    assert cluster.lives == [(1, 7, 12, "a")]


def test_p13_what_could_not_be_noted_is_told_and_noted_at_a_later_look(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def lose(*_: object, **__: object) -> None:
        raise CasConflict("x")

    with monkeypatch.context() as patch:
        patch.setattr(cluster.remembered["a"], "write", lose)
        went_back(cluster)
        cluster.clock.now += GRACE_SECONDS
        cluster.remembering["a"].note_again()
    assert ([each.what for each in cluster.problems.open()], cluster.lives) == ([About.REMEMBERED], [])
    cluster.remembering["a"].note_again()
    assert (cluster.problems.open(), cluster.lives) == ([], [(1, 7, 12, "a")])
    cluster.dcs.wipe(REMEMBERED)
    cluster.remembering["a"].note_again()
    assert cluster.lives == []  # that was done
    assert caplog.text.count("second_life_noted") == 1


def test_only_the_leader_notes_it(cluster: Cluster) -> None:
    cluster.owned(Life(), number=9)
    cluster.files("a", SECOND, range(3, 12))
    cluster.dcs.set_leader("b")
    with (
        pytest.raises(OtherBytes),
        cluster.remembering["a"].second_lives(cluster.archive, cluster.local("a", ONE, SEEN)),
    ):
        check_record("a", "", cluster.record, cluster.local("a", ONE, SEEN), ())
    assert cluster.lives == []


def test_p13_the_record_of_another_store_shows_it_while_the_own_one_is_away(cluster: Cluster) -> None:
    """Each archive has a note of its own: its takeovers are held against that."""
    cluster.owned(Life(), number=9)
    cluster.files("a", SECOND, range(3, 12))
    cluster.dcs.set_leader("a")
    cluster.store.down = True
    wal = cluster.local("a", ONE, SEEN)
    with pytest.raises(OtherBytes), cluster.remembering["a"].second_lives(cluster.archive, wal):
        check_record("a", "far", cluster.record, wal, ())
    assert cluster.lives == [(1, 0, 12, "a")]


def test_a_conflict_is_noted_at_once_and_once(cluster: Cluster) -> None:
    record = cluster.owned(Life(), number=9)
    remembering, writes = cluster.remembering["a"], cluster.remembered["a"].writes
    remembering.tend(record, {}, ())
    before = len(writes)
    for _ in range(3):
        remembering.tend(record, {}, (), {}, Lsn(12 * MIB))
    assert cluster.lives == [(1, 9, 12, "a")]
    assert len(writes) == before + 1
    cluster.clock.now += AGAIN_SECONDS + WRITTEN_SECONDS
    remembering.tend(record, {}, ())
    assert cluster.lives == [(1, 9, 12, "a")]


def test_of_another_cluster_nothing_is_believed(cluster: Cluster) -> None:
    went_back(cluster)
    found = decode(cluster.dcs.documents[REMEMBERED].document)
    cluster.dcs.put(encode(msgspec.structs.replace(found, system_identifier="1")), REMEMBERED)
    with cluster.remembering["b"].second_lives(cluster.archive, cluster.local("b", LATE, 13 * MIB)) as lives:
        assert lives == ()
