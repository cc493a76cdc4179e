"""Backups, restores, expiry and kills in random schedules (P15); and deliberate bugs, each of which some schedule notices."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

import walkeeper.archive.restorable
import walkeeper.core.retention
import walkeeper.expire.delete
import walkeeper.expire.look
from tests.expire.world import Broken, Taker, World
from walkeeper.archive.backups import Backups
from walkeeper.archive.contents import Inventory
from walkeeper.archive.expiry import Expiry
from walkeeper.core.backup import Backup, Tombstone
from walkeeper.core.coverage import Archived, merged
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.retention import Needs, Policy
from walkeeper.expire.look import Going, Looked

SCHEDULES = 12
STEPS = 100
MOST = 200
"""Schedules that a deliberate bug may need at most."""


@pytest.fixture(autouse=True)
def one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A schedule is what its seed says."""

    def in_turn(work: Callable[[Any], Any], things: Iterable[Any], workers: int) -> Iterator[Any]:
        return map(work, things)

    monkeypatch.setattr(walkeeper.core.retention, "ATTEMPT", timedelta(hours=12))
    monkeypatch.setattr(walkeeper.expire.look, "_LEFT", timedelta(hours=3))
    for module in (walkeeper.archive.restorable, walkeeper.expire.delete):
        monkeypatch.setattr(module, "in_parallel", in_turn)
        monkeypatch.setattr(module, "with_retries", lambda work: work(), raising=False)


def played(seeds: Iterable[int]) -> None:
    for seed in seeds:
        world = World(seed)
        try:
            world.play(STEPS)
        except Broken as problem:
            pytest.fail(f"seed {seed}: {problem}\n{' '.join(world.log)}")


def test_p15_no_window_is_broken_and_nothing_goes_above_a_floor_or_inside_a_pin_in_any_schedule() -> None:
    played(range(SCHEDULES))


@pytest.mark.slow
def test_p15_the_same_in_a_thousand_schedules() -> None:
    played(range(1000, 2000))


def _without_a_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """What today's plan gives up is deleted at once."""

    def going(self: Looked) -> Going:
        if self.plan is None:
            return Going()
        there = {each.id for each in self.archive.documents.backups}
        backups = tuple(id_ for id_ in self.plan.backups if id_ in there)
        return Going(self.plan.first, self.plan.given_up, self.plan.covered, backups)

    monkeypatch.setattr(Looked, "going", property(going))


def _before_the_grace_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Expiry, "standing", lambda self, _: [each for each in self.floors if each.number not in self.done]
    )


def _across_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recorded gap counts as if its WAL were stored."""
    original = Inventory.archived

    def archived(self: Inventory, size: SegmentSize) -> Archived:
        found = original(self, size)
        timelines = {*found.segments, *found.gaps}
        segments = {t: merged([*found.segments.get(t, ()), *found.gaps.get(t, ())]) for t in timelines}
        return replace(found, segments=segments)

    monkeypatch.setattr(Inventory, "archived", archived)


def _index_of_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs of one id: the first one's stop with the second one's index."""
    original = World.commit

    def commit(self: World, taker: Taker, index_of: int, stop: Lsn) -> None:
        others = [each for each in self.takers if each.id == taker.id]
        original(self, taker, others[0].number if others else index_of, stop)

    monkeypatch.setattr(World, "commit", commit)
    monkeypatch.setattr(World, "kill_taker", lambda self: self.begin_beside())


def _document_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """``backup.json`` before the last piece."""
    original = World.go_on_with_backup

    def go_on(self: World) -> None:
        early = [taker for taker in self.takers if len(taker.pieces) == 1 and taker.stop is None]
        if not early:
            original(self)
            return
        taker = early[0]
        taker.stop = self.runs[taker.number].stop = Lsn(taker.start + 216)
        taker.pieces.append(hashlib.sha256(f"run {taker.number} piece 1".encode()).hexdigest())
        self.commit(taker, taker.number, taker.stop)
        taker.pieces.pop()

    monkeypatch.setattr(World, "go_on_with_backup", go_on)


def _no_tombstone(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt's pieces go, and nothing keeps its taker from committing."""
    original = Backups.commit

    def commit(self: Backups, found: Backup | Tombstone) -> Backup | Tombstone:
        return found if isinstance(found, Tombstone) else original(self, found)

    monkeypatch.setattr(Backups, "commit", commit)


def _pins_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walkeeper.expire.look, "read_pins", lambda *_: [])


def _pins_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before their end."""
    monkeypatch.setattr(walkeeper.expire.look, "_LEFT", timedelta(hours=-3))


def _retained_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    original = walkeeper.core.retention.plan
    monkeypatch.setattr(
        walkeeper.expire.look,
        "plan",
        lambda judged, bare, policy, needs: original(judged, bare, policy, replace(needs, retained=())),
    )


def _one_full_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walkeeper.core.retention, "FULLS", 1)


def _too_young(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest backup inside ``keep`` is taken to be old enough, and not the one before it."""

    def oldest(chain: list[Backup], policy: Policy, needs: Needs) -> Backup:
        keep = policy.keep or timedelta(0)
        young = [each for each in chain if needs.elapsed.since(walkeeper.core.retention._taken(each, needs)) < keep]
        return min([*young[:1], *chain[-2:]], key=chain.index) if len(chain) > 1 else original(chain, policy, needs)

    original = walkeeper.core.retention._oldest
    monkeypatch.setattr(walkeeper.core.retention, "_oldest", oldest)


@pytest.mark.parametrize(
    ("bug", "seed"),
    [
        (_without_a_floor, 1),
        (_before_the_grace_is_over, 1),
        (_across_a_gap, 4),
        (_index_of_another_run, 1),
        (_document_first, 0),
        (_no_tombstone, 115),
        (_pins_ignored, 0),
        (_pins_taken_away, 0),
        (_retained_ignored, 14),
        (_one_full_is_enough, 38),
        (_too_young, 3),
    ],
)
def test_a_deliberate_bug_is_noticed(
    bug: Callable[[pytest.MonkeyPatch], None], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun at the schedule that notices it now."""
    bug(monkeypatch)
    for each in range(seed, seed + MOST):
        try:
            World(each).play(STEPS)
        except Broken as problem:
            assert str(problem)
            return
    pytest.fail(f"{bug.__name__}: {MOST} schedules did not notice it")
