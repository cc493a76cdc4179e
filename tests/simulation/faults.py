"""What happens to a simulated world. A fault strikes at its second; what it does to a process, at that process's n-th step after."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from tests.simulation.invariants import record_of
from tests.simulation.nodes import ANY_SEGMENT, Node, Slot
from tests.simulation.seams import IDENTITY, start_agent
from tests.simulation.wal import SIZE, Branch, readable, write_segment
from walkeeper.core.beliefs import nothing_archived
from walkeeper.core.life import RENEW_SECONDS, WATCH_SECONDS
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import PARTIAL, Segment
from walkeeper.core.tail import Piece

if TYPE_CHECKING:
    from tests.simulation.world import World

LAST: Final = 40.0


@dataclass(frozen=True, slots=True)
class Fault:
    """``kind`` names a function here; ``on_leader``: whoever leads then; else the node with that number."""

    at: float
    kind: str
    on_leader: bool
    node: int
    steps: int
    seconds: float

    def __str__(self) -> str:
        where = "the leader" if self.on_leader else "abc"[self.node]
        return f"{self.at:6.2f} s {self.kind} on {where} (steps {self.steps}, {self.seconds:.1f} s)"

    def strike(self, world: World) -> None:
        node = world.leader if self.on_leader and world.leader else world.nodes[self.node]
        world.loop.note("FAULT", str(self))
        KINDS[self.kind](world, node, self)


def _for_a_while(world: World, fault: Fault, begin: Callable[[], None], end: Callable[[], None]) -> None:
    begin()
    world.after(fault.seconds, end)


# ------------------------------------------------------------------------------------------------------------- processes


def kill_agent(world: World, node: Node, fault: Fault) -> None:
    if node.agent is not None:
        node.agent.die_in = fault.steps


def freeze_agent(world: World, node: Node, fault: Fault) -> None:
    if node.agent is not None:
        node.agent.freeze_in = (fault.steps, fault.seconds)


def freeze_long(world: World, node: Node, fault: Fault) -> None:
    """For minutes, and it goes on as if nothing had been."""
    if node.agent is not None:
        node.agent.freeze_in = (fault.steps, 60 + 5 * fault.seconds)


def second_agent(world: World, node: Node, fault: Fault) -> None:
    """Of the same member, by another unit or container, with a spool of its own."""
    if node.host_up and (node.second_agent is None or node.second_agent.dead):
        start_agent(world, node, spool="spool-2")


def kill_receiver(world: World, node: Node, fault: Fault) -> None:
    for receiver in node.receivers:
        if not receiver.dead:
            receiver.kill()


def freeze_receiver(world: World, node: Node, fault: Fault) -> None:
    for receiver in node.receivers:
        receiver.freeze(fault.seconds)


def kill_server(world: World, node: Node, fault: Fault) -> None:
    node.crash()


def power_loss(world: World, node: Node, fault: Fault) -> None:
    if node.host_up:
        _for_a_while(world, fault, node.power_off, node.power_on)


def freeze_host(world: World, node: Node, fault: Fault) -> None:
    node.freeze(fault.seconds)


def kill_patroni(world: World, node: Node, fault: Fault) -> None:
    """A primary goes on without it: two primaries, after the TTL."""

    def back() -> None:
        node.patroni_up = True

    node.patroni_up = False
    if node.promoting is not None:  # what it ran goes on, and the next Patroni runs another one beside it
        node.orphans.append(node.promoting)
        node.promoting = None
    world.after(fault.seconds, back)


def ungoverned(world: World, node: Node, fault: Fault) -> None:
    """A primary and its agent live on, without Patroni and cut off from the DCS: nobody tells them that another leads."""
    kill_patroni(world, node, fault)
    _for_a_while(world, fault, lambda: node.cut_off.add("dcs"), lambda: node.cut_off.discard("dcs"))


def callbacks(world: World, node: Node, fault: Fault) -> None:
    for _ in range(fault.steps % 5):
        node.poke()


def no_callbacks(world: World, node: Node, fault: Fault) -> None:
    """The script cannot be run any more: its file lost its rights."""
    node.callbacks_after = None


def late_callbacks(world: World, node: Node, fault: Fault) -> None:
    """It hangs, and its calls overtake each other."""
    node.callbacks_after = fault.seconds


def kill_pre_promote(world: World, node: Node, fault: Fault) -> None:
    """The next one, at a step of its own; that is a veto."""
    for each in world.nodes:
        each.promoting_dies_in = fault.steps


def jump_clock(world: World, node: Node, fault: Fault) -> None:
    """The wall clock, from here on: an hour or a day, ahead or back."""
    node.clock_off = (-3600.0, 3600.0, 86400.0, -86400.0)[fault.steps % 4]


def step_clock(world: World, node: Node, fault: Fault) -> None:
    """The wall clock again and again, by less or more than a lease lasts."""

    def step(seconds: float) -> None:
        node.clock_off += seconds

    for n in range(2 + fault.steps % 6):
        seconds = 10 * (fault.steps - 30) * (n + 1) * (-1) ** n
        world.after(n * fault.seconds / 4, lambda seconds=seconds: step(seconds))  # type: ignore[misc]


def sleep_host(world: World, node: Node, fault: Fault) -> None:
    """It is suspended: its monotonic clock stands still, and the one since its boot does not."""
    node.freeze(fault.seconds)
    node.slept += fault.seconds


def keys_expire(world: World, node: Node, fault: Fault) -> None:
    """From here on a member's key lives as long as its Patroni renews it."""
    world.keys_expire = True


# --------------------------------------------------------------------------------------------------------------- networks


def _cut(what: str) -> Callable[[World, Node, Fault], None]:
    def cut(world: World, node: Node, fault: Fault) -> None:
        _for_a_while(world, fault, lambda: node.cut_off.add(what), lambda: node.cut_off.discard(what))

    return cut


def lose_record_answer(world: World, node: Node, fault: Fault) -> None:
    node.cut_off.add("dcs answers")


def stale_reads(world: World, node: Node, fault: Fault) -> None:
    """Its agent is told what was true at this moment, for a while: of Kubernetes Patroni remembers what it has heard last."""
    world.reads_lag = True

    def now_or(old: bool) -> None:
        node.remembers_dcs = (dict(world.dcs.documents), world.dcs.leader) if old else None

    _for_a_while(world, fault, lambda: now_or(True), lambda: now_or(False))


def late_store(world: World, node: Node, fault: Fault) -> None:
    """From here on hosts see each other's objects late, as by attributes that NFS caches."""
    world.late_by = fault.seconds


def dcs_down(world: World, node: Node, fault: Fault) -> None:
    def down(value: bool) -> None:
        world.dcs.down = value
        world.leader_seen = world.loop.now

    _for_a_while(world, fault, lambda: down(True), lambda: down(False))


def store_down(world: World, node: Node, fault: Fault) -> None:
    def down(value: bool) -> None:
        world.store_down = value

    _for_a_while(world, fault, lambda: down(True), lambda: down(False))


def far_down(world: World, node: Node, fault: Fault) -> None:
    """The second store."""

    def down(value: bool) -> None:
        if world.beside is not None:
            world.beside.store_down = value

    _for_a_while(world, fault, lambda: down(True), lambda: down(False))


def lose_store_answers(world: World, node: Node, fault: Fault) -> None:
    world.lose_store_answers += 1 + fault.steps % 4


def wrong_answers(world: World, node: Node, fault: Fault) -> None:
    """To PUTs and listings: what was stored is said not to be, what was given up is stored, and lists end in the middle."""
    for place in (world, world.beside):
        if place is not None:
            place.wrong_answers += 1 + fault.steps % 6


def encrypt(world: World, node: Node, fault: Fault) -> None:
    """One host's configuration gets a recipient, or loses it; all agents, or only its own, are started with a key to read."""
    world.identity.write_text(f"{IDENTITY}\n")
    node.encrypts, node.plain_before = not node.encrypts, ANY_SEGMENT
    for each in world.nodes if fault.steps % 2 else [node]:
        for process in each.processes():
            process.kill()


def disbelieve_plain(world: World, node: Node, fault: Fault) -> None:
    """A configuration gets a recipient, and does not say that the archive was plain before."""
    if not node.encrypts:
        encrypt(world, node, fault)
        node.plain_before = ""


# -------------------------------------------------------------------------------------------------------------- the record


def wrong_record_answers(world: World, node: Node, fault: Fault) -> None:
    node.wrong_record_answers += 1 + fault.steps % 3


def wipe_record(world: World, node: Node, fault: Fault) -> None:
    world.dcs.wipe()
    world.invariants.dcs_changed_by_hand()


def lose_dcs(world: World, node: Node, fault: Fault) -> None:
    """The DCS is built anew: the record is gone, and what was remembered beside it. Patroni writes its own again."""
    world.dcs.documents.clear()
    for invariants in world.all_invariants:
        invariants.dcs_changed_by_hand()


def lose_all(world: World, node: Node, fault: Fault) -> None:
    """The store is emptied, DCS and spools are lost: of the archive that there was nobody knows, but for the hold slots."""
    for invariants in world.all_invariants:
        invariants.all_lost()
    world.dcs.documents.clear()
    for place in (world, world.beside):
        if place is not None:
            place.store.objects.clear()
    for each in world.nodes:
        for process in each.processes():
            process.kill()
        shutil.rmtree(each.directory / "spool", ignore_errors=True)


def garbage_record(world: World, node: Node, fault: Fault) -> None:
    world.dcs.put(b'{"lsn": "FFFFFFFF/0"}')
    world.invariants.dcs_changed_by_hand()


def old_record(world: World, node: Node, fault: Fault) -> None:
    """The DCS is put back to a backup of some seconds ago."""
    document = world.dcs.record.document if world.dcs.record else None
    if document is None or record_of(world) is None:
        return

    def put_back() -> None:
        world.dcs.put(document)
        world.invariants.dcs_changed_by_hand()
        world.put_back = True

    world.after(fault.seconds, put_back)


# ------------------------------------------------------------------------------------------------------------- the cluster


def switchover(world: World, node: Node, fault: Fault) -> None:
    """The leader shuts down, a standby that has everything takes its place."""
    old = world.leader
    if old is None or not old.primary or not old.answers or world.dcs.down:
        return
    standbys = [n for n in world.standbys_of(old) if n.answers and n.patroni_up and n.reaches(old)]
    if not standbys:
        return
    new = standbys[fault.steps % len(standbys)]
    new.receive(old)
    if world.leader is not old or not old.primary or not old.answers:
        return  # it took its time
    if world.archiver == "durable":
        _shut_down_first(world, old, new, fault.seconds)
        return
    if new.lsn != old.lsn or new.branch is not old.branch:
        return
    old.demote()
    world.set_leader(new)
    new.poke()
    old.poke()


def _shut_down_first(world: World, old: Node, new: Node, seconds: float) -> None:
    """Patroni gives the leader key away once pg_control says that the server is shut down; its walsenders may still send. What the
    other lacks is in the store.
    """
    old.shut_down()

    def handed_over() -> None:
        if not old.ending:
            return  # it crashed
        old.demote()
        if world.leader is old and not world.dcs.down:
            world.set_leader(new)
            new.poke()
        old.poke()

    world.after(seconds / 5, handed_over)


def lose_slot(world: World, node: Node, fault: Fault) -> None:
    """max_slot_wal_keep_size: PostgreSQL invalidates it, and recycles."""
    if node.slot is not None:
        node.slot.lost = True
        node.redo = node.lsn


def drop_slot(world: World, node: Node, fault: Fault) -> None:
    node.slot = None


def jump_slot(world: World, node: Node, fault: Fault) -> None:
    """Somebody streams from the hold slot."""
    if node.slot is not None:
        node.slot = Slot(node.lsn, sound=False)


def busy_slot(world: World, node: Node, fault: Fault) -> None:
    """Somebody streams from the hold slot for a while, and it follows him."""
    slot = node.slot
    if slot is not None:
        slot.sound = False

        def stream(active: bool) -> None:
            slot.active = active

        _for_a_while(world, fault, lambda: stream(True), lambda: stream(False))


def unreserved_slot(world: World, node: Node, fault: Fault) -> None:
    """max_slot_wal_keep_size: PostgreSQL will invalidate it at the next checkpoint, unless it has moved."""
    if node.slot is not None:
        node.slot.unreserved = True


def empty_slot(world: World, node: Node, fault: Fault) -> None:
    """Somebody made it again, and without a position."""
    node.slot = Slot(node.lsn, sound=False, reserves=False)


def slow_rebuilds(world: World, node: Node, fault: Fault) -> None:
    """From here on pg_rewind takes its time, with the agent beside it."""
    world.rebuilds_take = fault.seconds
    reinit(world, node, fault)


def reinit(world: World, node: Node, fault: Fault) -> None:
    leader = world.leader
    if leader is not None and leader.primary and leader is not node and not node.primary and node.answers:
        node.rebuild(leader, "reinitialised")


# --------------------------------------------------------------------------------------------------------------- the spool


def wipe_spool(world: World, node: Node, fault: Fault) -> None:
    shutil.rmtree(node.directory / "spool" / "wal", ignore_errors=True)


def disk_short(world: World, node: Node, fault: Fault) -> None:
    """Something else fills the spool's disk."""

    def short(is_short: bool) -> None:
        node.disk_short = is_short

    _for_a_while(world, fault, lambda: short(True), lambda: short(False))


def wal_disk_full(world: World, node: Node, fault: Fault) -> None:
    """Something else fills the disk that pg_wal and the spool share, up to some segments. A primary that needs another one stops,
    and does not start before there is room again: a crash recovery recycles nothing.
    """

    def room(segments: int | None) -> None:
        node.room = segments
        node.short_until = world.loop.now

    used = len(node.pg_wal.segments) + 1 + len(list((node.directory / "spool" / "wal").glob("0*")))
    _for_a_while(world, fault, lambda: room(used + (1, 3, 8, 14)[fault.steps % 4]), lambda: room(None))


def damage_spool(world: World, node: Node, fault: Fault) -> None:
    """A file is cut short, or a partial has an odd size, as after a full disk."""
    for path in sorted((node.directory / "spool" / "wal").glob("0*"))[-1 - fault.steps % 2 :]:
        with path.open("r+b") as file:
            file.truncate(4711)


def stale_spool(world: World, node: Node, fault: Fault) -> None:
    """Files from some other time: a segment of the future, a partial of an older timeline."""
    directory = node.directory / "spool" / "wal"
    if directory.exists():
        world.put_back = True  # the store comes to have more than the server: that looks as if its volume had gone back
        future = Segment(node.branch.timeline, node.lsn // SIZE + 3, SIZE)
        write_segment(directory / future.name, node.branch.plain(future.number))
        write_segment(directory / (Segment(1, node.lsn // SIZE, SIZE).name + PARTIAL), b"old")


def twin_pieces(world: World, node: Node, fault: Fault) -> None:
    """Another server, promoted under the same number at the same position, shipped its tail of the open segment."""
    number = node.lsn // SIZE
    end = readable(node.lsn) - number * SIZE
    if not world.tails or not end:
        return
    world.invariants.number_used_twice = True
    twin = Branch(99, node.branch.timeline, node.branch.parent, node.branch.begun)
    plain = twin.written_out(number)[:end]
    key = world.layout.piece(twin.segment(number).name, Piece(0, end, f"twin{fault.steps}"), world.archive.codec.suffix)
    if plain != node.branch.written_out(number)[:end] and key not in world.store.objects:
        sha256 = hashlib.sha256(plain).hexdigest()
        world.store.objects[key] = (world.archive.codec.encode(plain), {"sha256": sha256, "size": str(end)})


def mute_member(world: World, node: Node, fault: Fault) -> None:
    """It takes connections, and hangs."""

    def mute(value: bool) -> None:
        node.mute = value

    _for_a_while(world, fault, lambda: mute(True), lambda: mute(False))


def unknown_name(world: World, node: Node, fault: Fault) -> None:
    """A name server stumbles."""

    def unknown(value: bool) -> None:
        node.name_unknown = value

    _for_a_while(world, fault, lambda: unknown(True), lambda: unknown(False))


def roll_back(world: World, node: Node, fault: Fault, *, alone: bool = False) -> None:
    """The leader's volume goes back to a snapshot: the same timeline, and less of it."""
    leader = world.leader
    if leader is None or not leader.primary or not leader.answers or not leader.host_up:
        return
    there = [segment.start for segment in leader.pg_wal.segments if leader.branch.history.contains(segment)]
    lowest = max([leader.branch.begun + 100, min(there, default=leader.lsn)])
    lsn = leader.lsn - int(world.loop.dice.random() * 4 * SIZE)
    if lowest < lsn < leader.lsn:
        leader.go_back(lsn, alone=alone)


def roll_back_under_the_agent(world: World, node: Node, fault: Fault) -> None:
    """PostgreSQL alone crashed meanwhile; its agent runs on."""
    roll_back(world, node, fault, alone=True)


def twin_segments(world: World, node: Node, fault: Fault) -> None:
    """Another server, promoted under the same number at the same position, archived what comes next on this timeline."""
    leader = world.leader
    if leader is None or not leader.primary:
        return
    world.invariants.number_used_twice = True
    twin = Branch(99, leader.branch.timeline, leader.branch.parent, leader.branch.begun)
    for number in range(leader.lsn // SIZE, leader.lsn // SIZE + 2):
        segment, plain = twin.segment(number), twin.plain(number)
        key = world.layout.file(segment, world.archive.codec.suffix)
        if segment.timeline == leader.branch.timeline and plain != leader.branch.plain(number):
            sums = {"sha256": twin.sha256(number), "size": str(int(SIZE))}
            world.store.objects.setdefault(key, (world.archive.codec.encode(plain), sums))
    if leader.agent is not None:
        leader.agent.die_in = fault.steps


def forget_numbers(world: World, node: Node, fault: Fault) -> None:
    """From here on nobody's restore_command reads the archive."""
    world.forgetful = True


def swap_store(world: World, node: Node, fault: Fault) -> None:
    """Everybody's configuration gets another prefix for a while; agents are started again at both ends."""

    def show(store: dict[str, tuple[bytes, dict[str, str]]] | None) -> None:
        world.elsewhere = store
        for each in world.nodes:
            for process in each.processes():
                process.kill()

    record = record_of(world)
    if world.elsewhere is None and record is not None and not nothing_archived(record):
        _for_a_while(world, fault, lambda: show({}), lambda: show(None))


def edit_record(world: World, node: Node, fault: Fault) -> None:
    """Somebody puts the frontier where the server is."""
    record, leader = record_of(world), world.leader
    begun = any(
        key.startswith(world.layout.starts) for key in world.store.objects
    )  # else a person begins a new archive
    if begun and record is not None and leader is not None and leader.branch.timeline == record.timeline:
        end = leader.lsn // SIZE * SIZE
        edited = msgspec.structs.replace(record, lsn=str(Lsn(max(end, record.position))), below_sha256="")
        world.dcs.put(edited.encode())
        world.invariants.dcs_changed_by_hand()
        world.invariants.edited_to = max(end, record.position)
        world.put_back = True
        if leader.agent is not None:
            leader.agent.kill()


def another_lives(world: World, node: Node, fault: Fault) -> None:
    """This cluster is a copy: another one keeps the archive alive, for minutes, and the copy's DCS is empty."""
    if world.invariants.another_lives:
        return
    world.invariants.another_lives = True
    until = world.loop.now + WATCH_SECONDS + 20

    def renew(number: int) -> None:
        if world.loop.now < until:
            world.store.objects[world.layout.life("f" * 16, number)] = (b"{}", {})
            world.after(RENEW_SECONDS, lambda: renew(number + 1))
        else:
            world.invariants.another_lives = False
            begin_again()  # what was refused stays so until a person accepts it, or starts the agent again

    def begin_again() -> None:
        for each in world.nodes:
            for process in each.processes():
                process.kill()

    renew(sum("/life/" in key for key in world.store.objects))
    world.dcs.wipe()
    world.invariants.dcs_changed_by_hand()
    begin_again()


def delete_object(world: World, node: Node, fault: Fault) -> None:
    """Somebody deletes a segment in the store, which the leader still has, and which no takeover needs."""
    leader, record = world.leader, record_of(world)
    if leader is None or not leader.primary or record is None:
        return
    last = record.position // SIZE - 2
    first = Segment.parse(record.start, SIZE).number
    there = sorted(s for s in leader.pg_wal.segments if first < s.number < last and leader.branch.history.contains(s))
    stored = [segment for segment in there if world.layout.file(segment, ".zst") in world.store.objects]
    if stored:
        segment = stored[fault.steps % len(stored)]
        leader.kept.add(segment)
        del world.store.objects[world.layout.file(segment, ".zst")]
        world.invariants.deleted_by_hand.add(world.layout.file(segment, ".zst"))


KINDS: Final[dict[str, Callable[[World, Node, Fault], None]]] = {
    "kill_agent": kill_agent,
    "freeze_agent": freeze_agent,
    "freeze_long": freeze_long,
    "second_agent": second_agent,
    "kill_receiver": kill_receiver,
    "freeze_receiver": freeze_receiver,
    "kill_server": kill_server,
    "power_loss": power_loss,
    "freeze_host": freeze_host,
    "kill_patroni": kill_patroni,
    "ungoverned": ungoverned,
    "callbacks": callbacks,
    "no_callbacks": no_callbacks,
    "late_callbacks": late_callbacks,
    "kill_pre_promote": kill_pre_promote,
    "jump_clock": jump_clock,
    "keys_expire": keys_expire,
    "step_clock": step_clock,
    "sleep_host": sleep_host,
    "cut_dcs": _cut("dcs"),
    "cut_dcs_writes": _cut("dcs writes"),
    "cut_store": _cut("store"),
    "cut_members": _cut("members"),
    "lose_record_answer": lose_record_answer,
    "stale_reads": stale_reads,
    "late_store": late_store,
    "dcs_down": dcs_down,
    "store_down": store_down,
    "far_down": far_down,
    "cut_far": _cut("far store"),
    "lose_store_answers": lose_store_answers,
    "wrong_answers": wrong_answers,
    "wrong_record_answers": wrong_record_answers,
    "encrypt": encrypt,
    "disbelieve_plain": disbelieve_plain,
    "wipe_record": wipe_record,
    "lose_dcs": lose_dcs,
    "lose_all": lose_all,
    "garbage_record": garbage_record,
    "old_record": old_record,
    "switchover": switchover,
    "lose_slot": lose_slot,
    "drop_slot": drop_slot,
    "jump_slot": jump_slot,
    "busy_slot": busy_slot,
    "unreserved_slot": unreserved_slot,
    "empty_slot": empty_slot,
    "slow_rebuilds": slow_rebuilds,
    "reinit": reinit,
    "wipe_spool": wipe_spool,
    "disk_short": disk_short,
    "wal_disk_full": wal_disk_full,
    "damage_spool": damage_spool,
    "stale_spool": stale_spool,
    "twin_pieces": twin_pieces,
    "mute_member": mute_member,
    "unknown_name": unknown_name,
    "roll_back": roll_back,
    "roll_back_under_the_agent": roll_back_under_the_agent,
    "twin_segments": twin_segments,
    "forget_numbers": forget_numbers,
    "swap_store": swap_store,
    "edit_record": edit_record,
    "another_lives": another_lives,
    "delete_object": delete_object,
}
SELDOM: Final = {
    "step_clock",
    "sleep_host",
    "wrong_answers",
    "wrong_record_answers",
    "encrypt",
    "disbelieve_plain",
    "busy_slot",
    "unreserved_slot",
    "empty_slot",
    "slow_rebuilds",
    "freeze_long",
    "second_agent",
    "stale_reads",
    "late_store",
    "no_callbacks",
    "late_callbacks",
    "kill_pre_promote",
    "jump_clock",
    "keys_expire",
    "wal_disk_full",
    "lose_dcs",
    "lose_all",
    "far_down",
    "cut_far",
    "ungoverned",
    "disk_short",
    "twin_pieces",
    "mute_member",
    "unknown_name",
    "roll_back",
    "roll_back_under_the_agent",
    "twin_segments",
    "forget_numbers",
    "swap_store",
    "edit_record",
    "another_lives",
    "delete_object",
}
"""Only where a schedule names them: some take away what is else demanded."""

OFTEN: Final = (
    *("kill_agent", "freeze_agent", "power_loss", "freeze_host", "kill_patroni", "switchover", "store_down"),
    *("power_loss", "freeze_host", "kill_patroni", "switchover", "switchover"),
)
"""Most of what can go wrong needs a promotion."""


DURABLE: Final = (
    *("kill_agent", "freeze_agent", "kill_server", "power_loss", "freeze_host", "kill_patroni", "callbacks"),
    *("cut_dcs", "cut_dcs_writes", "cut_store", "cut_members", "lose_record_answer", "dcs_down", "store_down"),
    *("lose_store_answers", "wipe_record", "switchover", "lose_slot", "drop_slot", "reinit", "mute_member"),
    *(
        "freeze_agent",
        "freeze_host",
        "kill_patroni",
        "ungoverned",
        "ungoverned",
        "ungoverned",
        "power_loss",
        "switchover",
        "cut_members",
    ),
)
"""What may happen where commits wait for the store: none of it takes away what is stored, or puts a disk back."""


SEVERAL: Final = (
    *("kill_agent", "freeze_agent", "kill_receiver", "kill_server", "power_loss", "freeze_host", "kill_patroni"),
    *(
        "callbacks",
        "cut_dcs",
        "cut_dcs_writes",
        "cut_store",
        "cut_far",
        "cut_members",
        "lose_record_answer",
        "dcs_down",
    ),
    *(
        "store_down",
        "store_down",
        "far_down",
        "far_down",
        "lose_store_answers",
        "switchover",
        "switchover",
        "power_loss",
    ),
    *("lose_slot", "drop_slot", "jump_slot", "reinit", "wipe_spool", "damage_spool", "kill_agent"),
)
"""What may happen to a cluster with two stores."""


def draw(dice: random.Random, kinds: tuple[str, ...] = ()) -> list[Fault]:
    """The faults of one schedule, in their order; of those ``kinds`` only, if there are any."""
    kinds = kinds or (*(kind for kind in KINDS if kind not in SELDOM), *OFTEN)
    faults = [
        Fault(
            round(dice.uniform(0, LAST), 2),
            dice.choice(kinds),
            dice.random() < 0.6,
            dice.randrange(3),
            dice.randrange(60),
            round(dice.choice([0.5, 3, 12, 30]) * dice.uniform(0.5, 1.5), 1),
        )
        for _ in range(dice.randint(1, 9))
    ]
    return sorted(faults, key=lambda fault: fault.at)


def heal(world: World) -> None:
    """Everything works again; what is half-way is left for the agents to sort out."""
    world.loop.note("world", "HEALED", "")
    world.dcs.down = False
    world.store_down = False
    world.late_by = 0.0
    if world.beside is not None:
        world.beside.store_down = False
        world.beside.wrong_answers = 0
    if world.elsewhere is not None:
        world.elsewhere = None
        for each in world.nodes:
            for process in each.processes():
                process.kill()
    world.lose_store_answers = world.wrong_answers = 0
    world.rebuilds_take = 0.0
    for node in world.nodes:
        if node.second_agent is not None:
            node.second_agent.kill()
        node.remembers_dcs = None
        node.wrong_record_answers = 0
        if world.identity.exists() and node.agent is not None:
            node.agent.kill()  # somebody gives all of them the key, and says what was plain
            node.plain_before = ANY_SEGMENT
        if node.slot is not None and not node.slot.reserves:
            node.slot = None
        node.cut_off.clear()
        node.mute = node.name_unknown = node.disk_short = False
        if node.room is not None:
            node.room, node.short_until = None, world.loop.now
        node.patroni_up = True
        node.host_up = True
        if node.agent is not None:
            node.agent.die_in = node.agent.freeze_in = None
