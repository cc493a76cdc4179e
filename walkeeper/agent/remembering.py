"""What the cluster remembers in the DCS beside the record (``core.remembered``): recalled by an agent that starts, written by the
leader's. Nothing waits for it: where it cannot be read or written, that is told, and everything else goes on. But for second
lives: a takeover has to know of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from msgspec.structs import replace

from walkeeper.agent.archiver.comparing import other_life, shared_up_to
from walkeeper.agent.archiver.local_wal import LocalWal
from walkeeper.agent.problems import Problems
from walkeeper.archive import histories
from walkeeper.archive.open import Archives
from walkeeper.archive.write import Archive
from walkeeper.core.about import About
from walkeeper.core.floor import written
from walkeeper.core.lsn import Lsn
from walkeeper.core.members import Member
from walkeeper.core.record import Record
from walkeeper.core.remembered import LONGEST_NAME, Remembered, Text, decode, encode, recalled, seen, without_moments
from walkeeper.core.second_life import SecondLife
from walkeeper.dcs.base import REMEMBERED, RecordStore, Versioned
from walkeeper.errors import (
    BadRecord,
    CannotTell,
    CasConflict,
    DcsError,
    DcsUnavailable,
    Refused,
    StoreError,
    WalkeeperError,
    WrongTimeline,
)
from walkeeper.lib import events
from walkeeper.lib.clock import Clock, now_utc

WRITTEN_SECONDS: Final = 60.0
"""Seconds between two writes of one owner: members may come and go all the time."""
AGAIN_SECONDS: Final = 10.0
"""Seconds to the next try after one that wrote nothing."""
ATTEMPTS: Final = 3


class Remembering:
    """``records`` is the document's key; None: nothing is remembered. For the takeover's thread, and after it the observer's."""

    def __init__(
        self, name: str, records: RecordStore | None, archives: Archives, problems: Problems, clock: Clock
    ) -> None:
        self._name = name
        self.records = records
        self._archives = archives
        self._problems = problems
        self._clock = clock
        self._texts: dict[int, Text] = {}
        """Of the server's timeline and its ancestors, as its last takeover had them."""
        self.owned_before = False
        """Whether the archive of the server that is taken over had an owner."""
        self._noted: SecondLife | None = None
        """The second life that this server was found to be of, with what it shares."""
        self._unwritten: tuple[int, SecondLife] | None = None
        """A cluster, and what could not be noted of it yet."""
        self._wrong_timeline: tuple[object, int] = None, 0
        """In which situation the store was asked last whether this server's timeline has two lives, and its number or 0."""
        self._written: object = None
        self._next = 0.0
        self._conflicts = False

    def close(self) -> None:
        if self.records is not None:
            self.records.close()

    def members(self) -> dict[str, Member]:
        """Those that the last owner's agent saw. Raises DcsUnavailable; who may not read the document knows of none."""
        found = self._read()
        return {} if found is None else recalled(found.members, self._clock.monotonic(), now_utc())

    def _read(self) -> Remembered | None:
        try:
            return None if self.records is None else _decoded(self.records.read())
        except DcsUnavailable:
            raise
        except DcsError as problem:
            self._problems.report(About.REMEMBERED, _named(problem))
            return None

    @contextmanager
    def second_lives(
        self, archive: Archive, local: LocalWal, alone: Callable[[], None] = lambda: None, about: object = None
    ) -> Iterator[tuple[SecondLife, ...]]:
        """For a takeover by that server, which must not be of any of them. Where it is refused as yet another one, that is noted,
        at each refusal: the next server that is promoted may have come from this one. So is what ``alone``, which asks no store,
        is refused for, where the store is away. ``about``: the situation, as Refusals keeps it. Raises DcsUnavailable.
        """
        found, system = self._read(), str(local.server.system_identifier)
        known = found.second_lives if found is not None and found.system_identifier == system else ()
        self.owned_before = found is not None and found.system_identifier == system and bool(found.members)
        try:
            yield known
            self._unwritten = None
        except Refused as problem:
            if isinstance(problem, WrongTimeline):
                problem.second_life_of = self._other_life(archive, local, about)
            if problem.second_life_of:
                self._note(problem.second_life_of, archive, local, known)
            raise
        except StoreError:
            try:
                alone()
            except WalkeeperError as problem:
                if isinstance(problem, Refused) and problem.second_life_of:
                    self._note(problem.second_life_of, archive, local, known)
            raise

    def _other_life(self, archive: Archive, local: LocalWal, about: object) -> int:
        """As ``other_life``. Asked once in a situation: mostly it is an old primary that waits to be rewound, for however long. A
        server in recovery has nobody's WAL but its primary's.
        """
        if local.server.in_recovery:
            return 0
        if about is None or self._wrong_timeline[0] != about:
            try:
                self._wrong_timeline = about, other_life(archive, local)
            except WalkeeperError as problem:
                events.failure("second_life_not_compared", problem)
                return 0
        return self._wrong_timeline[1]

    def _note(self, timeline: int, archive: Archive, local: LocalWal, known: Collection[SecondLife]) -> None:
        life = self._life(timeline, Lsn(0), local.server.lsn)
        noted = self._noted
        if noted is None or noted.timeline != timeline or noted.seen_at > local.server.lsn:
            if not any(each.timeline == timeline for each in known):
                self._write_life(local.server.system_identifier, life)  # the store may be away, for long
            try:
                life = replace(life, shared=str(shared_up_to(archive, local)))
            except WalkeeperError as problem:
                events.failure("second_life_not_compared", problem)
            self._noted = noted = life if life.shared_up_to else None
        self._write_life(local.server.system_identifier, noted or life)

    def _life(self, timeline: int, shared: Lsn, seen: Lsn) -> SecondLife:
        return SecondLife(timeline, str(shared), str(seen), self._name[:LONGEST_NAME], written(now_utc()))

    def _write_life(self, system_identifier: int, life: SecondLife) -> None:
        if self.records is None:
            return
        self._unwritten = system_identifier, life
        try:
            _, done = self._change(system_identifier, lambda before: before.with_life(life))
            if not done:
                raise CasConflict(f"the second life of timeline {life.timeline} is not noted: others write, or lead")
        except DcsError as problem:
            self._problems.report(About.REMEMBERED, _named(problem), grace=True)
        else:
            self._unwritten = None
            self._problems.clear(About.REMEMBERED)

    def note_again(self) -> None:
        """At each look of a leader's whose takeover was refused: what could not be noted. The observer's."""
        if self._unwritten is not None:
            self._write_life(*self._unwritten)

    def follow(self) -> None:
        """Another member leads."""
        self._unwritten = None
        self._problems.clear(About.REMEMBERED)

    def before_takeover(self, local: LocalWal) -> dict[int, bytes]:
        """Note that this server's timeline is used, before the store is asked for anything: it may be away, and the next server
        that is promoted must not take the same number. Returns older ones that this server lacks: the store should have them.
        """
        layout, trust = self._archives.layout(local.server.system_identifier), self._archives.trust
        self._texts = {
            timeline: histories.remembered(layout, trust, timeline, text)
            for timeline, text in _own_texts(local).items()
        }

        def noted(before: Remembered) -> Remembered:
            return before.with_texts({each: text for each, text in self._texts.items() if before.text(each) is None})

        try:
            found, _ = self._change(layout.system_identifier, noted, replaces=False)
        except DcsError as problem:
            self._problems.report(About.REMEMBERED, _named(problem), grace=True)
            return {}
        older = {}
        for text in found.texts:
            if text.timeline < local.server.history.timeline and text.timeline not in local.histories:
                try:
                    older[text.timeline] = histories.recalled(layout, trust, text)
                except (CannotTell, Refused) as problem:
                    events.failure("remembered_history_damaged", problem)
        return older

    def tend(
        self,
        record: Record,
        members: Mapping[str, Member],
        there: Collection[str],
        lives: Mapping[SecondLife, SecondLife | None] | None = None,
        conflict_at: Lsn | None = None,
    ) -> None:
        """At each look of the owner's: the document says what there is, by now. ``there``: the members whose keys are;
        ``lives``: what its takeover made of second lives; ``conflict_at``: how far its WAL is, where the store has
        other bytes of what it archives: then it is of one itself.
        """
        now = self._clock.monotonic()
        saw = seen(members.values(), there, now, now_utc())
        about = record.session, without_moments(saw), conflict_at is not None
        if conflict_at is not None and not self._conflicts:
            self._next = now
        self._conflicts = conflict_at is not None
        if self.records is None or about == self._written or now < self._next:
            return
        self._next = now + AGAIN_SECONDS
        texts = {
            timeline: text
            if timeline < record.timeline or hashlib.sha256(text.text).hexdigest() == record.history_sha256
            else None  # the store has other words for it
            for timeline, text in self._texts.items()
        }

        def by_now(before: Remembered) -> Remembered:
            after = replace(before.with_texts(texts), members=saw).with_lives(lives or {})
            if conflict_at is None:
                return after
            return after.with_life(self._life(record.timeline, record.position.floor(record.size), conflict_at))

        try:
            _, done = self._change(int(record.system_identifier), by_now)
        except DcsError as problem:
            self._problems.report(About.REMEMBERED, _named(problem), grace=True)
            return
        self._problems.clear(About.REMEMBERED)
        if done:
            self._written, self._next = about, now + WRITTEN_SECONDS

    def _change(
        self, system_identifier: int, change: Callable[[Remembered], Remembered], *, replaces: bool = True
    ) -> tuple[Remembered, bool]:
        """What is remembered now, and whether it is as changed: only the leader writes. ``replaces``: another cluster's, too.

        Raises DcsError.
        """
        for _ in range(ATTEMPTS):
            found = self.records.read() if self.records is not None else None
            known, own = _decoded(found), Remembered(system_identifier=str(system_identifier))
            before = known if known is not None and known.system_identifier == own.system_identifier else own
            after = change(before)
            if after == before:
                return before, True
            leader = self.records.leader() if self.records is not None else None
            if self.records is None or leader is None or leader.name != self._name:
                return before, False
            if known is not None and before is own and not replaces:
                return before, False
            try:
                self.records.write(encode(after), found, guard=leader)
            except CasConflict:
                continue
            _tell_new(before, after)
            return after, True
        return before, False


def _tell_new(before: Remembered, after: Remembered) -> None:
    known = {life.timeline for life in before.second_lives}
    for life in after.second_lives:
        if life.timeline not in known:
            hint = "Whoever leads later on WAL of that timeline has to show by its bytes that it is not of this server's life."
            events.warning("second_life_noted", timeline=life.timeline, seen=life.seen, member=life.member, hint=hint)


def _decoded(found: Versioned | None) -> Remembered | None:
    if found is None:
        return None
    try:
        return decode(found.document)
    except BadRecord as problem:
        events.failure("remembered_unreadable", problem)
        return None


def _named(problem: DcsError) -> DcsError:
    return type(problem)(f"{REMEMBERED} in the DCS: {problem}", hint=problem.hint)


def _own_texts(local: LocalWal) -> dict[int, bytes]:
    """Of the server's timeline, and of its ancestors those that it begins with, word for word, as PostgreSQL copied them."""
    own = local.server.history
    text = local.histories.get(own.timeline, b"")
    found = {timeline: local.histories.get(timeline, b"") for timeline in own.timelines if timeline > 1}
    return {timeline: each for timeline, each in found.items() if each and text.startswith(each)}
