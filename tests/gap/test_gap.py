"""``walkeeper gap``: what is listed, and what a person's word does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.core.values import plain_segment
from tests.fixtures.archives import Built
from tests.fixtures.two_stores import FAR, TwoStores, is_away, two
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.write import Archive
from walkeeper.config import Config, load
from walkeeper.core.history import History
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.record import Gap, Record
from walkeeper.errors import Refused
from walkeeper.gap import command
from walkeeper.store.directory import DirectoryStore

__all__ = ["two"]

SIZE = SegmentSize(MIB)
SUSPECTED = Gap(1, "0/800000", "0/A00000")


class Site:
    """A store and a DCS, without agents."""

    def __init__(self, directory: Path) -> None:
        (directory / "store").mkdir()
        file = directory / "patroni.yml"
        file.write_text(f"scope: demo\nwalkeeper:\n  store:\n    directory: {directory / 'store'}\n")
        self.config: Config = load(file, {})
        self.dcs = MemoryDcs()
        self.archive = Archive(DirectoryStore(directory / "store"), Layout("demo", None, 7), SIZE, Codec())
        self.suspects()

    def suspects(self, *ranges: Gap) -> None:
        first = Segment(1, 1, SIZE).name
        record = Record(
            system_identifier="7", segment_size=MIB, timeline=1, lsn="0/800000", start=first, owner="a", session="s",
            suspected=ranges,
        )  # fmt: skip
        self.dcs.put(record.encode())


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    site = Site(tmp_path)
    monkeypatch.setattr(command, "connect", lambda *_, **__: MemoryRecord(site.dcs))
    return site


def said(site: Site, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[tuple[str, str]]]:
    code = command.main(site.config, accept=False, as_json=True)
    return code, [(lost["start"], lost["state"]) for lost in json.loads(capsys.readouterr().out)]


def test_nothing_lost_is_said_and_exits_with_0(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(site.config, accept=False) == 0
    assert capsys.readouterr().out == "No WAL is lost.\n"
    with pytest.raises(Refused, match="nothing to accept"):
        command.main(site.config, accept=True)


def test_a_suspicion_is_listed_and_a_persons_word_is_stored_for_the_owner(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.suspects(SUSPECTED)
    before = site.dcs.record
    assert said(site, capsys) == (1, [("0/800000", "suspected")])
    assert command.main(site.config, accept=True) == 0
    assert "accepted: 0/800000 to 0/A00000 on timeline 1" in capsys.readouterr().out
    assert site.archive.contents.accepted_gaps() == [SUSPECTED]
    assert site.archive.contents.gaps() == []  # the owner records it
    assert site.dcs.record == before  # and nobody but the owner writes the record
    assert said(site, capsys) == (0, [("0/800000", "accepted")])


def test_of_several_one_must_be_named_by_a_position_or_a_segment(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.suspects(SUSPECTED)
    site.archive.record_gap(Segment(1, 3, SIZE), Lsn(5 * MIB))
    assert said(site, capsys) == (1, [("0/300000", "recorded"), ("0/800000", "suspected")])
    with pytest.raises(Refused, match="2 to accept") as refused:
        command.main(site.config, accept=True)
    assert "Name one" in refused.value.hint
    for wrong in ("0/400000", "000000020000000000000003"):
        with pytest.raises(Refused, match="nothing that is lost begins there"):
            command.main(site.config, accept=True, start=wrong)
    for nonsense in ("yesterday", "../x", ""):
        with pytest.raises(Refused, match="not a segment name"):
            command.main(site.config, accept=True, start=nonsense)
    assert command.main(site.config, accept=True, start="000000010000000000000003") == 0
    assert command.main(site.config, accept=True, start="0/800000") == 0
    capsys.readouterr()
    assert said(site, capsys) == (0, [("0/300000", "accepted"), ("0/800000", "accepted")])


def test_a_gap_that_was_closed_since_is_not_listed(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    lost = Segment(1, 3, SIZE)
    site.archive.record_gap(lost, lost.end)
    site.archive.archive_segment(lost, plain_segment(lost, 7), History(1))
    assert said(site, capsys) == (0, [])


def test_strange_objects_beside_the_gaps_mean_nothing(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (
        "x.accepted.json",
        "000000010000000000000003-.accepted.json",
        "000000010000000000000003-F.accepted.json.tmp",
    ):
        site.archive.store.create(f"{site.archive.layout.gaps}{name}", b"{}", {})
    assert site.archive.contents.accepted_gaps() == []
    assert said(site, capsys) == (0, [])


def test_without_a_record_it_cannot_tell(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.dcs.wipe()
    assert command.main(site.config, accept=False) == 2
    told = capsys.readouterr()
    assert "record in the DCS: there is none" in told.err
    assert "HINT: " in told.err


def test_of_several_stores_all_are_listed_and_the_first_is_accepted_in(
    two: TwoStores, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "connect", lambda *arguments: MemoryRecord(two.dcs, arguments[-1]))
    lost = Built.segment(1, 7)
    for built in (two.main, two.far):
        built.archive.record_gap(lost, lost.end)
    assert command.main(two.config, accept=True) == 0
    capsys.readouterr()
    assert command.main(two.config, accept=False) == 1
    assert capsys.readouterr().out.splitlines() == [
        "Store main: accepted   timeline 1: 0/700000 to 0/800000",
        "Store far: recorded   timeline 1: 0/700000 to 0/800000",
    ]
    assert command.main(two.config, accept=False, as_json=True) == 1
    assert [(row["store"], row["state"]) for row in json.loads(capsys.readouterr().out)] == [
        ("main", "accepted"),
        (FAR, "recorded"),
    ]
    assert command.main(two.config.of_only(FAR), accept=True) == 0
    is_away(two.main)
    assert command.main(two.config, accept=False) == 2, "what cannot be asked is said, and the other one all the same"
    assert "walkeeper: store main: " in capsys.readouterr().err
