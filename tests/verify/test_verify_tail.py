"""``walkeeper verify`` and ``list`` where the frontier lies inside the open segment: its tail must bear that out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.archives import FOUR, ONE, SIZE, THREE, TWO, Built, Verifier
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import HistoryFile
from walkeeper.verify import list_command

INSIDE = 30_000
"""Bytes of segment 11 below the frontier."""


@pytest.fixture
def built(tmp_path: Path) -> Built:
    """Timelines 1, 2 and 4; all before segment 11 is stored."""
    made = Built(tmp_path)
    made.put(ONE, 3, 4)
    made.put_history(TWO, THREE, FOUR)
    made.put(TWO, *range(5, 8))
    made.put(FOUR, *range(8, 11))
    made.record(4, 11, inside=INSIDE)
    return made


@pytest.mark.parametrize("deep", [False, True])
def test_a_tail_that_reaches_the_frontier_is_sound(built: Built, verify: Verifier, deep: bool) -> None:
    built.put_tail(FOUR, 11, 9000, 20_000, 40_000)
    said = verify(deep=deep)
    assert (said.code, said.kinds, said.notes) == (0, [], set())
    found = said.document
    assert (
        found["end_lsn"]
        == found["record"]["frontier"]
        == found["windows"][-1]["end_lsn"]
        == str(Lsn(11 * SIZE + INSIDE))
    )
    end = str(Lsn(11 * SIZE + 40_000))
    assert found["tail"] == {"segment": "00000004000000000000000B", "end_lsn": end, "pieces": 3}
    assert found["segments"] == {"expected": 8, "stored": 8}
    text = verify(json=False, deep=deep).out
    assert f"\nTail      00000004000000000000000B up to {end}, 3 pieces\n" in text
    assert f"WAL       0/300000 to {Lsn(11 * SIZE + INSIDE)}, 8 segments\n" in text


@pytest.mark.parametrize("hole", ["none at all", "too short", "hole", "no beginning", "two owners", "another timeline"])
def test_p4_a_frontier_that_no_tail_bears_out_is_damage(built: Built, verify: Verifier, hole: str) -> None:
    end = 0
    if hole == "too short":
        built.put_tail(FOUR, 11, 9000, end := INSIDE - 8)
    elif hole == "hole":
        keys = built.put_tail(FOUR, 11, end := 9000, 20_000, 40_000)
        built.store.delete(keys[1])
    elif hole == "no beginning":
        built.put_tail(FOUR, 11, 40_000, begin=9000)
    elif hole == "two owners":
        built.put_tail(FOUR, 11, end := 20_000)
        built.put_tail(FOUR, 11, 40_000, begin=20_000, owner="o2")
    elif hole == "another timeline":
        built.put_tail(THREE, 11, 40_000)
    said = verify()
    assert (said.code, said.kinds) == (1, ["tail_missing"])
    finding = said.finding("tail_missing")
    assert str(Lsn(11 * SIZE + INSIDE)) in finding["text"]
    assert finding["first"] == "00000004000000000000000B"
    assert finding["hint"]
    assert (str(Lsn(11 * SIZE + end)) in finding["text"]) == bool(end)
    assert said.document["end_lsn"] == str(Lsn(11 * SIZE))
    told = " ".join(verify(json=False).out.split())
    assert f"up to the frontier {Lsn(11 * SIZE + INSIDE)} " in told
    assert f"WAL 0/300000 to {Lsn(11 * SIZE)}, 8 segments" in told


def test_a_segment_that_was_completed_since_needs_no_tail(built: Built, verify: Verifier) -> None:
    built.put(FOUR, 11)
    said = verify(deep=True)
    assert (said.code, said.kinds) == (0, [])
    assert said.document["tail"] is None


def test_what_is_merged_during_the_look_is_no_hole(
    built: Built, verify: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing that passed the merged piece's name before it was stored, and the small ones' after they were removed."""
    keys = built.put_tail(FOUR, 11, 9000, 20_000, 40_000)
    real, looks = type(built.store).list, []

    def listed(self: object, prefix: str) -> object:
        found = list(real(self, prefix))  # type: ignore[arg-type]
        if "/tail/" in prefix:
            looks.append(prefix)
            if len(looks) == 1:
                return iter([info for info in found if info.key != keys[1]])
        return iter(found)

    monkeypatch.setattr(type(built.store), "list", listed)
    assert verify().code == 0
    assert len(looks) == 3  # the last one for the times


def test_deep_reads_the_tail_as_a_restore_would(built: Built, verify: Verifier) -> None:
    keys = built.put_tail(FOUR, 11, 9000, 20_000, 40_000)
    built.replace(keys[1], built.body(keys[1])[:-3])
    assert verify().kinds == ["times_unread"]
    said = verify(deep=True)
    assert (said.code, said.kinds) == (1, ["tail_damaged"])
    assert str(Lsn(11 * SIZE + 9000)) in said.finding("tail_damaged")["text"]
    assert said.document["end_lsn"] == str(Lsn(11 * SIZE))
    built.put_tail(FOUR, 11, 40_000, owner="o2")
    assert verify(deep=True).code == 0


def test_deep_does_not_judge_a_tail_by_a_timeline_that_has_just_begun(built: Built, verify: Verifier) -> None:
    built.put_tail(FOUR, 11, 40_000)
    built.store.create(
        built.archive.layout.file(HistoryFile(5), ""),
        f"1\t{Lsn(5 * SIZE + 100)}\tno\n4\t{Lsn(10 * SIZE)}\tno\n".encode(),
        {},
    )
    said = verify(deep=True)
    assert said.code == 2
    assert said.kinds == ["tail_unread"]


def test_pieces_of_complete_segments_and_beyond_a_fork_are_harmless(built: Built, verify: Verifier) -> None:
    built.put_tail(FOUR, 11, 40_000)
    built.put_tail(FOUR, 10, 9000, 20_000)
    built.put_tail(TWO, 8, 700_000)
    said = verify(deep=True)
    assert (said.code, said.kinds, said.notes) == (0, [], {"tail"})
    assert said.finding("tail")["count"] == 3


def test_without_a_record_the_tail_is_told_and_not_demanded(built: Built, verify: Verifier) -> None:
    built.put_tail(FOUR, 11, 40_000)
    built.dcs.wipe()
    said = verify()
    assert (said.code, said.document["end_lsn"]) == (0, str(Lsn(11 * SIZE)))
    assert said.document["tail"]["pieces"] == 1


def test_a_rebuilt_record_claims_whole_segments_only(built: Built, verify: Verifier) -> None:
    built.put_tail(FOUR, 11, 40_000)
    built.dcs.wipe()
    said = verify(rebuild=True, json=False)
    assert said.code == 0
    assert str(Lsn(11 * SIZE)) in said.out


def test_list_says_how_far_the_newest_tail_goes(
    built: Built, verify: Verifier, capsys: pytest.CaptureFixture[str]
) -> None:
    built.put_tail(FOUR, 11, 9000, 20_000)
    built.put_tail(TWO, 8, 700_000)
    assert list_command.main(built.config, timeline=None, system_identifier=None, json=False) == 0
    said = capsys.readouterr().out
    assert "Pieces of segments that were being written: 3, " in said
    assert f"  00000004000000000000000B up to {Lsn(11 * SIZE + 20_000)}, 2 of them\n" in said
