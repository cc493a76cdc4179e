"""What keeps the agent from its work: since when, met when for the last time, and since when it is over."""

from __future__ import annotations

from tests.twins.hand_clock import HandClock
from walkeeper.agent.observation import GONE_SECONDS, GoneMembers
from walkeeper.agent.problems import Problems
from walkeeper.core.about import About
from walkeeper.errors import StoreDenied


def test_a_problem_says_when_it_was_met_last() -> None:
    clock = HandClock(100.0)
    problems = Problems(clock)
    problems.report(About.ARCHIVER_STORE, StoreDenied("PUT: 403"))
    clock.now = 160.0
    (only,) = problems.open()
    assert (only.begun_at, only.met_at) == (100.0, 100.0)
    problems.report(About.ARCHIVER_STORE, StoreDenied("PUT: 403"))
    (only,) = problems.open()
    assert (only.begun_at, only.met_at) == (100.0, 160.0)


def test_the_last_problem_says_since_when_it_is_over() -> None:
    clock = HandClock(100.0)
    problems = Problems(clock)
    problems.report(About.ARCHIVER_STORE, StoreDenied("PUT: 403"))
    assert problems.last is not None
    assert problems.last.over_at is None
    clock.now = 200.0
    problems.clear(About.ARCHIVER_STORE)
    clock.now = 300.0
    problems.clear(About.ARCHIVER_STORE)
    assert problems.last.over_at == 200.0
    problems.report(About.ARCHIVER_STORE, StoreDenied("PUT: 403"))
    clock.now = 400.0
    problems.forget_archivers()  # what it speaks of has ended
    assert problems.last.over_at == 400.0


def test_a_member_whose_key_has_gone_is_remembered_for_a_day() -> None:
    gone = GoneMembers()
    gone.note(0.0, "at 0", ["a", "b", "c"])
    gone.note(10.0, "at 10", ["a"])
    assert gone.names() == {"b": "at 0", "c": "at 0"}
    gone.note(20.0, "at 20", ["a", "b"])
    assert gone.names() == {"c": "at 0"}
    gone.note(GONE_SECONDS + 1, "later", ["a", "b"])
    assert gone.names() == {}
