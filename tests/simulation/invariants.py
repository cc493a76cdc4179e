"""What must hold after every step, checked against what the servers really wrote. All positions are bytes.

The first violation ends the run. ``stored_up_to`` is the one place that knows what counts as stored.
"""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from tests.core.values import history_text
from tests.simulation.wal import SIZE, Branch
from walkeeper.agent.archiver.elsewhere import GONE_SECONDS
from walkeeper.archive.codec import SUFFIXES, Codec
from walkeeper.archive.tail import StoredPiece, parse_key
from walkeeper.archive.tail_read import assemble
from walkeeper.core.beliefs import nothing_archived
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import HistoryFile, Segment, parse_wal_name
from walkeeper.core.receipt import Receipt
from walkeeper.core.record import Record, decode_record
from walkeeper.dcs.base import RECORD
from walkeeper.store.base import ObjectInfo

if TYPE_CHECKING:
    from tests.simulation.beside import Beside
    from tests.simulation.nodes import Node
    from tests.simulation.seams import NodeProcess
    from tests.simulation.threads import Process
    from tests.simulation.world import World

GAP_PATIENCE: Final = 60.0
"""``gap.patience`` here."""
JUST_NOW: Final = 10.0
"""Seconds: longer than it takes to ask all stores and members, and to conclude."""
NEVER_DELETED: Final = ("/wal/", "/history/", "/gap/", "/start/")


class Opening(Codec):
    """For looking at the same few pieces after each record that is written: what was unpacked once stays so for a while."""

    def decode(self, suffix: str, body: bytes, limit: int) -> bytes:
        return _decoded(suffix, bytes(body), limit, self.identity_file)


@lru_cache(maxsize=32)
def _decoded(suffix: str, body: bytes, limit: int, identity_file: Path | None) -> bytes:
    return Codec(identity_file=identity_file).decode(suffix, body, limit)


@dataclass(slots=True)
class Session:
    """One takeover and what came of it."""

    serial: int
    branch: Branch
    lsn: int


class Invariants:
    """Told of every step that takes effect."""

    def __init__(self, world: World | Beside) -> None:
        self.other: Invariants | None = None
        """Of the cluster's other store."""
        self.number_used_twice = False
        """A store that was away let two promotions choose one timeline number: then archiving may have to stop."""
        self.edited_to = 0
        """Where somebody put the record's frontier by hand."""
        self.another_lives = False
        """Whether another cluster keeps the archive alive, which nobody may then take over without a record."""
        self.deleted_by_hand: set[str] = set()
        """Keys of segments that were stored: what was believed of them then was right."""
        self.acknowledged_up_to: dict[int, Lsn] = {}
        """Of each branch, by its serial number: what its server was told to be durable."""
        self.commits_wait = False
        """Whether a person has put the store into synchronous_standby_names: when the first record says so."""
        self.gaps = 0
        self.takeovers = 0
        self.writes = 0
        self._world = world
        self._sessions: dict[str, Session] = {}
        self._newest = 0
        self._highest_timeline = 0
        self._start: Segment | None = None
        self._before: Session | None = None
        """The last one in an archive of which everything was lost."""
        self._suspected: dict[str, int] = {}
        """The lowest number that each node has called suspected."""
        self._first_looked: dict[tuple[str, str], float] = {}
        self._refused: set[tuple[str, str, Segment]] = set()
        self._looked: dict[tuple[str, str], float] = {}
        self._answered: dict[str, float] = {}
        self._stored_at: dict[str, float] = {}
        self._opened: dict[str, tuple[bytes, bytes]] = {}
        self._pieces: dict[str, dict[str, StoredPiece]] = {}
        """By their segment's name and their key."""
        self._right: dict[tuple[str, int], tuple[bytes, bool]] = {}
        self._checked: dict[tuple[int, int], int] = {}

    def violated(self, what: str) -> None:
        if self._world.loop.problem is None:
            self._world.loop.note("world", "VIOLATED:", what)
            self._world.loop.problem = AssertionError(what)

    def forget(self) -> None:
        """What was in the store, which is most of a world."""
        for contents in (self._opened, self._right, self._world.store.objects):
            contents.clear()

    def dcs_changed_by_hand(self) -> None:
        """Somebody wiped the record, or put an older one back: who owned it before may own it again."""
        self._highest_timeline = 0
        self._newest = 0
        if not any(key.startswith(self._world.layout.starts) for key in self._world.store.objects):
            self._start = None  # nothing was archived, and nothing says where it was to begin

    def all_lost(self) -> None:
        """Store, DCS and spools, at this moment."""
        newest = max(self._sessions.values(), key=lambda session: session.serial, default=None)
        if newest is not None:
            self._before = newest
        self.dcs_changed_by_hand()
        self._start = None
        self.gaps = 0
        for known in (self._sessions, self._stored_at, self._pieces, self._checked, self._right, self.deleted_by_hand):
            known.clear()

    def _check_start(self, node: Node, start: Segment) -> None:
        """What the archive had that was lost ends where the next one begins, or behind."""
        before, slot = self._before, node.slot
        if before is None or slot is None or slot.lost or not slot.sound:
            return
        shared = min(before.lsn, node.branch.parts_from(before.branch))
        if slot.restart_lsn <= shared < start.start and node.has_from(node.branch, shared // SIZE):
            self.violated(
                f"an archive begins at {start}, another one ended at {Lsn(shared)}, and pg_wal has all between"
            )

    # ------------------------------------------------------------------------------------------------------- P1, P2, P4

    def created(self, process: NodeProcess, key: str) -> None:
        self._stored_at.setdefault(key, self._world.loop.now)
        if key.startswith(self._world.layout.gaps):
            self.gaps += 1
            first, _, end = key.rpartition("/")[2].removesuffix(".json").partition("-")
            self._gap_recorded(process, Segment.parse(first, SIZE), int(end, 16))
        if (piece := self._piece(key)) is not None:
            self._pieces.setdefault(piece.segment, {})[key] = piece
            number = Segment.parse(piece.segment, SIZE).number
            if not any(self._says(branch, number, piece) for branch in self._world.branches):
                self.violated(f"{key} is stored, and no server wrote that")

    def created_elsewhere(self, process: NodeProcess, key: str) -> None:
        """In the empty store that the agents are shown: whatever makes *absent* provable there, or says that WAL is lost."""
        if any(part in f"/{key}" for part in ("/start/", "/gap/")):
            self.violated(f"{process.name} creates {key} in a store that has nothing of what the record speaks of")

    def deleted(self, process: NodeProcess, key: str) -> None:
        """A piece, once something else that is stored says the same: the complete segment, of whatever timeline, or a
        longer piece of the same owner."""
        if any(part in f"/{key}" for part in NEVER_DELETED):
            self.violated(f"{key} is deleted from the store")
        store, found = self._world.store.objects, self._piece(key)
        folder, _, name = key.rpartition("/")
        if "/life/" in key and not any(other > key for other in store if other.startswith(f"{folder}/")):
            self.violated(f"{process.name} deletes the newest sign of life, {name}")
        if found is None or key not in store:
            return
        plain, piece = self._plain(key, found.suffix), found.piece
        number = Segment.parse(found.segment, SIZE).number
        for branch in self._world.branches:
            if self._is_stored(branch, number) and branch.written_out(number)[piece.begin : piece.end] == plain:
                return
        for other, stored in self._pieces.get(found.segment, {}).items():
            longer = stored.piece
            if other == key or other not in store or longer.owner != piece.owner:
                continue
            part = self._plain(other, stored.suffix)[piece.begin - longer.begin : piece.end - longer.begin]
            if longer.begin <= piece.begin and piece.end <= longer.end and part == plain:
                return
        self.violated(f"{process.name} deletes {key}, which nothing else that is stored says")

    def _piece(self, key: str) -> StoredPiece | None:
        return parse_key(ObjectInfo(key, 0, {})) if key.startswith(self._world.layout.tails) else None

    def _plain(self, key: str, suffix: str) -> bytes:
        """Of an object that is stored."""
        body = self._world.store.objects[key][0]
        if self._opened.get(key, (b"", b""))[0] is not body:
            self._opened[key] = (body, self._world.archive.codec.decode(suffix, body, SIZE))
        return self._opened[key][1]

    def _says(self, branch: Branch, number: int, stored: StoredPiece) -> bool:
        """Whether that piece has what the branch has there, under its name."""
        if branch.segment(number).name != stored.segment:
            return False
        body = self._world.store.objects[stored.key][0]
        known = self._right.get((stored.key, branch.serial))
        if known is None or known[0] is not body:
            piece, plain = stored.piece, self._plain(stored.key, stored.suffix)
            known = (body, branch.written_out(number)[piece.begin : piece.end] == plain)
            self._right[stored.key, branch.serial] = known
        return known[1]

    def stored_up_to(self, branch: Branch, start: int) -> Lsn:
        """The first byte of that branch's chain from ``start`` on that is neither stored as it was written nor in a gap.

        In the first segment that is not stored as a whole those bytes count that one owner's pieces have from its start on.
        """
        number = max(start // SIZE, self._checked.get((branch.serial, start), 0))
        gaps = self._gaps()
        while (segment := branch.segment(number)) and (
            self._is_stored(branch, number)
            or any(first.timeline == segment.timeline and first.number <= number < end for first, end in gaps)
        ):
            number += 1
        self._checked[branch.serial, start] = number
        return Lsn(number * SIZE + self._tail_end(branch, number))

    def _tail_end(self, branch: Branch, number: int) -> int:
        """How far the best chain of pieces in that segment goes that continue each other and have the branch's bytes."""
        reached: dict[str, set[int]] = {}
        stored = self._pieces.get(branch.segment(number).name, {})
        there = [piece for key, piece in stored.items() if key in self._world.store.objects]
        for found in sorted(there, key=lambda found: found.piece):
            ends = reached.setdefault(found.piece.owner, {0})
            if found.piece.begin in ends and self._says(branch, number, found):
                ends.add(found.piece.end)
        return max((max(ends) for ends in reached.values()), default=0)

    def _is_stored(self, branch: Branch, number: int) -> bool:
        segment = branch.segment(number)
        for suffix in SUFFIXES:
            key = self._world.layout.file(segment, suffix)
            if key in self._world.store.objects:
                return self._plain(key, suffix) == bytes(branch.plain(number))
            if key in self.deleted_by_hand:
                return True
        return False

    def _gaps(self) -> list[tuple[Segment, int]]:
        if not self.gaps:
            return []
        names = [key.rpartition("/")[2] for key in self._world.store.objects if key.startswith(self._world.layout.gaps)]
        parts = [name.removesuffix(".json").partition("-") for name in names]
        return [(Segment.parse(first, SIZE), int(end, 16) // SIZE) for first, _, end in parts]

    # ------------------------------------------------------------------------------------------------------------- P4, P8

    def record_written(self, process: NodeProcess, document: bytes) -> None:
        record = decode_record(document)
        self.commits_wait = self.commits_wait or record.durability == "store"
        self.writes += 1
        session = self._sessions.get(record.session)
        if session is None and record.closed_by:
            session = self._closed(process, record)
        elif session is None:
            session = self._begin_session(process, record)
        elif record.position < session.lsn:
            self.violated(f"the frontier moved back within one ownership, to {record.lsn}")
        if session.serial < self._newest:
            self.violated(f"{record.owner} wrote the record after another takeover")
        session.lsn = record.position
        start = Segment.parse(record.start, SIZE)
        if self._start is not None and start.number > self._start.number:
            self.violated(f"the archive's start moved up, from {self._start} to {start}")
        if self._start is None:
            self._check_start(process.node, start)
        self._start = self._start or start
        self._check_below(session.branch, start, record)

    def _closed(self, process: NodeProcess, record: Record) -> Session:
        """Before a promotion: all is as it was, and its owner may write no more."""
        before = next(found for name, found in self._sessions.items() if name[:12] == record.session[:12])
        if record.closed_by != process.node.name:
            self.violated(f"{process.node.name} ended the owner's session in the name of {record.closed_by}")
        ended = self._sessions[record.session] = Session(before.serial, before.branch, before.lsn)
        return ended

    def commits_acknowledged(self, node: Node, branch: Branch, lsn: Lsn) -> None:
        """That they are in the store, in one unbroken run of their timeline; and on every timeline that came from it."""
        if self.number_used_twice:
            return
        start = max(branch.begun, self._start.start if self._start is not None else 0)
        stored = max(  # an answer may arrive late, when a branch that came from this one has stored the same again
            min(self.stored_run(each, start), each.parts_from(branch)) for each in self._world.branches
        )
        if lsn > stored:
            self.violated(f"{node.name} acknowledges {lsn} of {branch}, and the store has it up to {Lsn(stored)}")
        self.acknowledged_up_to[branch.serial] = max(lsn, self.acknowledged_up_to.get(branch.serial, Lsn(0)))
        leader = self._world.leader
        if (
            leader is not None
            and leader.primary
            and leader.branch is not branch
            and leader.branch.parts_from(branch) < lsn
        ):
            self.violated(
                f"{node.name} acknowledges {lsn} of {branch}, and {leader.name} leads on {leader.branch} by now"
            )
        self._has_what_was_acknowledged(branch, "acknowledges", lsn)

    def branched(self, branch: Branch) -> None:
        """A promotion has all that was acknowledged before it, on whatever branch."""
        if not self.number_used_twice:
            self._has_what_was_acknowledged(branch, "begins")

    def _has_what_was_acknowledged(self, branch: Branch, does: str, up_to: int = sys.maxsize) -> None:
        """But for a late answer of what both have."""
        for other in self._world.branches:
            had = self.acknowledged_up_to.get(other.serial, 0)
            if other is not branch and branch.parts_from(other) < min(had, up_to):
                self.violated(f"{branch} {does} without what was acknowledged up to {Lsn(had)} of {other}")

    def stored_run(self, branch: Branch, start: int) -> Lsn:
        """As ``stored_up_to``, over segments, too, that are whole by their pieces alone."""
        reached = self.stored_up_to(branch, start)
        while reached % SIZE == 0 and self._tail_end(branch, reached // SIZE - 1) == SIZE:
            onward = self.stored_up_to(branch, reached)
            if onward == reached:
                break
            reached = onward
        return reached

    def taken_without_a_record(self, process: NodeProcess) -> None:
        if self.another_lives:
            self.violated(f"{process.name} took over without a record, an archive that another cluster keeps alive")

    def _begin_session(self, process: NodeProcess, record: Record) -> Session:
        self.takeovers += 1
        node, world = process.node, self._world
        branch = node.branch
        if branch.timeline != record.timeline:  # promoted again since it looked
            branch = next((b for b, _ in branch.ancestry() if b.timeline == record.timeline), branch)
        start = Segment.parse(record.start, SIZE).start
        while branch.lived is not None and self.stored_up_to(branch, start) < record.position:
            branch = (
                branch.lived
            )  # its volume went back while it compared: true of the life before, and the last that it writes
        if branch.timeline != record.timeline or record.owner != node.name:
            self.violated(f"{node.name} wrote a record of timeline {record.timeline} for {record.owner}")
        if record.timeline < self._highest_timeline:
            self.violated(f"ownership went back from timeline {self._highest_timeline} to {record.timeline}")
        if world.guards and (world.dcs.leader is None or world.dcs.leader.name != record.owner):
            self.violated(f"{record.owner} took the record over, and does not lead")
        self._highest_timeline = record.timeline
        self._newest = self.takeovers
        session = self._sessions[record.session] = Session(self.takeovers, branch, 0)
        return session

    def _check_below(self, branch: Branch, start: Segment, record: Record) -> None:
        stored = self.stored_up_to(branch, start.start)
        if stored < record.position:
            self.violated(
                f"the record says {record.lsn} of {branch}, and {branch.segment(stored // SIZE)} from {stored} on is not stored"
            )
        if record.position % SIZE:
            self._check_restore(branch, record)
        for ancestor, _ in branch.ancestry()[1:]:
            if ancestor.timeline == 1:
                continue  # a second life of the first one
            key = self._world.layout.file(HistoryFile(ancestor.timeline), "")
            found = self._world.store.objects.get(key)
            if found is None or found[0] != history_text(ancestor.written):
                self.violated(f"the record says timeline {record.timeline}, and {key} is not stored as it is")

    def _check_restore(self, branch: Branch, record: Record) -> None:
        """That restore-wal would give all of the open segment that the record claims, and nothing that is not so."""
        world, number = self._world, record.position // SIZE
        histories = [key for key in world.store.objects if key.startswith(world.layout.histories)]
        newest = max((int(key[-16:-8], 16) for key in histories), default=1)
        if newest > record.timeline or self.number_used_twice or self._is_stored(branch, number):
            return  # a stale owner's, or it has what two servers say
        found = assemble(world.store, world.layout, Opening(identity_file=world.identity), branch.segment(number).name)
        if found is None or len(found.plain) < record.position % SIZE:
            end = branch.segment(number).start + (len(found.plain) if found else 0)
            self.violated(f"the record says {record.lsn}, and a restore gets no further than {Lsn(end)}")
        elif branch.written_out(number)[: len(found.plain)] != found.plain:
            self.violated(f"a restore of {found.segment} from its tail gets what {branch} does not have there")

    # -------------------------------------------------------------------------------------------- slot ≤ record ≤ stored

    def slot_advanced(self, process: NodeProcess, lsn: int) -> None:
        """No further than a record that was written by this node: Patroni carries it to the others. Of two stores' records the
        further one, where the disk runs short.
        """
        if self.number_used_twice:
            return  # two timelines of one number cannot be told apart by looking at the server
        furthest = self._recorded(process.node.branch)
        if self.other is not None and process.node.is_short:
            furthest = max(furthest, self.other._recorded(process.node.branch))
        if lsn > furthest:
            self.violated(f"{process.node.name}'s slot moved to {Lsn(lsn)}, beyond every record of its ancestry")

    def _recorded(self, branch: Branch) -> int:
        return max((min(s.lsn, branch.parts_from(s.branch)) for s in self._sessions.values()), default=0)

    def spool_removed(self, process: NodeProcess, receipt: Receipt) -> None:
        """Only what is stored and recorded; or stored, behind WAL that this node suspected to be lost."""
        segment = receipt.segment
        for session in self._sessions.values():
            if session.branch.history.contains(segment) and session.lsn >= segment.end:
                if not self._is_stored(session.branch, segment.number):
                    self.violated(f"{segment} is removed from {process.node.name}'s spool, and not stored")
                return
        branch = process.node.branch
        behind = self._suspected.get(process.node.name, segment.number) < segment.number
        edited = self.edited_to >= segment.end
        # Its server may have been rewound just now, to a branch without that segment.
        branches = [branch] if branch.history.contains(segment) else [each.branch for each in self._sessions.values()]
        stored = any(each.history.contains(segment) and self._is_stored(each, segment.number) for each in branches)
        if not ((behind or edited) and stored):
            self.violated(f"{segment} is removed from {process.node.name}'s spool before the record has passed it")

    def spool_dropped(self, process: NodeProcess, segment: Segment, content: bytes) -> None:
        """Of what may not be stored yet only what pg_wal of this server has and its slot keeps."""
        node = process.node
        if content.rstrip(b"\0") != node.pg_wal.content(segment.name):
            self.violated(f"{segment} is dropped from {node.name}'s spool, and pg_wal has not the same")
        kept = node.slot is not None and node.slot.keeps(segment.end - 1)
        if not kept and not self._is_stored(node.branch, segment.number):
            self.violated(f"{segment} is dropped from {node.name}'s spool, and no slot keeps it")

    def acknowledged(self, node: Node, name: str, given: bytes) -> None:
        """PostgreSQL was told that the archive has a file: with the bytes that it had, then or since (it may be gone)."""
        file = parse_wal_name(name, SIZE)
        right = {given, node.pg_wal.content(name)} - {b""}
        store = self._world.store.objects
        if isinstance(file, HistoryFile):
            stored = [store[key][0] for key in [self._world.layout.file(file, "")] if key in store]
        else:
            keys = {self._world.layout.file(file, suffix): suffix for suffix in SUFFIXES}
            stored = [self._plain(key, suffix).rstrip(b"\0") for key, suffix in keys.items() if key in store]
        if right.intersection(stored):
            return
        self.violated(f"{node.name}'s archive_command says that {name} is stored, and it is not, or with other bytes")

    def recycled(self, node: Node, segment: Segment) -> None:
        """A sound slot keeps, on the surviving branch, everything that is not archived."""
        world = self._world
        document = world.dcs.record.document if world.dcs.record else None
        if document is None or node.slot is None or node.slot.lost or not node.slot.sound:
            return
        if world.leader is None or world.leader.branch is not node.branch or not node.branch.history.contains(segment):
            return
        try:
            record = decode_record(document)
        except Exception:  # noqa: BLE001 - garbage by a fault
            return
        start = Segment.parse(record.start, SIZE)
        if segment.number < start.number or self._is_stored(node.branch, segment.number):
            return
        if self.stored_up_to(node.branch, start.start) >= segment.end or segment.end <= self._first_start:
            return
        if self.other is not None and nothing_archived(record):
            return  # it began beside the other one, which is further
        ever_short = any(each.room is not None or each.short_until > 0 for each in world.nodes)
        if self.other is not None and ever_short and self.other._is_stored(node.branch, segment.number):
            return
        self.violated(f"{node.name} recycled {segment}, which is not archived, with a sound slot")

    @property
    def _first_start(self) -> int:
        return self._start.start if self._start else 0

    # ---------------------------------------------------------------------------------------------------------------- gaps

    def looked(self, host: Node, key: str) -> None:
        """``host`` asked the store whether it has it."""
        self._looked[host.name, key] = self._world.loop.now
        self._first_looked.setdefault((host.name, key), self._world.loop.now)

    def suspected(self, host: Node, first: Segment) -> None:
        """``host`` has found that its server has recycled ``first``, before it was stored."""
        self._suspected[host.name] = min(first.number, self._suspected.get(host.name, first.number))

    def refused(self, host: Node, member: Node, wanted: Segment) -> None:
        """``member`` told ``host`` that it has removed that segment."""
        self._refused.add((host.name, member.name, wanted))

    def _gap_recorded(self, process: NodeProcess, first: Segment, end: int) -> None:
        """Only what is neither in the store nor in pg_wal, and what each member has said no to, or was waited for."""
        node, world = process.node, self._world
        for number in range(first.number, end // SIZE):
            segment = Segment(first.timeline, number, SIZE)
            if node.has(segment):
                self.violated(f"{segment} is called a gap, and lies in {node.name}'s pg_wal")
            if self._tail_end(node.branch, number) == SIZE and node.branch.segment(number) == segment:
                self.violated(f"{segment} is called a gap, and its pieces are all of it")
            others = [other for other in world.nodes if other is not node]
            key = world.layout.file(segment, ".zst")
            waited = world.loop.now - self._first_looked.get((node.name, key), world.loop.now)
            proved = all((node.name, other.name, segment) in self._refused for other in others)
            if not proved and waited < GAP_PATIENCE - 15 and not node.is_short:
                self.violated(f"{segment} is called a gap, and not every member has said no to it")
                return
            if (
                self.other is not None
                and self.other.promises(segment)
                and not (node.is_short and self.other.is_silent(node))
            ):
                self.violated(f"{segment} is called a gap, and the record of the other store says that it has it")
            keys = [world.layout.file(segment, suffix) for suffix in SUFFIXES]
            looked = min(
                (self._looked[node.name, each] for each in keys if (node.name, each) in self._looked), default=0.0
            )
            if any(self._stored_at.get(each, 1e9) < looked for each in keys):
                self.violated(f"{segment} is called a gap, and was in the store when {node.name} looked")

    def answered(self, host: Node) -> None:
        """The store, to something that ``host`` asked."""
        self._answered[host.name] = self._world.loop.now

    def is_silent(self, host: Node) -> bool:
        """Whether the store has said nothing to it for so long that no disk is filled for what it has."""
        return self._world.loop.now - self._answered.get(host.name, 0.0) > GONE_SECONDS - JUST_NOW

    def promises(self, segment: Segment) -> bool:
        """Whether it is stored, and the last record said so. Not just now: it may have come since somebody was told no."""
        keys = {self._world.layout.file(segment, suffix) for suffix in SUFFIXES} & self._world.store.objects.keys()
        stored = any(self._stored_at.get(key, 0.0) < self._world.loop.now - JUST_NOW for key in keys)
        last = max(self._sessions.values(), key=lambda session: session.serial, default=None)
        return stored and last is not None and last.branch.history.contains(segment) and segment.end <= last.lsn

    # ---------------------------------------------------------------------------------------------------------- the agents

    def thread_died(self, process: Process, name: str, problem: BaseException) -> None:
        where = "".join(traceback.format_exception(problem))
        self.violated(f"{process.name}: thread {name} died: {type(problem).__name__}: {problem}\n{where}")


def record_of(world: World, key: str = RECORD) -> Record | None:
    """The record as it stands; None where there is none that can be read."""
    found = world.dcs.documents.get(key)
    if found is None:
        return None
    try:
        return decode_record(found.document)
    except (msgspec.MsgspecError, ValueError, Exception):  # noqa: BLE001
        return None
