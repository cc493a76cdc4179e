"""Deliberate bugs, each of which the schedules must notice. One that can no longer be put in fails its test loudly.

The later ones were bugs: docs/internals/track_record.md tells of them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, Final

import msgspec
from pytest import MonkeyPatch  # noqa: PT013 - a type

import walkeeper.agent.archiver.beliefs
import walkeeper.agent.archiver.commit
import walkeeper.agent.archiver.comparing
import walkeeper.agent.archiver.holding
import walkeeper.agent.archiver.lease
import walkeeper.agent.archiver.leftovers
import walkeeper.agent.archiver.lost_wal
import walkeeper.agent.archiver.ownership
import walkeeper.agent.archiver.spool
import walkeeper.agent.archiver.streaming
import walkeeper.archive.life
import walkeeper.archive.tail
import walkeeper.archive.write
import walkeeper.core.history
import walkeeper.core.life
import walkeeper.core.suspicion
import walkeeper.promote.before
from tests.parts.ways import Way
from tests.simulation.seams import NodeClock, ReceiverView, RecordView, agent
from tests.simulation.wal import SIZE, readable
from walkeeper.agent.archive_push import Pushing
from walkeeper.agent.archiver.archiver import Archiver
from walkeeper.agent.archiver.audit import Audit
from walkeeper.agent.archiver.beliefs import Belief
from walkeeper.agent.archiver.commit import Commit
from walkeeper.agent.archiver.elsewhere import OtherStores
from walkeeper.agent.archiver.from_pg_wal import FromPgWal
from walkeeper.agent.archiver.lease import Lease
from walkeeper.agent.archiver.leftovers import Leftovers
from walkeeper.agent.archiver.life import Watcher
from walkeeper.agent.archiver.local_wal import LocalWal
from walkeeper.agent.archiver.lost_wal import LostWal
from walkeeper.agent.archiver.member_wal import Members
from walkeeper.agent.archiver.one_run import OneRun
from walkeeper.agent.archiver.ownership import Ownership, take_over
from walkeeper.agent.archiver.received import Received
from walkeeper.agent.archiver.spool import Spool
from walkeeper.agent.archiver.streaming import Streaming
from walkeeper.agent.archiver.synchronous import Synchronous
from walkeeper.agent.archiver.tail import Tail
from walkeeper.agent.archiver.uploads import Uploads
from walkeeper.agent.observer import Observer
from walkeeper.agent.seen_archive import SeenArchive
from walkeeper.archive.contents import Contents
from walkeeper.archive.tail import StoredPiece
from walkeeper.archive.write import Archive, Packed
from walkeeper.core.frontier import Frontier
from walkeeper.core.history import History
from walkeeper.core.hold_slot import SlotState
from walkeeper.core.hold_slot import keeps as core_keeps
from walkeeper.core.life import LifeWatch
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt, TailReceipt
from walkeeper.core.record import Record
from walkeeper.core.suspicion import Suspicions, Why
from walkeeper.core.synchronous import LEASE, LEASE_OVER, RENEWED, Acknowledgement, Promise, StoredRun
from walkeeper.core.tail import Piece, due_for_merge
from walkeeper.core.takeover import LocalServer, common_end, resume_at
from walkeeper.dcs.base import Leader
from walkeeper.dcs.claim import decoded
from walkeeper.errors import (
    BadHistory,
    CasConflict,
    Conflict,
    DcsError,
    DcsUnavailable,
    HeldBack,
    SpoolFull,
    StoreUnavailable,
    WrongTimeline,
)
from walkeeper.postgres.pg_receivewal import Written
from walkeeper.promote.before import Before
from walkeeper.push.place import Place
from walkeeper.store.base import AlreadyThere


@dataclasses.dataclass(frozen=True, slots=True)
class Mutation:
    """``put_in`` is undone by pytest. ``kinds``: the faults of the schedules that must notice it; none for all.

    ``first``: the seed to begin with, to be quick; if it no longer notices it, one of the next will.
    """

    put_in: Callable[[MonkeyPatch], None]
    kinds: tuple[str, ...]
    first: int
    archiver: Way


MUTATIONS: Final[dict[str, Mutation]] = {}


def mutation(
    *kinds: str, first: int = 0, archiver: Way = "streaming"
) -> Callable[[Callable[[MonkeyPatch], None]], None]:
    def note(put_in: Callable[[MonkeyPatch], None]) -> None:
        MUTATIONS[put_in.__name__] = Mutation(put_in, kinds, first, archiver)

    return note


def _receipt(segment: Any) -> Receipt:
    return Receipt(segment, "0" * 64, 0, was_present=False)


# ------------------------------------------------------------------------------------------------------- what was stored once


@mutation("delete_object", first=6)
def believe_for_ever_that_what_was_stored_is_there(patch: MonkeyPatch) -> None:
    patch.setattr(Audit, "look", lambda *_: None)


@mutation("encrypt", "encrypt", "jump_slot", "freeze_host", "power_loss", "switchover", first=17000030)
def look_for_no_other_suffix(patch: MonkeyPatch) -> None:
    patch.setattr(walkeeper.archive.write, "SUFFIXES", (".zst",))


# ----------------------------------------------------------------------------------------------------- PUT before everything


@mutation()
def acknowledge_before_the_store_has_it(patch: MonkeyPatch) -> None:
    real = Uploads._ship

    def ship(self: Uploads, segment: Any, stopping: Any) -> None:
        self._done.put(_receipt(segment))
        real(self, segment, stopping)

    patch.setattr(Uploads, "_ship", ship)


@mutation(first=14)
def take_no_answer_for_a_yes(patch: MonkeyPatch) -> None:
    real = Archive.put

    def put(self: Archive, packed: Packed, *listed: Any) -> Receipt:
        try:
            return real(self, packed, *listed)
        except StoreUnavailable:
            return _receipt(packed.segment)

    patch.setattr(Archive, "put", put)


@mutation("wrong_answers", first=17000000)
def take_the_refusal_of_its_own_attempt_for_anothers(patch: MonkeyPatch) -> None:
    real = Archive._create

    def create(self: Archive, packed: Packed, *suffixes: str) -> Receipt:
        receipt = real(self, packed, *suffixes)
        if receipt.was_present:
            raise Conflict("another server stored it")
        return receipt

    patch.setattr(Archive, "_create", create)


@mutation("late_store", "late_store", "switchover", "switchover", "power_loss", first=17000000)
def expect_to_see_whatever_is_there(patch: MonkeyPatch) -> None:
    patch.setattr(walkeeper.archive.write, "came_and_went", lambda key: AssertionError(f"{key} was there just now"))


@mutation()
def overwrite(patch: MonkeyPatch) -> None:
    real = Archive._identify

    def identify(self: Archive, segment: Any, suffix: str) -> Any:
        found = real(self, segment, suffix)
        if found is not None:
            self.store.delete(self.layout.file(segment, suffix))
        return found

    patch.setattr(Archive, "_identify", identify)


@mutation("freeze_host", "kill_patroni", "power_loss", first=501)
def believe_whatever_lies_under_the_name(patch: MonkeyPatch) -> None:
    """Only a store that was away lets two promotions choose one number; that is put on here as well."""
    patch.setattr("tests.simulation.world.World.archive_knows", lambda *_: False)
    patch.setattr(walkeeper.archive.write, "_conflict", lambda *_: AlreadyThere("never mind"))
    real, real_history = Archive.put, Archive.archive_history

    def put(self: Archive, packed: Packed, *listed: Any) -> Receipt:
        try:
            return real(self, packed, *listed)
        except AlreadyThere:
            return _receipt(packed.segment)

    def archive_history(self: Archive, timeline: int, content: bytes) -> None:
        try:
            real_history(self, timeline, content)
        except Conflict:
            return

    patch.setattr(Archive, "put", put)
    patch.setattr(Archive, "archive_history", archive_history)
    _compare_nothing(patch)


def _compare_nothing(patch: MonkeyPatch) -> None:
    beliefs = walkeeper.agent.archiver.beliefs
    patch.setattr(beliefs, "compare_whole", lambda *_: [])
    patch.setattr(beliefs, "compare_all", lambda *_: [])
    patch.setattr(beliefs, "compare_own", lambda *_: ([], False))
    patch.setattr(walkeeper.agent.archiver.comparing, "_compare_history", lambda *_: None)


@mutation(first=10)
def move_the_frontier_over_holes(patch: MonkeyPatch) -> None:
    def add(self: Frontier, receipt: Receipt) -> bool:
        self._next = max(self._next, receipt.segment.number + 1)
        return True

    patch.setattr(Frontier, "add", add)


@mutation()
def record_without_the_histories(patch: MonkeyPatch) -> None:
    patch.setattr(walkeeper.agent.archiver.ownership, "_store_histories", lambda *_: None)


# ---------------------------------------------------------------------------------------------------- record, slot, spool


@mutation()
def slot_before_the_record(patch: MonkeyPatch) -> None:
    real = Commit._write_record

    def write_record(self: Commit, frontier: Lsn, gaps: Any) -> None:
        if self._observed.server_up:
            self._server.advance_slot(self._hold_slot.name, self._frontier.lsn)
        real(self, frontier, gaps)

    patch.setattr(Commit, "_write_record", write_record)


@mutation()
def spool_before_the_record(patch: MonkeyPatch) -> None:
    def put_in_order(self: Archiver) -> None:
        for receipt in self.uploads.collect():
            self._source.remove(receipt)
            if self._frontier.add(receipt):
                self._commit.changed.set()

    patch.setattr(Archiver, "_put_in_order", put_in_order)


@mutation(first=6)
def drop_leftovers_at_once(patch: MonkeyPatch) -> None:
    def deal_with(self: Leftovers, segment: Any, archive: Any, record: Any, history: Any) -> None:
        self._spool.remove(_receipt(segment))

    patch.setattr(Leftovers, "_deal_with", deal_with)


# ---------------------------------------------------------------------------------------------------------------- the tail


def _piece_receipt(archive: Archive, segment: Segment, piece: Piece) -> TailReceipt:
    return TailReceipt(segment, piece, 0, archive.layout.piece(segment.name, piece, ".zst"))


@mutation("lose_store_answers", "cut_store", "store_down", "kill_receiver", first=13)
def claim_a_piece_that_was_received_and_not_stored(patch: MonkeyPatch) -> None:
    real = walkeeper.archive.tail.put

    def put(archive: Archive, segment: Segment, piece: Piece, plain: bytes) -> TailReceipt:
        try:
            return real(archive, segment, piece, plain)
        except StoreUnavailable:
            return _piece_receipt(archive, segment, piece)

    patch.setattr(walkeeper.archive.tail, "put", put)


@mutation("lose_store_answers", "cut_store", "store_down", first=709)
def claim_beyond_a_hole_between_pieces(patch: MonkeyPatch) -> None:
    """A piece that could not be stored is left out, and the next one counts all the same."""
    real = Tail._ship

    def ship(self: Tail, chain: Any, begin: int, end: int) -> TailReceipt | None:
        try:
            return real(self, chain, begin, end)
        except StoreUnavailable:
            chain.add(_piece_receipt(self._archive, chain.segment, Piece(begin, end, chain.owner)), 0)
            raise

    def add_tail(self: Frontier, receipt: TailReceipt) -> bool:
        moved = receipt.segment == self.next_segment and receipt.end > self._tail_end
        self._tail_end = receipt.end if moved else self._tail_end
        return moved

    patch.setattr(Tail, "_ship", ship)
    patch.setattr(Frontier, "add_tail", add_tail)


@mutation("kill_receiver", first=1)
def claim_what_the_server_has_and_not_what_was_written(patch: MonkeyPatch) -> None:
    real = ReceiverView.written

    def written(self: ReceiverView, partial: Any, size: int) -> Written | None:
        found = real(self, partial, size)
        ahead = readable(agent().node.lsn) - Segment.parse(partial.name[:24], SIZE).start
        return found and Written(found.run, max(found.offset, min(ahead, SIZE - 1)))

    patch.setattr(ReceiverView, "written", written)
    patch.setattr(walkeeper.archive.tail, "check_part", lambda *_: None)


@mutation("kill_server", "store_down", archiver="builtin", first=1)
def claim_what_the_server_has_and_not_what_was_received(patch: MonkeyPatch) -> None:
    real = Received.written

    def written(self: Received, segment: Segment) -> Written | None:
        found = real(self, segment)
        ahead = readable(agent().node.lsn) - segment.start
        return found and Written(found.run, max(found.offset, min(ahead, SIZE - 1)))

    def read(self: Received, segment: Segment, run: int, begin: int, end: int) -> bytes | None:
        return bytes(self._begun.get(segment, b"")[begin:end]).ljust(end - begin, b"\0")

    patch.setattr(Received, "written", written)
    patch.setattr(Received, "read", read)
    patch.setattr(walkeeper.archive.tail, "check_part", lambda *_: None)


@mutation("kill_agent", first=1)
def drop_small_pieces_before_the_merged_one_is_stored(patch: MonkeyPatch) -> None:
    real = Tail._merge

    def merge(self: Tail, chain: Any) -> None:
        if count := due_for_merge(chain.levels):
            for receipt in chain.stored[-count:]:
                self._archive.store.delete(receipt.key)
        real(self, chain)

    patch.setattr(Tail, "_merge", merge)


@mutation("kill_receiver", first=5)
def drop_pieces_when_the_segment_is_streamed_again(patch: MonkeyPatch) -> None:
    real = Tail._chain_for

    def chain_for(self: Tail, segment: Segment, run: int) -> Any:
        if self._chain is not None and self._chain.run != run:
            for key in sorted(self._own.pop(segment.number, ())):
                self._archive.store.delete(key)
        return real(self, segment, run)

    patch.setattr(Tail, "_chain_for", chain_for)


@mutation("switchover", "kill_patroni", "freeze_host", first=91)
def drop_what_a_dead_primary_had_beyond_the_fork(patch: MonkeyPatch) -> None:
    patch.setattr(walkeeper.archive.tail, "covers", lambda *_: True)


@mutation("switchover", "freeze_host", first=301)
def count_the_pieces_of_another_timeline(patch: MonkeyPatch) -> None:
    """They have the same bytes up to the fork; a restore asks by the new timeline's name."""
    real = Tail._continue_earlier

    def continue_earlier(self: Tail, chain: Any, end: int) -> bool:
        others = self._others.get(chain.segment.number, [])
        self._others[chain.segment.number] = [
            dataclasses.replace(stored, segment=chain.segment.name) for stored in others
        ]
        return real(self, chain, end)

    patch.setattr(Tail, "_continue_earlier", continue_earlier)


@mutation("twin_pieces", "kill_receiver", "kill_agent", first=1)
def continue_another_servers_chain_without_comparing(patch: MonkeyPatch) -> None:
    def confirm(_: Archive, stored: StoredPiece, segment: Segment, __: bytes) -> TailReceipt:
        return TailReceipt(segment, stored.piece, 0, stored.key)

    patch.setattr(walkeeper.archive.tail, "confirm", confirm)


# ----------------------------------------------------------------------------------------------------------- where to begin


def _resume(patch: MonkeyPatch, choose: Callable[[Record, History, LocalServer], int]) -> None:
    def resume(record: Record, history: History, local: LocalServer) -> Lsn:
        resume_at(record, history, local)
        return Lsn(choose(record, history, local) // local.segment_size * local.segment_size)

    patch.setattr(walkeeper.agent.archiver.beliefs, "resume_at", resume)
    _do_not_go_back(patch)


def _do_not_go_back(patch: MonkeyPatch) -> None:
    """To what the store has: a look that hides many a bug before it."""
    patch.setattr(walkeeper.agent.archiver.beliefs, "_go_back", lambda *_: None)
    patch.setattr(walkeeper.agent.archiver.beliefs, "_hole", lambda *_: None)


@mutation(first=2)
def start_at_now(patch: MonkeyPatch) -> None:
    _resume(patch, lambda _record, _history, local: local.lsn)


@mutation("jump_slot", "drop_slot", "kill_agent", "switchover", "store_down", first=40)
def start_at_the_slot(patch: MonkeyPatch) -> None:
    def at_slot(record: Record, _: History, __: LocalServer) -> int:
        slot = agent().node.slot
        return slot.restart_lsn if slot is not None else record.position

    _resume(patch, at_slot)


@mutation(first=741)
def resume_at_the_record_blindly(patch: MonkeyPatch) -> None:
    _resume(patch, lambda record, _history, _local: record.position)


@mutation(first=43)
def forget_the_floor(patch: MonkeyPatch) -> None:
    def ceiling(record: Record, history: History, local: LocalServer) -> int:
        forks = local.history.parts_from(history)
        at = record.position if forks is None else min(record.position, forks)
        return at + local.segment_size - 1

    _resume(patch, ceiling)


@mutation("kill_agent", "lose_store_answers", "store_down", "freeze_agent", first=76)
def skip_holes_in_the_store(patch: MonkeyPatch) -> None:
    def skip(belief: Belief, archive: Archive, local: LocalWal) -> None:
        stored = [s.end for s in archive.contents.segments() if local.server.history.contains(s)]
        belief.lsn = max([belief.lsn, *stored])

    patch.setattr(walkeeper.agent.archiver.beliefs, "_go_over_stored", skip)
    _do_not_go_back(patch)


@mutation("wipe_record", "garbage_record", "store_down", "kill_agent", "kill_receiver", first=47)
def rebuild_from_the_newest_segment(patch: MonkeyPatch) -> None:
    def rebuild(self: Contents, history: History) -> tuple[Segment, Lsn] | None:
        first = self.start()
        end = max((s.end for s in self.segments() if history.contains(s)), default=None)
        return None if first is None or end is None else (first, end)

    patch.setattr(Contents, "extent", rebuild)


@mutation(first=162)
def take_a_boundary_segment_for_the_old_timelines(patch: MonkeyPatch) -> None:
    def timeline_of(self: History, number: int, size: int) -> int:
        ends = {switch.timeline: switch.lsn for switch in self.switches}
        return next((t for t in self.timelines if ends.get(t, 1 << 63) > number * size), self.timeline)

    patch.setattr(History, "timeline_of", timeline_of)


# ------------------------------------------------------------------------------------------------------- bytes, not names


@mutation("roll_back", "kill_agent", "wipe_record")
def believe_names_after_a_volume_went_back(patch: MonkeyPatch) -> None:
    """Its server wrote on past the record, and the store has every name."""
    _compare_nothing(patch)


@mutation("roll_back_under_the_agent")
def go_on_with_whatever_the_server_was_started_on(patch: MonkeyPatch) -> None:
    """Its volume went back while it was down, and the agent that owned the record ran on."""
    patch.setattr(OneRun, "over", property(lambda _: False))


@mutation("roll_back", "kill_agent", "wipe_record", first=48)
def believe_a_frontier_beyond_the_server(patch: MonkeyPatch) -> None:
    beliefs = walkeeper.agent.archiver.beliefs

    def common(record: Record, history: History, local: LocalServer) -> Lsn:
        return common_end(record, history, dataclasses.replace(local, lsn=max(local.lsn, record.position)))

    patch.setattr(beliefs, "common_end", common)
    patch.setattr(
        beliefs, "resume_at", lambda record, history, local: common(record, history, local).floor(local.segment_size)
    )
    patch.setattr(beliefs, "compare_own", lambda *_: ([], False))


@mutation("roll_back", "roll_back", "switchover", first=102)
def forget_who_was_refused(patch: MonkeyPatch) -> None:
    """A member that was built from a volume that went back has nothing left that would show it, when it is promoted."""
    patch.setattr(walkeeper.agent.archiver.beliefs, "_hold_against", lambda *_: None)


@mutation("twin_segments", "kill_agent")
def go_over_what_another_server_stored(patch: MonkeyPatch) -> None:
    beliefs = walkeeper.agent.archiver.beliefs
    patch.setattr(beliefs, "compare_all", lambda *_: [])
    patch.setattr(beliefs, "compare_own", lambda *_: ([], False))


@mutation("swap_store", "swap_store", "kill_agent", first=1)
def believe_a_record_in_an_empty_store(patch: MonkeyPatch) -> None:
    patch.setattr(walkeeper.agent.archiver.beliefs, "nothing_archived", lambda _: True)


@mutation("wipe_record", "garbage_record", "swap_store", "swap_store", "switchover", first=14014008)
def begin_anew_where_the_record_was_lost(patch: MonkeyPatch) -> None:
    patch.setattr("walkeeper.agent.agent.take_over", lambda *given, **_: take_over(*given))


@mutation("lose_dcs", "lose_dcs", "swap_store", "swap_store", "switchover", "store_down", first=15020000)
def forget_where_the_archive_was_seen(patch: MonkeyPatch) -> None:
    patch.setattr(SeenArchive, "has", lambda *_: False)


@mutation("swap_store", "swap_store", "kill_agent", archiver="command", first=1)
def archive_what_is_handed_over_before_the_takeover(patch: MonkeyPatch) -> None:
    patch.setattr(Pushing, "_await_takeover", lambda *_: None)
    patch.setattr("walkeeper.agent.archive_push.check_archive", lambda *_: None)


@mutation("swap_store", "swap_store", "kill_agent", archiver="command", first=1)
def archive_without_an_agent_wherever_the_configuration_says(patch: MonkeyPatch) -> None:
    patch.setattr("tests.simulation.handing_over.check_archive", lambda *_: None)


@mutation("lose_all", "switchover", "store_down", "kill_agent", first=16100005)
def begin_at_the_present(patch: MonkeyPatch) -> None:
    patch.setattr(
        LocalWal, "to_begin_with", lambda self, lsn: self.server.history.segment_at(lsn, self.server.segment_size)
    )


@mutation("wipe_record", "garbage_record", "swap_store", "swap_store", "switchover", first=14015354)
def hand_in_to_whatever_store_is_there(patch: MonkeyPatch) -> None:
    def hand_in_one(self: Leftovers, archive: Archive, record: Record) -> bool:
        history = archive.contents.history(record.timeline)
        for segment in self._spool.complete(archive.size):
            if history is None:
                break
            if segment not in self._stored or segment.end <= record.position:
                self._deal_with(segment, archive, record, history)
                return True
        return False

    patch.setattr(Leftovers, "hand_in_one", hand_in_one)


@mutation("edit_record", "kill_agent")
def do_not_ask_for_the_segment_below_the_frontier(patch: MonkeyPatch) -> None:
    _do_not_go_back(patch)


@mutation("another_lives", "kill_agent")
def take_over_what_another_cluster_keeps_alive(patch: MonkeyPatch) -> None:
    patch.setattr(Watcher, "alone", lambda *_: None)


@mutation("another_lives", "kill_agent", first=4)
def see_no_new_sign_of_life(patch: MonkeyPatch) -> None:
    real = LifeWatch.note

    def note(self: LifeWatch, now: float, newest: Any) -> None:
        real(self, now, dict.fromkeys(newest, 1))

    patch.setattr(LifeWatch, "note", note)


@mutation("step_clock", first=17000001)
def wait_by_a_clock_that_is_set(patch: MonkeyPatch) -> None:
    patch.setattr(NodeClock, "monotonic", lambda self: self._loop.now + self._node.clock_off)


@mutation("freeze_long", "freeze_long", "wipe_record", "switchover", "kill_patroni", first=17000124)
def take_one_late_sign_for_a_life(patch: MonkeyPatch) -> None:
    patch.setattr(walkeeper.core.life, "RENEWED", 1)


@mutation("switchover", "power_loss", "kill_agent")
def remove_the_newest_sign_of_life(patch: MonkeyPatch) -> None:
    """So that whoever lists then finds nobody alive."""

    def drop(store: Any, layout: Any, found: Any, token: str) -> None:
        for sign in found:
            if sign.token == token:
                store.delete(layout.life(token, sign.number))

    patch.setattr(walkeeper.archive.life, "drop_older", drop)


# --------------------------------------------------------------------------------------------------------------- one owner


@mutation("kill_patroni", "kill_agent", "kill_agent", first=103)
def skip_the_leader_read(patch: MonkeyPatch) -> None:
    real_leader, real_write = RecordView.leader, RecordView.write

    def leader(self: RecordView) -> Leader | None:
        found = real_leader(self)
        return Leader(self._process.node.name) if agent().node.primary else found

    patch.setattr(RecordView, "leader", leader)
    patch.setattr(
        RecordView, "write", lambda self, document, expected, guard=None: real_write(self, document, expected)
    )


@mutation("kill_patroni", "power_loss", "freeze_host", first=67)
def skip_the_comparison_of_timelines(patch: MonkeyPatch) -> None:
    """T ≥ R.tli."""

    def common(record: Record, history: History, local: LocalServer) -> Lsn:
        try:
            return common_end(record, history, local)
        except WrongTimeline:
            return common_end(record, history, dataclasses.replace(local, history=history))

    def resume(record: Record, history: History, local: LocalServer) -> Lsn:
        return common(record, history, local).floor(local.segment_size)

    patch.setattr(walkeeper.agent.archiver.beliefs, "resume_at", resume)
    patch.setattr(walkeeper.agent.archiver.beliefs, "common_end", common)
    patch.setattr(walkeeper.agent.archiver.ownership, "check_record", lambda *_: None)


@mutation(first=2)
def write_the_record_without_comparing(patch: MonkeyPatch) -> None:
    def write(self: Ownership, lsn: Lsn, *_: object, **__: object) -> None:
        record = msgspec.structs.replace(self.record, lsn=str(max(lsn, self.record.position)))
        self._versioned = self._records.write(record.encode(), self._records.read())
        self.record = record

    patch.setattr(Ownership, "write", write)
    patch.setattr(Ownership, "still_ours", lambda *_: True)


def _write_the_record_blindly(patch: MonkeyPatch) -> None:
    real = RecordView._write

    def write(self: RecordView, document: bytes, _: object, guard: Leader | None) -> Any:
        return real(self, document, self.dcs.documents.get(self.key), guard)

    patch.setattr(RecordView, "_write", write)


@mutation("wrong_record_answers", first=17000004)
def write_the_record_whatever_it_is_by_then(patch: MonkeyPatch) -> None:
    _write_the_record_blindly(patch)


@mutation("stale_reads", "stale_reads", "kill_patroni", "kill_patroni", first=17000044)
def take_over_by_a_read_that_may_be_old(patch: MonkeyPatch) -> None:
    _write_the_record_blindly(patch)


def _count_a_record_that_was_not_written(patch: MonkeyPatch) -> None:
    real = Ownership.write

    def write(self: Ownership, lsn: Lsn, *more: Any, **named: Any) -> None:
        try:
            real(self, lsn, *more, **named)
        except (CasConflict, HeldBack):
            raise
        except DcsError:
            self.record = msgspec.structs.replace(self.record, lsn=str(max(lsn, self.record.position)))

    patch.setattr(Ownership, "write", write)


@mutation("cut_dcs", first=17000000)
def move_the_slot_where_the_dcs_is_away(patch: MonkeyPatch) -> None:
    _count_a_record_that_was_not_written(patch)


@mutation("cut_dcs_writes", first=17000000)
def move_the_slot_where_the_dcs_writes_nothing(patch: MonkeyPatch) -> None:
    _count_a_record_that_was_not_written(patch)


@mutation("dcs_down", first=17000000)
def move_the_slot_where_no_dcs_answers(patch: MonkeyPatch) -> None:
    _count_a_record_that_was_not_written(patch)


@mutation("lose_record_answer", first=17000000)
def write_no_more_after_an_answer_that_was_lost(patch: MonkeyPatch) -> None:
    def conflict(self: Ownership) -> Any:
        raise DcsUnavailable("somebody else wrote it")

    patch.setattr(Ownership, "_ours_or_fenced", conflict)


@mutation("no_callbacks", "switchover", first=17000000)
def look_at_callbacks_alone(patch: MonkeyPatch) -> None:
    patch.setattr("tests.simulation.seams.POLL", 1e6)


@mutation("second_agent", "kill_agent", first=17000000)
def take_the_record_for_ours_by_the_name_of_its_owner(patch: MonkeyPatch) -> None:
    def still_ours(self: Ownership, found: Any) -> bool:
        record = decoded(found).record
        return record is not None and record.owner == self.record.owner

    patch.setattr(Ownership, "still_ours", still_ours)


# ---------------------------------------------------------------------------------------------------------------- the spool


@mutation("disk_short", "store_down", "lose_slot", "jump_slot", "cut_store", first=256)
def drop_from_a_full_disk_what_no_slot_keeps(patch: MonkeyPatch) -> None:
    patch.setattr(walkeeper.agent.archiver.streaming, "keeps", lambda *_: True)


def _drop_from_a_full_disk(patch: MonkeyPatch, **believed: Any) -> None:
    def keeps(slot: SlotState | None, lsn: Lsn) -> bool:
        return core_keeps(slot and dataclasses.replace(slot, **believed), lsn)

    patch.setattr(walkeeper.agent.archiver.streaming, "keeps", keeps)


@mutation("disk_short", "store_down", "busy_slot", first=17000000)
def drop_from_a_full_disk_what_a_slot_keeps_that_follows_somebody_else(patch: MonkeyPatch) -> None:
    _drop_from_a_full_disk(patch, active_pid=None)


@mutation("disk_short", "store_down", "drop_slot", first=17000052)
def drop_from_a_full_disk_what_a_slot_kept_that_was_dropped(patch: MonkeyPatch) -> None:
    patch.setattr(walkeeper.agent.archiver.streaming, "keeps", lambda slot, lsn: slot is None or core_keeps(slot, lsn))


@mutation("disk_short", "store_down", "unreserved_slot", first=17000003)
def drop_from_a_full_disk_what_the_next_checkpoint_removes(patch: MonkeyPatch) -> None:
    _drop_from_a_full_disk(patch, unreserved=False)


@mutation("disk_short", "store_down", "empty_slot", first=17000000)
def drop_from_a_full_disk_what_a_slot_without_a_position_keeps(patch: MonkeyPatch) -> None:
    _drop_from_a_full_disk(patch, restart_lsn=Lsn(0))


@mutation("far_down", "store_down", "lose_slot", "disk_short", "kill_agent", first=6090, archiver="several")
def drop_from_a_full_disk_what_the_slot_kept_at_the_last_look(patch: MonkeyPatch) -> None:
    patch.setattr(Streaming, "_keeps_now", Streaming._keeps)


@mutation(first=17)
def trust_a_stale_spool(patch: MonkeyPatch) -> None:
    def seed(self: Spool, history: History, first: Any) -> None:
        (self.wal / f"{first.name}.partial").touch()

    patch.setattr(Spool, "_seed", seed)


@mutation("lose_store_answers", "switchover", "power_loss")
def trust_the_spool_of_an_earlier_boot(patch: MonkeyPatch) -> None:
    patch.setattr(Spool, "_check_boot", lambda _: None)


@mutation()
def lay_no_seed(patch: MonkeyPatch) -> None:
    real = Spool._seed

    def seed(self: Spool, history: History, first: Any) -> None:
        real(self, history, first)
        (self.wal / f"{first.name}.partial").unlink()

    patch.setattr(Spool, "_seed", seed)


# --------------------------------------------------------------------------------------------------------------------- gaps


@mutation(first=237)
def call_it_a_gap_too_early(patch: MonkeyPatch) -> None:
    patch.setattr(Members, "fetch", lambda *_: iter(()))
    patch.setattr(Suspicions, "silent", lambda *_: [])
    patch.setattr(Suspicions, "_why", lambda *_, **__: Why.PROVED)


@mutation("jump_slot", "freeze_host", "power_loss", "cut_members", first=452)
def call_it_a_gap_without_a_look_into_the_store(patch: MonkeyPatch) -> None:
    patch.setattr(LostWal, "_take", lambda *_: False)


def _take_for_a_no(patch: MonkeyPatch, what_was_said: str) -> None:
    patch.setattr(
        "walkeeper.agent.archiver.member_wal.says_no", lambda said: "removed" in said or what_was_said in said
    )


@mutation("slow_rebuilds", "lose_slot", "jump_slot", "switchover", first=17000050)
def take_a_server_that_is_stopped_for_a_no(patch: MonkeyPatch) -> None:
    _take_for_a_no(patch, "refused")


@mutation("unknown_name", "lose_slot", "jump_slot", "switchover", first=17000050)
def take_a_name_that_is_not_found_for_a_no(patch: MonkeyPatch) -> None:
    _take_for_a_no(patch, "translate host name")


@mutation("disbelieve_plain", first=17000032)
def call_it_a_gap_because_it_is_not_believed(patch: MonkeyPatch) -> None:
    patch.setattr(LostWal, "_is_disbelieved", lambda *_: False)


@mutation(first=237)
def pass_a_gap_without_a_word(patch: MonkeyPatch) -> None:
    patch.setattr(Archive, "record_gap", lambda *_: None)


@mutation(first=173)
def wait_for_lost_wal_for_ever(patch: MonkeyPatch) -> None:
    patch.setattr(walkeeper.agent.archiver.lost_wal, "is_lost", lambda *_: False)


# -------------------------------------------------------------------------------------------------------- archiver: command


_SILENT: Final = ("lose_slot", "lose_slot", "jump_slot", "mute_member", "unknown_name", "cut_members", "kill_server")


@mutation(*_SILENT, first=96)
def move_the_record_past_a_suspicion(patch: MonkeyPatch) -> None:
    """And with it the slot, so that the member that had the WAL recycled it."""

    def suspect(self: Frontier, first: int, end: int) -> None:
        self.add_gap(self.history.segment(first, self.size), Lsn(end * self.size))

    patch.setattr(Frontier, "suspect", suspect)


@mutation(*_SILENT, first=96)
def empty_the_spool_behind_a_suspicion_before_it_is_stored(patch: MonkeyPatch) -> None:
    real = Archiver._hand_out

    def hand_out(self: Archiver) -> Any:
        if self._frontier.suspected:
            for segment in self._source.complete(self._frontier):
                self._source.remove(_receipt(segment))
        return real(self)

    patch.setattr(Archiver, "_hand_out", hand_out)


@mutation(archiver="command", first=1)
def say_yes_before_the_store_has_it(patch: MonkeyPatch) -> None:
    real = Pushing.answer

    def answer(self: Pushing, request: Any) -> Any:
        try:
            return real(self, request)
        except StoreUnavailable:
            return {}

    patch.setattr(Pushing, "answer", answer)


@mutation(archiver="command", first=13)
def archive_only_what_is_ready(patch: MonkeyPatch) -> None:
    """What a standby received is marked .done: the dead primary may not have archived it."""
    real = FromPgWal.complete
    patch.setattr(FromPgWal, "complete", lambda self, at: [one for one in real(self, at) if self._marked(one)])


@mutation("store_down", "cut_store", "kill_agent", archiver="command", first=10)
def count_what_is_handed_over_and_not_what_is_stored(patch: MonkeyPatch) -> None:
    real = Pushing._push

    def push(self: Pushing, place: Place) -> None:
        if self._agent.archiver is not None and isinstance(place.file, Segment):
            self._agent.archiver.offer(_receipt(Segment.parse(place.name, SIZE)), None)
        real(self, place)

    patch.setattr(Pushing, "_push", push)


@mutation("twin_segments", "switchover", "kill_agent", archiver="command")
def say_yes_to_other_bytes_under_that_name(patch: MonkeyPatch) -> None:
    real = Archive.confirm_segment

    def confirm(self: Archive, segment: Segment, plain: bytes, history: Any, known: Any = None) -> Receipt:
        return self.find(segment) or real(self, segment, plain, history, known)

    patch.setattr(Archive, "confirm_segment", confirm)


# -------------------------------------------------------------------------------------------------------- these were found


@mutation("damage_spool", "wipe_spool", "kill_receiver", first=822)
def forget_that_a_segment_comes_again(patch: MonkeyPatch) -> None:
    """A segment that was put aside while it waited for its upload, and came again before the next look, was never uploaded."""
    real = Streaming._start_receiver

    def start_receiver(self: Streaming, frontier: Frontier, taken: Any) -> Any:
        return real(self, frontier, set(taken))

    patch.setattr(Streaming, "_start_receiver", start_receiver)
    patch.setattr(Uploads, "_drop", Uploads._no_longer_refused)


@mutation("damage_spool", "damage_spool", "store_down", "cut_store", first=62)
def forget_that_pg_wal_has_what_was_put_aside(patch: MonkeyPatch) -> None:
    """A segment of a backlog that was damaged in the spool was never uploaded: it was named all the while."""
    patch.setattr(Uploads, "_drop", Uploads._no_longer_refused)


@mutation("switchover", "switchover", "cut_store", "freeze_receiver", first=273)
def let_the_spool_be_full_of_what_a_seed_puts_aside(patch: MonkeyPatch) -> None:
    """The partials of boundary segments, or another branch's segments, filled the spool, and only a seed removes them."""
    real = Streaming._start_receiver

    def start_receiver(self: Streaming, frontier: Frontier, taken: Any) -> Any:
        if self._observed.server_up:
            room = self._spool.limit - self._spool.used()
            self._full = room < self._size or (self._full and room < self._spool.limit / 2)
            if self._full:
                raise SpoolFull("full")
        return real(self, frontier, taken)

    patch.setattr(Streaming, "_start_receiver", start_receiver)


@mutation("freeze_host", first=6731)
def refuse_positions_that_fall(patch: MonkeyPatch) -> None:
    """A standby that was promoted before it had reached its parent's beginning could not archive."""

    def refuse(switches: Any) -> Any:
        if any(a.lsn > b.lsn for a, b in itertools.pairwise(switches)):
            raise BadHistory("positions must increase")
        return tuple(switches)

    patch.setattr(walkeeper.core.history, "_as_it_came_to_be", refuse)


@mutation("dcs_down", "kill_agent", "jump_slot", "lose_slot", first=281)
def take_unknown_members_for_none(patch: MonkeyPatch) -> None:
    """An agent that began while the DCS was away did not know the members, and called their WAL a gap. At once, as it was
    then: by now it has mostly learnt of them before a no counts."""
    patch.setattr(walkeeper.core.suspicion, "SETTLE_SECONDS", 0.0)
    real = Observer.other_members

    def other_members(self: Observer, frontier: Lsn) -> Any:
        return real(self, frontier) if self.topology is not None else []

    patch.setattr(Observer, "other_members", other_members)


# ----------------------------------------------------------------------------------------------- what commits are told (P8)


@mutation(archiver="durable")
def tell_commits_what_was_received(patch: MonkeyPatch) -> None:
    real = Promise.give

    def give(self: Promise, now: float, stored: Lsn, received: Lsn, *, leased: bool) -> Acknowledgement:
        return real(self, now, received, received, leased=leased)

    patch.setattr(Promise, "give", give)


@mutation(archiver="durable")
def tell_commits_the_last_answer_and_not_the_run_without_a_hole(patch: MonkeyPatch) -> None:
    real = StoredRun.add

    def add(self: StoredRun, serial: int, receipt: TailReceipt) -> list[TailReceipt]:
        in_order = real(self, serial, receipt)
        self.end = max(self.end, receipt.end)
        return in_order

    patch.setattr(StoredRun, "add", add)


@mutation("store_down", "cut_store", "lose_store_answers", "kill_agent", "switchover", first=13, archiver="durable")
def tell_commits_of_a_stream_whose_beginning_is_not_stored(patch: MonkeyPatch) -> None:
    patch.setattr(Frontier, "unbroken", lambda _: Lsn(1 << 60))


@mutation("ungoverned", first=40, archiver="durable")
def tell_commits_without_a_lease(patch: MonkeyPatch) -> None:
    patch.setattr(Lease, "holds", lambda _: True)
    patch.setattr(Ownership, "confirm", lambda _: None)


def _lease_by(patch: MonkeyPatch, now: Callable[[], float]) -> None:
    def confirmed(self: Lease, asked_at: float) -> None:
        self._asked_at = max(self._asked_at, now() - (agent().loop.now - asked_at))

    patch.setattr(Lease, "confirmed", confirmed)
    patch.setattr(Lease, "is_due", lambda self: now() - self._asked_at > RENEWED)
    patch.setattr(Lease, "holds", lambda self: not self.ended.is_set() and now() - self._asked_at < LEASE)


@mutation("ungoverned", "jump_clock", archiver="durable", first=17000228)
def hold_a_lease_by_a_clock_that_jumps(patch: MonkeyPatch) -> None:
    _lease_by(patch, lambda: agent().loop.now + agent().node.clock_off)


@mutation("sleep_host", archiver="durable", first=17000067)
def hold_a_lease_by_a_clock_that_sleeps(patch: MonkeyPatch) -> None:
    _lease_by(patch, lambda: agent().loop.now - agent().node.slept)


@mutation("ungoverned", archiver="durable", first=108)
def promote_without_waiting_for_the_lease(patch: MonkeyPatch) -> None:
    """Of a lease that is longer than Patroni's leader key lasts: else it has ended by then."""
    patch.setattr(walkeeper.agent.archiver.lease, "LEASE", 25.0)
    patch.setattr(walkeeper.promote.before, "LEASE_OVER", 0.0)


@mutation("ungoverned", archiver="durable", first=93)
def say_that_the_session_has_ended_and_acknowledge_on(patch: MonkeyPatch) -> None:
    """As where its end were told before the last acknowledgement. Of a lease as long as above."""
    patch.setattr(walkeeper.agent.archiver.lease, "LEASE", 25.0)
    lease: Any = walkeeper.agent.archiver.lease
    begin = Synchronous.begin

    def begins(self: Synchronous, start: Lsn) -> None:
        begin(self, start)
        self.end()

    def goes_on(self: Lease) -> bool:
        return bool(lease.since_boot() - self._asked_at < lease.LEASE)

    patch.setattr(Synchronous, "begin", begins)
    patch.setattr(Lease, "holds", goes_on)


@mutation("kill_patroni", archiver="durable", first=22)
def promote_without_ending_the_session(patch: MonkeyPatch) -> None:
    """Where the owner does not look who leads, either."""
    patch.setattr(Before, "_close", lambda _, records, __: (decoded(records.read()).record, LEASE_OVER))
    patch.setattr(Ownership, "_check_leader", lambda _: None)


@mutation("kill_patroni", "power_loss", "switchover", archiver="durable")
def promote_without_replaying_what_is_stored(patch: MonkeyPatch) -> None:
    patch.setattr(walkeeper.promote.before.Replaying, "run", lambda _: "whatever it has")


# ------------------------------------------------------------------------------------------------------------ several stores


@mutation("far_down", "store_down", "kill_agent", archiver="several")
def follow_the_furthest_of_two_stores(patch: MonkeyPatch) -> None:
    """What only one of them has is recycled, and ``durable_in`` said two."""
    patch.setattr(walkeeper.agent.archiver.holding, "followed", lambda frontiers, _: max(frontiers))


@mutation("edit_record", "lose_slot", archiver="several")
def let_go_of_what_an_edited_record_claims(patch: MonkeyPatch) -> None:
    patch.setattr(Record, "is_owners", True)


@mutation("far_down", "store_down", "lose_slot", archiver="several", first=28)
def take_a_store_that_is_away_for_one_that_has_nothing(patch: MonkeyPatch) -> None:
    real = OtherStores.take

    def take(self: OtherStores, wanted: Segment, suspicions: Any, now: float) -> Receipt | None:
        found = real(self, wanted, suspicions, now)
        for store in self._stores:
            if found is None and store.name in self._away:
                suspicions.refuse(store.called, wanted.number, now)
        return found

    patch.setattr(OtherStores, "take", take)
