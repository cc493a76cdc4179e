"""The archive's signs of life: the owner gives them and looks for others'; who finds no record watches first."""

from __future__ import annotations

import math
import threading
import uuid
from collections.abc import Callable, Collection, Mapping
from typing import Final

from walkeeper.agent.archiver.local_wal import LocalWal
from walkeeper.agent.archiver.refusals import pass_or_raise
from walkeeper.agent.problems import Problems
from walkeeper.archive import life
from walkeeper.archive.life import Sign
from walkeeper.archive.write import Archive
from walkeeper.core.about import About
from walkeeper.core.life import RENEW_SECONDS, LifeWatch
from walkeeper.errors import AnotherCluster, StoreDenied, WalkeeperError, Watching
from walkeeper.lib.clock import Clock

RETRY_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 30.0
"""For who gives signs, too: after so many of one look what is left waits for the next, so that one's own sign is in time."""
REMEMBERED: Final = 8
"""Tokens of this node's own cluster that are remembered, the newest."""


class Life:
    """The owner's. A thread of its own: signs go on while the DCS is away, or the server."""

    def __init__(self, archive: Archive, token: str, owner: str, problems: Problems, clock: Clock) -> None:
        self._archive = archive
        self._token = token
        self._owner = owner
        self._problems = problems
        self._clock = clock
        self._watch = LifeWatch()
        self._number = 0

    def run(self, stopping: threading.Event, over: threading.Event) -> None:
        """Until ``stopping``, or ``over``: the record is another's, or gone."""
        while not stopping.is_set() and not over.is_set():
            try:
                self._renew()
            except WalkeeperError as problem:
                self._problems.report(About.ARCHIVER_LIFE, problem, grace=True)
                stopping.wait(RETRY_SECONDS)
                continue
            self._problems.clear(About.ARCHIVER_LIFE)
            stopping.wait(RENEW_SECONDS)

    def _renew(self) -> None:
        store, layout = self._archive.store, self._archive.layout
        found = life.signs(store, layout)
        own = [sign.number for sign in found if sign.token == self._token]
        try:
            life.drop_older(store, layout, found, self._token)
        except StoreDenied as problem:  # they would pile up
            raise StoreDenied(
                f"{problem}: no new sign of life is given",
                hint=f"The credentials need the right to delete below {layout.lives} (s3:DeleteObject, or as in examples/gcs and "
                "examples/azure). Until then a copy of this cluster with its configuration is not noticed.",
            ) from None
        self._number = max(self._number + 1, *(number + 1 for number in own), life.FIRST)
        life.give(store, layout, Sign(self._token, self._number), self._owner)
        self._look_for_others(life.newest(found))

    def _look_for_others(self, newest: dict[str, Sign]) -> None:
        now, own = self._clock.monotonic(), {self._token}
        _note(self._watch, self._clock, self._archive, newest, own, now + LOOK_SECONDS)
        alive = [newest[token] for token in self._watch.alive(now, own) if token in newest]
        self._problems.report(About.ARCHIVER_ANOTHER_CLUSTER, _another(self._archive, alive[0]) if alive else None)


class Watcher:
    """Before a takeover without a record. For the thread of one takeover at a time, but that any may ``forget``."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._own: list[str] = []
        self._watch = LifeWatch()
        self._place = ""
        self._done: LifeWatch | None = None
        self.sums: dict[tuple[object, ...], str] = {}
        """Of this server's segments, for as long as the same takeover is tried: see LocalWal."""

    def remember(self, token: str) -> None:
        """It is in the record of this node's own DCS: whoever renews it belongs to this cluster."""
        if token and token not in self._own:
            self._own = [*self._own, token][-REMEMBERED:]

    def forget(self) -> None:
        """This node does not want a takeover: the next watch begins at its beginning."""
        self._watch = LifeWatch()
        self.sums = {}

    def token(self) -> str:
        """For a record that is written where there was none: this cluster's, where it is known, else a new one."""
        if not self._own:
            self.remember(uuid.uuid4().hex[:16])
        return self._own[-1]

    def once(self, work: Callable[[], object]) -> None:
        """In each watch, unless it raises."""
        watch = self._watch
        if self._done is not watch:
            work()
            self._done = watch

    def alone(self, archive: Archive, accepted: Collection[str]) -> None:
        """Returns where nobody else keeps the archive alive. Raises AnotherCluster, Watching (call again), or store errors."""
        if self._place != archive.place:
            self._place, self._watch = archive.place, LifeWatch()
        watch = self._watch  # the observer may forget it meanwhile, and a new one has seen nobody
        newest = life.newest(life.signs(archive.store, archive.layout))
        now = self._clock.monotonic()
        _note(watch, self._clock, archive, newest, self._own)
        alive = [newest.get(token, Sign(token, 0)) for token in watch.renewed(self._own)]
        if alive:
            pass_or_raise(_another(archive, alive[0]), accepted)
        elif left := watch.left(now, self._own):
            raise Watching(
                f"{archive.place}: there is an archive and no record in the DCS; for {left:.0f} s more it is watched whether "
                "somebody else archives there",
                hint="Normal where the record was removed or the DCS was rebuilt. The takeover comes automatically.",
            )


def _note(
    watch: LifeWatch,
    clock: Clock,
    archive: Archive,
    newest: Mapping[str, Sign],
    own: Collection[str],
    until: float = math.inf,
) -> None:
    """A movement, unless its sign is planted: one request for each, and none again. What is not asked by ``until`` stays news."""
    now, numbers = clock.monotonic(), {token: sign.number for token, sign in newest.items()}
    for token in watch.news(numbers, own):
        if clock.monotonic() >= until:
            del numbers[token]
        elif life.is_planted(archive.store, archive.layout, newest[token]):
            watch.disbelieve(token, numbers[token])
    watch.note(now, numbers)


def check_no_clone(archive: Archive, local: LocalWal, accepted: Collection[str], other_stores: Collection[str]) -> None:
    """Raises AnotherCluster where the local server was restored from this archive as another cluster's, whatever lives there, or
    from that in another store of the same configuration.
    """
    place = local.clone_of()
    if place not in {archive.place, *(f"{url}/{archive.layout.root}" for url in other_stores)}:
        return
    refusal = AnotherCluster(
        f"{place}: this cluster was restored from there as another one (walkeeper restore --from), and never archives there",
        hint="Its configuration is the other cluster's: give it another scope or prefix. If it takes that cluster's place for "
        "good, stop the other, then walkeeper takeover --accept.",
    )
    pass_or_raise(refusal, accepted)


def _another(archive: Archive, sign: Sign) -> AnotherCluster:
    return AnotherCluster(
        f"{archive.place}: another cluster's agent archives there, too: {life.who(archive.store, archive.layout, sign)}",
        hint="One of the two is a copy that runs with the other's configuration: give the copy another prefix or scope. If it is "
        "an agent of this very cluster that kept to an old DCS, restart that one. A leader that was refused and is to go on "
        "with the archive: stop the other, then walkeeper takeover --accept.",
    )
