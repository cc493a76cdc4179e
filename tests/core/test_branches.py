"""What is stored of a primary that does not lead: each kind of file, by who leads and how far the record is."""

from __future__ import annotations

from typing import Final

import pytest

from walkeeper.core.branches import is_for_the_archive
from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.core.names import WalFile, parse_wal_name
from walkeeper.core.record import Record

TWO, THREE, FOUR = (f"0000000{timeline}0000000000000007" for timeline in (2, 3, 4))
KINDS: Final = ("{}", "{}.partial", "{}.00000028.backup")


def file(name: str) -> WalFile:
    return parse_wal_name(name, SegmentSize(MIB))


def stored(name: str, *, owner: str, leader: str = "heir", running: bool) -> bool:
    record = Record(
        system_identifier="7300000000000000001", segment_size=MIB, timeline=3, lsn="0/700000", start=TWO, owner=owner,
        session="s",
    )  # fmt: skip
    return is_for_the_archive(file(name), record, "me", leader, running=running)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("owner", ["me", "heir", "third"])
@pytest.mark.parametrize("segment", [TWO, THREE, FOUR])
def test_who_accepts_writes_and_does_not_lead_has_nothing_for_the_archive(kind: str, owner: str, segment: str) -> None:
    assert not stored(kind.format(segment), owner=owner, running=True)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_written_while_it_led_is_stored_before_a_rewind(kind: str) -> None:
    assert stored(kind.format(THREE), owner="me", running=False)
    assert stored(kind.format(TWO), owner="me", running=False)
    assert stored(kind.format(TWO), owner="heir", running=False)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_written_apart_is_not(kind: str) -> None:
    assert not stored(kind.format(THREE), owner="heir", running=False)
    assert not stored(kind.format(FOUR), owner="heir", running=False)
    assert not stored(kind.format(FOUR), owner="me", running=False)


@pytest.mark.parametrize("running", [True, False])
def test_a_number_that_the_leader_has_not_got_to_is_not_chosen_again(running: bool) -> None:
    assert stored("00000004.history", owner="heir", running=running)
    assert not stored("00000003.history", owner="heir", running=running)
    assert not stored("00000004.history", owner="third", running=running), "the leader may be choosing it just now"
    assert stored("00000002.history", owner="heir", running=False)


def test_without_a_record_what_is_handed_over_before_a_rewind_is_stored() -> None:
    assert is_for_the_archive(file(THREE), None, "me", "heir", running=False)
    assert not is_for_the_archive(file(THREE), None, "me", "heir", running=True)
