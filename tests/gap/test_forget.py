"""``walkeeper member forget``: whom a person may forget, and what that word is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.archives import Built
from tests.fixtures.two_stores import FAR, TwoStores, is_away, two
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import LONGEST_MEMBER, Layout, parse_forgotten
from walkeeper.archive.write import Archive
from walkeeper.config import Config, load
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.record import Gap, Record
from walkeeper.core.remembered import Remembered, Seen, encode
from walkeeper.core.suspicion import Forgotten
from walkeeper.dcs.base import REMEMBERED, Member, Versioned
from walkeeper.errors import BadName, DcsError, Refused
from walkeeper.gap import forget
from walkeeper.store.directory import DirectoryStore

__all__ = ["two"]

SIZE = SegmentSize(MIB)


def is_there(name: str, lsn: int | None = None) -> Member:
    return Member(name, "replica", "streaming", "127.0.0.1", 5432, 2, lsn)


class Site:
    """A store and a DCS, without agents: a leads, b is gone."""

    def __init__(self, directory: Path) -> None:
        (directory / "store").mkdir()
        file = directory / "patroni.yml"
        file.write_text(f"scope: demo\nwalkeeper:\n  store:\n    directory: {directory / 'store'}\n")
        self.config: Config = load(file, {})
        self.dcs = MemoryDcs()
        self.dcs.set_leader("a")
        self.dcs.set_members(is_there("a", 12 * MIB + 5))
        self.saw("a", "b")
        self.archive = Archive(DirectoryStore(directory / "store"), Layout("demo", None, 7), SIZE, Codec())
        record = Record(
            system_identifier="7", segment_size=MIB, timeline=2, lsn="0/800000", start=Segment(1, 1, SIZE).name, owner="a",
            session="s", suspected=(Gap(1, "0/800000", "0/A00000"),),
        )  # fmt: skip
        self.dcs.put(record.encode())

    def saw(self, *names: str) -> None:
        members = tuple(Seen(name) for name in names)
        self.dcs.put(encode(Remembered(system_identifier="7", members=members)), REMEMBERED)

    @property
    def words(self) -> list[Forgotten]:
        return self.archive.contents.listed(self.archive.layout.gaps).forgotten


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    site = Site(tmp_path)
    monkeypatch.setattr(forget, "connect", lambda *arguments: MemoryRecord(site.dcs, arguments[-1]))
    return site


def test_the_word_is_stored_for_the_owner_up_to_the_end_of_the_wal_that_there_is(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    before = dict(site.dcs.documents)
    assert forget.main(site.config, "b") == 0
    assert site.words == [Forgotten("b", 2, Lsn(13 * MIB))]
    assert site.dcs.documents == before, "nobody but the owner writes there"
    told = capsys.readouterr().out
    assert "forgotten: b; nobody waits for what it may have of the WAL up to 0/D00000" in told
    assert "Suspected lost: 0/800000 to 0/A00000 on timeline 1." in told
    assert forget.main(site.config, "b") == 0, "said twice"
    assert len(site.words) == 1
    assert site.archive.contents.accepted_gaps() == site.archive.contents.gaps() == []


def test_a_member_that_runs_is_not_forgotten(site: Site) -> None:
    site.dcs.set_members(is_there("a"), is_there("b"))
    for name in ("a", "b"):
        with pytest.raises(Refused, match=f"member {name}: Patroni's key of it is in the DCS") as refused:
            forget.main(site.config, name)
        assert "Stop Patroni there first" in refused.value.hint
    assert site.words == []


def test_the_leader_is_not_forgotten_whose_key_is_late(site: Site) -> None:
    site.dcs.set_leader("b")
    with pytest.raises(Refused, match="answers for itself"):
        forget.main(site.config, "b")


def test_a_name_that_no_agent_has_noted_is_told_with_those_that_are_gone_and_believed(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """The owner may wait for one all the same, and its hint names it, where it may not write down whom it has seen."""
    assert forget.main(site.config, "c") == 0
    told = capsys.readouterr()
    assert "forgotten: c" in told.out
    assert "member c: no agent has noted in the DCS that it was there" in told.err
    assert "HINT: Members that are gone, and may be waited for: b." in told.err
    assert [word.member for word in site.words] == ["c"]
    assert forget.main(site.config, "b") == 0
    assert capsys.readouterr().err == ""


def test_whoever_may_not_read_what_the_agents_have_noted_believes_a_person(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Denied(MemoryRecord):
        def read(self) -> Versioned | None:
            if self.key == REMEMBERED:
                raise DcsError("permission denied")
            return super().read()

    monkeypatch.setattr(forget, "connect", lambda *arguments: Denied(site.dcs, arguments[-1]))
    assert forget.main(site.config, "b") == 0
    assert [word.member for word in site.words] == ["b"]
    assert capsys.readouterr().err == ""


def test_where_nobody_knows_who_was_there_a_person_is_believed(site: Site) -> None:
    site.dcs.wipe(REMEMBERED)
    assert forget.main(site.config, "c") == 0
    site.dcs.put(b"nonsense", REMEMBERED)
    assert forget.main(site.config, "d") == 0
    assert [word.member for word in site.words] == ["c", "d"]


def test_without_a_record_or_a_dcs_it_cannot_tell(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site.dcs.wipe()
    assert forget.main(site.config, "b") == 2
    assert "record in the DCS: there is none" in capsys.readouterr().err

    def cut_off(*arguments: object) -> MemoryRecord:
        record = MemoryRecord(site.dcs, str(arguments[-1]))
        record.cut_off = True
        return record

    monkeypatch.setattr(forget, "connect", cut_off)
    assert forget.main(site.config, "b") == 2
    assert "HINT: " in capsys.readouterr().err
    assert site.words == []


def test_a_name_that_no_key_can_have_is_refused_in_words(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    name = "x" * (LONGEST_MEMBER + 1)
    site.saw("a", name)
    assert forget.main(site.config, name) == 2
    assert "too long for a key in the store" in capsys.readouterr().err


def test_of_several_stores_each_gets_the_word(
    two: TwoStores, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(forget, "connect", lambda *arguments: MemoryRecord(two.dcs, arguments[-1]))
    assert forget.main(two.config, "gone") == 0
    told = capsys.readouterr().out
    assert "Store main: forgotten: gone" in told
    assert f"Store {FAR}: forgotten: gone" in told
    for built in (two.main, two.far):
        assert [word.member for word in _words(built)] == ["gone"]
    is_away(two.main)
    assert forget.main(two.config, "too") == 2, "one of them has it not"
    assert "walkeeper: store main: " in capsys.readouterr().err
    assert {word.member for word in _words(two.far)} == {"gone", "too"}


def _words(built: Built) -> list[Forgotten]:
    return built.archive.contents.listed(built.archive.layout.gaps).forgotten


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_any_name_comes_back_from_its_key(name: str) -> None:
    layout = Layout("demo", None, 7)
    word = Forgotten(name, 3, Lsn(5 * MIB))
    try:
        key = layout.forgotten(word)
    except BadName:
        assert len(name.encode()) * 3 > LONGEST_MEMBER
        return
    assert key.isascii()
    assert "/" not in key.removeprefix(layout.gaps)
    assert parse_forgotten(key.removeprefix(layout.gaps)) == word


@pytest.mark.parametrize(
    "name",
    [
        "forgotten-1-2-b.json",
        "forgotten-00000001-0000000000000002-.json",
        "x",
        "forgotten-00000001-0000000000000002-b_.json",
    ],
)
def test_what_is_no_such_key_is_nobody(name: str) -> None:
    assert parse_forgotten(name) is None
