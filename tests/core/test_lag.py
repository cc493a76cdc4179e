"""When the server's WAL reached what: how long something has waited to be archived must never be told too short."""

from __future__ import annotations

from walkeeper.core.lag import KEPT, WalTimes
from walkeeper.core.lsn import Lsn


def noted(*positions: int) -> WalTimes:
    """One look a second."""
    times = WalTimes()
    for at, position in enumerate(positions):
        times.note(float(at), f"at {at}", Lsn(position))
    return times


def test_what_waits_is_younger_than_the_last_moment_at_which_nothing_waited() -> None:
    times = noted(10, 10, 10, 30, 50)
    stood = times.ended_at_or_below(Lsn(10))
    assert stood is not None
    assert (stood.until, stood.stamp) == (2.0, "at 2")
    assert times.waiting(10.0, 11) == 7.0
    assert times.waiting(10.0, 51) == 0.0


def test_what_was_there_before_the_first_look_is_of_an_unknown_age() -> None:
    assert noted(30, 50).ended_at_or_below(Lsn(20)) is None


def test_wal_that_went_back_is_another_branch_and_nothing_from_before_counts() -> None:
    times = noted(10, 50, 20)
    assert times.ended_at_or_below(Lsn(15)) is None
    assert times.waiting(10.0, 20) == 8.0


def test_it_is_bounded_and_the_oldest_moment_stays() -> None:
    """A backlog of days is still told in days."""
    times = noted(*range(4 * KEPT))
    assert times.waiting(4.0 * KEPT, 0) == 4 * KEPT
    stood = times.ended_at_or_below(Lsn(100))
    assert stood is not None
    assert stood.until <= 100
    assert len(times._known) <= KEPT
