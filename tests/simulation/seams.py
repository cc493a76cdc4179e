"""What an agent sees of the world: the store, the record, its server, pg_receivewal and the spool.

Each call is two steps, before and after it takes effect: there an agent may die, be frozen, lose its turn or its answer.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self, TypeVar, cast

import walkeeper.agent.agent
import walkeeper.agent.archiver.audit
import walkeeper.agent.archiver.spool
import walkeeper.archive.read
import walkeeper.core.tail
from tests.fixtures.worlds import config_of
from tests.parts.postgres import Postgres
from tests.parts.ways import keys_of
from tests.simulation import threads
from tests.simulation.invariants import GAP_PATIENCE
from tests.simulation.threads import Clock, Killed, Process, current, here
from tests.simulation.wal import (
    SIZE,
    SYSTEM,
    Branch,
    read_segment,
    read_wal_file,
    readable,
    sums_of,
    write_history,
    write_segment,
)
from tests.simulation.wal import Plain as SegmentPlain
from tests.twins.memory_record import MemoryRecord
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.agent import Agent
from walkeeper.agent.archive_push import Pushing
from walkeeper.agent.archiver.lost_wal import LostWal
from walkeeper.agent.archiver.spool import Spool
from walkeeper.agent.threads import Supervisor
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.tail_read import Tail, read_tail
from walkeeper.config import Config, PostgresqlSettings
from walkeeper.config.model import NamedStore
from walkeeper.core.hold_slot import SlotState
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import PARTIAL, Segment
from walkeeper.core.receipt import Receipt
from walkeeper.core.synchronous import Acknowledgement
from walkeeper.core.wal_page import PAGE_SIZE, Plain
from walkeeper.dcs.base import RECORD, REMEMBERED, Leader, Topology, Versioned
from walkeeper.dcs.claim import decoded
from walkeeper.errors import (
    BadName,
    CasConflict,
    DcsError,
    DcsUnavailable,
    PostgresError,
    StoreDenied,
    StoreUnavailable,
)
from walkeeper.postgres.pg_receivewal import Ended, Written
from walkeeper.postgres.server import CommandState, CommitsState, ServerState
from walkeeper.postgres.wal_file import Memory
from walkeeper.postgres.walsender import Identity
from walkeeper.store.base import MAX_OBJECT, AlreadyThere, Body, ObjectInfo, Store
from walkeeper.store.directory.keys import DirectorySettings

if TYPE_CHECKING:
    from tests.simulation.beside import Beside
    from tests.simulation.nodes import Node
    from tests.simulation.world import World

T = TypeVar("T")
SPOOL_LIMIT: Final = 4 * SIZE
POLL: Final = 1.0
TAIL_INTERVAL: Final = 0.5
IDENTITY: Final = "AGE-SECRET-KEY-1U3SHQSZ2XL4Z40Z9XAMF6SQ5KSL6739JMYFJ8N8WML5FA9CCJNPQL38HFW"
RECIPIENT: Final = "age1hwmaptt8y2765hpdmg5k0w75lcu7e5jsy2hyt4jzawrzxmm2dclqre23nv"
AUDIT_SECONDS: Final = 5.0
MERGED_AT_ONCE: Final = 3
"""Pieces, so that a segment has enough of them for two levels."""


class NodeProcess(Process):
    """One of walkeeper's on its node."""

    def __init__(self, world: World, node: Node, name: str) -> None:
        super().__init__(world.loop, name)
        self.world = world
        self.node = node


class AgentProcess(NodeProcess):
    """An agent on its node."""

    def __init__(self, world: World, node: Node) -> None:
        super().__init__(world, node, f"agent {node.name}")


def agent() -> AgentProcess:
    """The agent that runs now."""
    process = here()
    assert isinstance(process, AgentProcess)
    return process


def start_agent(world: World, node: Node, *, spool: str = "spool") -> None:
    """``spool``: another one is a second agent's, by mistake."""
    process = AgentProcess(world, node)
    first = spool == "spool"
    if first:
        node.agent, node.push = process, None
    else:
        node.second_agent = process
    node.receivers = [receiver for receiver in node.receivers if not receiver.dead]

    def main() -> None:
        process.step("starts")
        clock = NodeClock(node)
        store, remembered = StoreView(world, process), RecordView(process, REMEMBERED)
        config = config_for(node, spool)
        running = Agent(config, store, RecordView(process), clock, {}, remembered)
        beside = [_agent_beside(world.beside, process, running, config)] if world.beside is not None else []
        if first:
            node.pokes, node.refusals = _all_of([each.poke for each in (running, *beside)]), running.refusals.answer
        for each in (running, *beside):
            each.start()
        if world.archiver == "command" and first:
            node.push = Pushing(running, node.directory / "run", clock).answer
        running.supervisor.ended.wait()
        if not process.dead:
            process.kill()

    process.run(main)


def _agent_beside(beside: Beside, process: AgentProcess, first: Agent, config: Config) -> Agent:
    records = RecordView(process, f"{RECORD}-far", beside)
    remembered = RecordView(process, f"{REMEMBERED}-far")
    store = StoreView(beside, process)
    return Agent(config.of_store("far"), store, records, NodeClock(process.node), {}, remembered, first.shared)


class NodeClock(Clock):
    """That of a host which may sleep."""

    def __init__(self, node: Node) -> None:
        super().__init__(node.world.loop)
        self._node = node

    def monotonic(self) -> float:
        return super().monotonic() - self._node.slept


def _all_of(works: list[Callable[[], None]]) -> Callable[[], None]:
    def all_of() -> None:
        for work in works:
            work()

    return all_of


def config_for(node: Node, spool: str = "spool") -> Config:
    config = config_of(cast("Postgres", node), node.name, node.directory, spool_limit=SPOOL_LIMIT)
    return replace(
        config,
        **keys_of(node.world.archiver),  # type: ignore[arg-type]
        tail_interval=TAIL_INTERVAL if node.world.tails else None,
        encryption_recipients=(RECIPIENT,) if node.encrypts else (),
        plain_before=node.plain_before if node.encrypts else "",
        identity_file=node.world.identity if node.world.identity.exists() else None,
        gap_patience=GAP_PATIENCE,
        others=() if node.world.beside is None else (NamedStore("far", DirectorySettings(node.directory / "far")),),
        durable_in=1 if node.world.beside is None else 2,
        agent=replace(config.agent, poll_interval=POLL),
        node=replace(config.node, spool_directory=node.directory / spool),
    )


# --------------------------------------------------------------------------------------------------------------- the store


class StoreView(MemoryStore):
    """The one store, as one agent reaches it; without an agent as we look into it ourselves."""

    def __init__(self, world: World | Beside, process: NodeProcess | None) -> None:
        super().__init__(before=self._before, after=self._after)
        self._world = world
        self._process = process
        if process is not None:
            self.objects = world.store.objects if world.elsewhere is None else world.elsewhere
        self.calls = _Nothing()

    def _before(self, method: str, key: str) -> None:
        if self._process is None:
            return
        self._process.step(f"store.{method}", key)
        world = self._world
        if method == "head":
            world.invariants.looked(self._process.node, key)
        cut = "store" if world is self._process.world else "far store"
        if world.store_down or cut in self._process.node.cut_off:
            world.loop.wait(world.loop.dice.choice([0, 5]))
            raise StoreUnavailable(f"{key}: no answer")
        if method == "delete":
            world.invariants.deleted(self._process, key)

    def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> None:
        """Where answers are wrong: it is stored seconds after the caller was told that there is no answer; or it is stored, and an error or
        another attempt's refusal is what comes back.
        """
        lie = self._lie(("late", "error", "there"))
        if lie == "late":
            self._before("create", key)
            self._world.after(self._world.loop.dice.uniform(0, 30), lambda: self._arrives(key, bytes(body), metadata))
            raise StoreUnavailable(f"{key}: no answer in time")
        super().create(key, body, metadata)
        if lie == "error":
            raise StoreDenied(f"{key}: denied, it says", hint="")
        if lie == "there":
            raise AlreadyThere(key)

    def _lie(self, kinds: tuple[str, ...]) -> str:
        world = self._world
        if self._process is None or not world.wrong_answers or world.loop.dice.random() < 0.3:
            return ""
        world.wrong_answers -= 1
        lie = world.loop.dice.choice(kinds)
        world.loop.note(self._process.name, "IS ANSWERED WRONGLY:", lie)
        return lie

    def _arrives(self, key: str, body: bytes, metadata: Mapping[str, str]) -> None:
        if key not in self.objects:
            self._world.loop.note("world", "a PUT arrives late:", key)
            self.objects[key] = (body, dict(metadata))
            self._comes_to_be(key)

    def head(self, key: str) -> ObjectInfo | None:
        found = super().head(key)
        return None if self._comes_late(key) else found

    def get(self, key: str, limit: int = MAX_OBJECT) -> Body | None:
        found = super().get(key, limit)
        return None if self._comes_late(key) else found

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        lie = self._lie(("cut",))
        for count, found in enumerate(super().list(prefix)):
            if lie and count == 1:
                raise StoreUnavailable(f"{prefix}: the answer ends in the middle")
            if not self._comes_late(found.key):
                yield found

    def _comes_late(self, key: str) -> bool:
        """Whether another host has created that just now, and this one, which has looked before, remembers that it is not there."""
        if self._process is None or not self._world.late_by or self.objects is not self._world.store.objects:
            return False
        by, at = self._world.created.get(key, ("", -1e9))
        return by != self._process.node.name and self._world.loop.now - at < self._world.late_by

    def _after(self, method: str, key: str) -> None:
        if self._process is None:
            return
        world = self._world
        if method == "create":
            self._comes_to_be(key)
        world.invariants.answered(self._process.node)
        if world.lose_store_answers:
            world.lose_store_answers -= 1
            raise StoreUnavailable(f"{key}: the answer was lost")
        self._process.step(f"store.{method} done", key)

    def _comes_to_be(self, key: str) -> None:
        world = self._world
        assert self._process is not None
        world.created.setdefault(key, (self._process.node.name, world.loop.now))
        if self.objects is world.store.objects:
            world.invariants.created(self._process, key)
        else:
            world.invariants.created_elsewhere(self._process, key)


class _Nothing(list[tuple[str, str]]):
    def append(self, _: tuple[str, str]) -> None:
        """Nobody counts the calls here."""


# -------------------------------------------------------------------------------------------------------------- the record


class RecordView(MemoryRecord):
    """The one record, or what is remembered beside it, as one process reaches it."""

    def __init__(self, process: NodeProcess, key: str = RECORD, world: World | Beside | None = None) -> None:
        """``world``: whose record it is, where that is not the first store's."""
        super().__init__(process.world.dcs, key, guards=process.world.guards)
        self._process = process
        self._world = process.world if key == RECORD else world

    def _check(self) -> None:
        node = self._process.node
        self.cut_off = "dcs" in node.cut_off
        self.read_only = "dcs writes" in node.cut_off
        if "dcs answers" in node.cut_off:
            node.cut_off.remove("dcs answers")
            self.lose_answers = 1
        super()._check()

    @property
    def reads_lag(self) -> bool:
        return self._process.world.reads_lag

    @reads_lag.setter
    def reads_lag(self, lag: bool) -> None:
        """It is the world's."""

    def read(self) -> Versioned | None:
        self._process.step(f"{self.key}.read")
        found = super().read()
        if self._process.node.remembers_dcs is not None:
            found = self._process.node.remembers_dcs[0].get(self.key)
        self._process.step(f"{self.key}.read done")
        return found

    def leader(self) -> Leader | None:
        self._process.step("record.leader")
        found = super().leader()
        if self._process.node.remembers_dcs is not None:
            found = self._process.node.remembers_dcs[1]
        self._process.step("record.leader done", found.name if found else None)
        return found

    def topology(self) -> Topology:
        self._check()
        return super().topology()

    def write(self, document: bytes, expected: Versioned | None, guard: Leader | None = None) -> Versioned:
        self._process.step(f"{self.key}.write", document.decode() if self._process.loop.trace is not None else "")
        if self._process.node.wrong_record_answers:
            return self._write_lied_about(document, expected, guard)
        return self._write(document, expected, guard)

    def _write_lied_about(self, document: bytes, expected: Versioned | None, guard: Leader | None) -> Versioned:
        """It takes effect seconds after the caller was told that there is no answer; or at once, and the client's own second attempt is
        refused.
        """
        process, world = self._process, self._process.world
        process.node.wrong_record_answers -= 1
        if world.loop.dice.random() < 0.5:

            def arrives() -> None:
                with suppress(DcsError):
                    self._write(document, expected, guard)

            world.loop.note(process.name, "IS ANSWERED WRONGLY: late")
            world.after(world.loop.dice.uniform(0, 20), arrives)
            raise DcsUnavailable(f"{self.key}: no answer in time", hint="")
        self._write(document, expected, guard)
        world.loop.note(process.name, "IS ANSWERED WRONGLY: refused")
        raise CasConflict(f"{self.key}: somebody else wrote it first")

    def _write(self, document: bytes, expected: Versioned | None, guard: Leader | None) -> Versioned:
        before = self.dcs.documents.get(self.key)
        try:
            return super().write(document, expected, guard)
        finally:
            if self.dcs.documents.get(self.key) is not before:
                if self._world is not None:
                    if decoded(expected).record is None:
                        self._world.invariants.taken_without_a_record(self._process)
                    self._world.invariants.record_written(self._process, document)
                if current() is self._process:
                    self._process.step(f"{self.key}.write done")


# -------------------------------------------------------------------------------------------------------------- the server


class ServerView:
    """walkeeper.postgres.server.Server."""

    def __init__(self, settings: PostgresqlSettings, timeout: float, application: str = "") -> None:
        self.settings = settings
        self._timeout = timeout
        self._connected_to: int | None = None

    def _ask(self, what: str) -> Node:
        process = agent()
        process.step(f"server.{what}")
        node = process.world.by_port[self.settings.port]
        if node.frozen:
            process.loop.wait(self._timeout)
            raise PostgresError("the server: no answer")
        if not node.answers:
            raise PostgresError("the server: connection refused")
        if self._connected_to not in {None, node.server_started}:
            self._connected_to = None
            raise PostgresError("the server: it closed the connection")
        self._connected_to = node.server_started
        return node

    def state(self) -> ServerState:
        node = self._ask("state")
        return ServerState(SYSTEM, not node.primary, node.branch.timeline, Lsn(node.lsn), SIZE, 15, "replica")

    def replay_timeline(self) -> int:
        return self._ask("replay_timeline").branch.timeline

    def slot(self, name: str) -> SlotState | None:
        node = self._ask("slot")
        found = node.slot
        if found is None:
            return None
        at = Lsn(found.restart_lsn) if found.reserves else None
        return SlotState(True, at, 4711 if found.active else None, found.lost, found.unreserved and not found.lost)

    def advance_slot(self, name: str, lsn: Lsn) -> None:
        node = self._ask("advance_slot")
        slot = node.slot
        if slot is None or slot.lost or slot.active or not slot.reserves or lsn < slot.restart_lsn:
            raise PostgresError("the slot cannot be advanced")
        slot.unreserved = slot.unreserved and lsn == slot.restart_lsn
        slot.restart_lsn = min(int(lsn), node.lsn)
        world = agent().world
        world.invariants.slot_advanced(agent(), lsn)
        if world.beside is not None and world.beside.key in world.dcs.documents:
            world.beside.invariants.slot_advanced(agent(), lsn)
        agent().step("server.advance_slot done", lsn)

    def call_itself(self, name: str) -> None:
        """For ``agents``, as long as that agent lives."""
        agent().world.by_port[self.settings.port].called = agent(), name

    def agents(self) -> list[str]:
        called = self._ask("agents").called
        return [called[1]] if called is not None and not called[0].dead else []

    def commits(self, standby: str) -> CommitsState:
        self._ask("commits")
        return CommitsState(None, standby, connected=1)

    def archive_command(self) -> CommandState:
        self._ask("archive_command")
        return CommandState("off", 0, None, 0, None, fails=False)

    def begin_anew(self) -> None:
        """Each call has a session of its own here."""

    def close(self) -> None:
        """Nothing is open."""


# ------------------------------------------------------------------------------------------------------------ pg_receivewal


class ReceiverView:
    """walkeeper.postgres.pg_receivewal.Receiver: a child process of the agent's."""

    def __init__(
        self, program: Path, directory: Path, settings: PostgresqlSettings, passfile: Path, clock: Clock
    ) -> None:
        self._directory = directory
        self._settings = settings
        self._clock = clock
        self._child: PgReceivewal | None = None
        self._runs = 0
        self._filled: tuple[int, str] | None = None

    @property
    def running(self) -> bool:
        return self._child is not None

    def written(self, partial: Path, size: int) -> Written | None:
        """What the kernel says of the child's descriptor."""
        agent().step("receiver.written", partial.name)
        child, run = self._child, self._runs
        found = None if child is None else child.position_in(partial)
        if found in {None, size}:
            return None
        if found != size - PAGE_SIZE:
            self._filled = (run, partial.name)
        elif self._filled != (run, partial.name):
            return None
        agent().step("receiver.written done", found)
        return Written(run, found) if found is not None and self._runs == run else None

    def start(self, last: Segment) -> None:
        process = agent()
        process.step("receiver.start", self._directory.name)
        server = process.world.by_port[self._settings.port]
        self._child = PgReceivewal(process, server, self._directory, last)
        self._runs += 1
        process.children.append(self._child)
        process.node.receivers.append(self._child)

    def poll(self) -> Ended | None:
        if self._child is None or (self._child.ended is None and not self._child.dead):
            return None
        ended = self._child.ended or Ended(False, "rc -9: no output")
        self._child = None
        return ended

    def stop(self) -> None:
        if self._child is None:
            return
        agent().step("receiver.stop")
        self._child.kill()
        self._child = None

    def wait(self, timeout: float, cancelled: Callable[[], bool]) -> str:
        deadline = self._clock.monotonic() + timeout
        while self._clock.monotonic() < deadline and not cancelled():
            ended = self.poll()
            if ended is not None:
                return ended.said
            self._clock.sleep(0.2)
        self.stop()
        return "stopped: it did not come to an end"


class PgReceivewal(Process):
    """The program. It starts where its directory says, as was measured, and ends with ``last``."""

    def __init__(self, parent: AgentProcess, server: Node, directory: Path, last: Segment) -> None:
        super().__init__(parent.loop, f"receiver {parent.node.name}")
        self.ended: Ended | None = None
        self._host = parent.node
        self._server = server
        self._directory = directory
        self._last = last
        self._connected_to = server.server_started
        self._open: IO[bytes] | None = None
        self.run(self._main)

    def _main(self) -> None:
        try:
            said = self._stream()
        except OSError as problem:  # its directory was removed
            said = f"rc 1: could not write: {problem.strerror}"
        finally:
            self._close()
        self.ended = Ended(said == "rc 0", said)
        self.loop.note(self.name, "ends", said)

    def _stream(self) -> str:
        self.step("connects to", self._server.name)
        if self._server is not self._host:
            if self._server.name_unknown:
                return "rc 1: could not translate host name: Temporary failure in name resolution"
            while self._server.mute or self._server.frozen:
                self.loop.wait(1)
        if self._lost_connection():
            return "rc 1: connection to server failed: refused"
        begin = self._begin()
        if isinstance(begin, str):
            return begin
        timeline, number = begin
        server = self._server
        history = server.branch.history
        ends = {switch.timeline: switch.lsn for switch in server.branch.written.switches}
        if not history.includes(timeline) or number * SIZE > ends.get(timeline, 1 << 62):
            return "rc 1: requested starting point is not in this server's history"
        self.step("streams from", f"{timeline}/{number}")
        while number <= self._last.number:
            self.loop.wait(self.loop.dice.random() * 0.3)
            if self._lost_connection() or server.branch.history is not history:
                return "rc 1: server closed the connection unexpectedly"
            file = server.branch.segment(number)
            segment = Segment(timeline, number, SIZE)
            if not server.has(file) and file.end <= server.lsn:
                return self._removed(segment)
            partial = self._directory / (segment.name + PARTIAL)
            if not partial.exists() and not self._host.free:
                partial.write_bytes(b"as far as there was room")
                return "rc 1: could not write: No space left on device"
            if server.lsn > segment.start:
                self._write(partial, server.branch, number)
            if segment != file and segment.end <= ends.get(timeline, 0):  # its history claims more than it has
                if server.branch.segment(number - 1).timeline != timeline:
                    return self._removed(segment)
                self._close()
                write_segment(partial, b"what a standby had received and not replayed")
                partial.rename(self._directory / segment.name)
                number += 1
            elif segment == file and server.lsn >= segment.end:
                self._close()
                write_segment(partial, server.branch.plain(number))
                partial.rename(self._directory / segment.name)
                number += 1
            elif timeline in ends and server.lsn >= ends[timeline]:
                timeline = history.timelines[history.timelines.index(timeline) + 1]
                branch = next(b for b, _ in server.branch.ancestry() if b.timeline == timeline)
                write_history(self._directory, branch)
            else:
                self.loop.wait(0.5)
        return "rc 0"

    def _removed(self, segment: Segment) -> str:
        for invariants in self._host.world.all_invariants:
            invariants.refused(self._host, self._server, segment)
        return f"rc 1: requested WAL segment {segment} has already been removed"

    def _write(self, partial: Path, branch: Branch, number: int) -> None:
        """What the server has more of that segment. Without tails nobody looks at it before it is whole."""
        if not self._host.world.tails:
            write_segment(partial, b"begun")
            return
        if self._open is None or self._open.name != str(partial):
            self._close()
            self._open = partial.open("r+b" if partial.exists() else "w+b", buffering=0)
            self._open.truncate(SIZE)
        begin, end = self._open.tell(), min(readable(self._server.lsn) - number * SIZE, SIZE)
        self._open.write(branch.written_out(number)[begin:end])

    def _close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def position_in(self, partial: Path) -> int | None:
        """Where it writes in that file; None if it does not: it ended, or another one has that name by now."""
        if self._open is None or self.dead or self.ended is not None:
            return None
        try:
            found, ours = partial.stat(), os.fstat(self._open.fileno())
        except FileNotFoundError:
            return None
        return self._open.tell() if found.st_ino == ours.st_ino and found.st_size == SIZE else None

    def _lost_connection(self) -> bool:
        server = self._server
        return not server.answers or not self._host.reaches(server) or server.server_started != self._connected_to

    def _begin(self) -> tuple[int, int] | str:
        """The newest file decides; with none, it begins now."""
        names = []
        for path in self._directory.iterdir():
            try:
                names.append((Segment.parse(path.name.removesuffix(PARTIAL), SIZE), path))
            except BadName:
                continue
        if not names:
            return self._server.branch.timeline, self._server.lsn // SIZE
        newest, path = max(names, key=lambda named: (named[0].timeline, named[0].number, named[1].name))
        size = path.stat().st_size
        if path.name.endswith(PARTIAL):
            if size not in {0, SIZE}:
                return f"rc 1: {path.name} has {size} bytes, should be 0 or {SIZE}"
            return newest.timeline, newest.number
        if size != SIZE:
            return self._server.branch.timeline, self._server.lsn // SIZE
        return newest.timeline, newest.number + 1


# -------------------------------------------------------------------------------------------------- receiver: builtin's stream


class WalStreamView:
    """walkeeper.postgres.wal_stream.WalStream: a walsender of the node's own server."""

    def __init__(self, settings: PostgresqlSettings, application: str = "", wake: int = -1) -> None:
        self._given = Lsn(0)
        self.server_lsn = Lsn(0)
        self.heard = self.ended = False
        self._server = agent().world.by_port[settings.port]
        self._connected_to = self._server.server_started
        self._branch = self._server.branch
        self._next = 0

    def __enter__(self) -> Self:
        agent().step("stream.connect")
        if self._server.frozen:
            agent().loop.wait(2)
        self._connected_to = self._server.server_started
        self._branch = self._server.branch
        self._check()
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def _check(self) -> None:
        server = self._server
        there = server.answers or (server.ending and self._next and server.host_up and not server.frozen)
        if not there or server.server_started != self._connected_to or server.branch is not self._branch:
            raise PostgresError("the server: it closed the connection")

    def identify(self) -> Identity:
        agent().step("stream.identify")
        self._check()
        return Identity(SYSTEM, self._server.branch.timeline)

    def start(self, lsn: Lsn, timeline: int) -> None:
        agent().step("stream.start", lsn)
        self._check()
        if timeline != self._server.branch.timeline or lsn > self._server.lsn:
            raise PostgresError("the server: requested starting point is not in this server's history")
        self._next = int(lsn)

    def receive(self, seconds: float, take: Callable[[Lsn, memoryview], None]) -> None:
        """Some of what the server has flushed; from the open segment, or from files that are still there."""
        agent().step("stream.receive", Lsn(self._next))
        server, loop = self._server, agent().loop
        if server.frozen:
            loop.wait(seconds)
            return
        self._check()
        number, end = self._next // SIZE, readable(server.lsn)
        segment = server.branch.segment(number)
        if segment.end <= server.lsn and not server.has(segment):
            raise PostgresError(f"the server: requested WAL segment {segment} has already been removed")
        end = min(end, int(segment.end), self._next + loop.dice.choice([8, 8192, SIZE]))
        if end > self._next:
            take(
                Lsn(self._next), memoryview(server.branch.written_out(number))[self._next % SIZE : end - segment.start]
            )
            self._next = end
        elif server.ending:
            self.ended = True
            raise PostgresError("the server: it ended the stream")
        else:
            loop.wait(seconds)
        self.heard = True
        self.server_lsn = max(Lsn(server.lsn), Lsn(self._next))
        agent().step("stream.receive done", Lsn(self._next))

    def idle(self, seconds: float) -> None:
        agent().loop.wait(seconds)

    def acknowledge(self, what: Acknowledgement) -> None:
        """What it says is believed, however late it comes: if the server still runs, and this connection lasts."""
        if what.lsn <= self._given:
            return
        agent().step("stream.acknowledge", what.lsn)
        self._check()
        self._given = what.lsn
        agent().world.invariants.commits_acknowledged(agent().node, self._branch, what.lsn)


# --------------------------------------------------------------------------------------------------------------- the spool


class SpoolView(Spool):
    """The real one, with steps between its calls."""

    def complete(self, size: Any) -> list[Segment]:
        agent().step("spool.complete")
        return super().complete(size)

    def read(self, segment: Segment, memory: Memory | None = None) -> Plain:
        agent().step("spool.read", segment)
        return super().read(segment, memory)

    def remove(self, receipt: Receipt) -> None:
        agent().step("spool.remove", receipt.segment)
        if self.directory.name == "spool":
            agent().world.invariants.spool_removed(agent(), receipt)
        super().remove(receipt)

    def drop(self, segment: Segment, kept: Path, is_kept: Callable[[], bool]) -> bool:
        agent().step("spool.drop", segment)
        content = (self.wal / segment.name).read_bytes() if (self.wal / segment.name).exists() else b""
        dropped = super().drop(segment, kept, is_kept)
        if dropped:
            agent().world.invariants.spool_dropped(agent(), segment, content)
        return dropped

    def seed(self, history: Any, first: Segment) -> None:
        agent().step("spool.seed", first)
        super().seed(history, first)
        agent().step("spool.seed done", first)


class _Boot:
    """/proc/sys/kernel/random/boot_id"""

    def read_text(self, _: str) -> str:
        return f"boot {agent().node.boots}\n"


# ---------------------------------------------------------------------------------------------------------------- all of it


_BEGUN: Final = datetime(2026, 1, 1, tzinfo=UTC)
_OURS = {
    "walkeeper.lib.retry",
    "walkeeper.push.storing",
    "walkeeper.archive.write",
    "walkeeper.archive.listed",
    "walkeeper.archive.contents",
    "walkeeper.archive.tail_read",
    "walkeeper.promote.before",
}


@contextmanager
def simulated() -> Iterator[None]:
    """Within, agents run in whatever simulation starts them."""
    stands_in: Mapping[str, object] = {
        "threading": threads.Threading(),
        "queue": threads.Queues(),
        "Server": ServerView,
        "Receiver": ReceiverView,
        "WalStream": WalStreamView,
        "Spool": SpoolView,
        "read_segment": read_segment,
        "sums_of": sums_of,
        "read_wal_file": read_wal_file,
        "ends_early": lambda *_: None,  # no segment here was made of a tail
        "check_complete": lambda *_: None,  # nor has one more than its first bytes
        "find_program": lambda *_: Path("/bin/true"),
        "disk_of": _disk_of,
        "is_out_of_recovery": lambda _: agent().node.server_up and agent().node.primary,
        "is_stopping": lambda _: agent().node.ending,
        "read_beginning": _read_beginning,
        "read_tail": _read_tail,
        "in_parallel": lambda work, things, _: [work(thing) for thing in things],
        "ThreadPoolExecutor": _Pool,
        "random": _Dice(),
        "uuid": _Sessions(),
        "TICK": 0.5,
        "Deadline": _NoDeadline,
        "since_boot": lambda: agent().loop.now,
        "Wake": _NoWake,
        "now_utc": lambda: _BEGUN + timedelta(seconds=agent().loop.now + agent().node.clock_off),
    }
    replaced: list[tuple[Any, str, object]] = [
        (sys.modules[name], attribute, stands_in[attribute]) for name, attribute in _seams(frozenset(stands_in))
    ]
    replaced += [
        (walkeeper.agent.archiver.spool, "_BOOT_ID", _Boot()),
        (walkeeper.core.tail, "MERGED_AT_ONCE", MERGED_AT_ONCE),
        (walkeeper.agent.archiver.audit, "LOOK_SECONDS", AUDIT_SECONDS),
        (LostWal, "suspect", _suspect),
        (
            walkeeper.archive.read,
            "_segment_bytes",
            lambda codec, suffix, body, *_: SegmentPlain(codec.decode(suffix, body, SIZE)),
        ),
        (Supervisor, "report_death", _report_death),
    ]
    theirs = [(owner, attribute, getattr(owner, attribute)) for owner, attribute, _ in replaced]
    try:
        for owner, attribute, ours in replaced:
            setattr(owner, attribute, ours)
        yield
    finally:
        for owner, attribute, original in reversed(theirs):
            setattr(owner, attribute, original)


_THEIR_OWN: Final = {("walkeeper.agent.archiver.spool", "Spool"), ("walkeeper.archive.tail_read", "read_tail")}
"""Where they are made."""


def _seams(names: frozenset[str]) -> list[tuple[str, str]]:
    """Module and attribute of each of these names that an agent uses."""
    return [
        (name, attribute)
        for name, module in sys.modules.items()
        if name.startswith("walkeeper.agent.") or name in _OURS
        for attribute in names & vars(module).keys()
        if (name, attribute) not in _THEIR_OWN
    ]


def _disk_of(path: Path) -> tuple[int, int]:
    """walkeeper.agent.archiver.whereabouts.disk_of, of pg_wal and of the spool."""
    node = agent().node
    if path.name == "wal" and node.disk_short:
        return 0, 1 << 40
    return (1 << 40, 1 << 40) if node.room is None else (node.free * SIZE, node.room * SIZE)


class _Pool:
    """What stands in for a ThreadPoolExecutor."""

    def __init__(self, _: int) -> None:
        """One thing after the other."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    map = staticmethod(map)


def _read_beginning(path: Path, segment: Segment, size: int) -> bytes | None:
    """Of a file of pg_wal. The segment that a server still writes is not a file here; what is flushed of it can be read."""
    node = agent().node
    opened = node.branch.segment(node.lsn // SIZE)
    if not path.exists() and (segment != opened or size > node.lsn - segment.start):
        return None
    return node.branch.written_out(segment.number)[:size]


def _read_tail(store: Store, layout: Layout, codec: Codec, name: str) -> Tail:
    """walkeeper.archive.tail_read.read_tail; of a whole segment, as of all here, only the beginning is kept."""
    found = read_tail(store, layout, codec, name)
    if not found.reach.whole or found.assembled is None:
        return found
    whole, number = found.assembled, found.assembled.segment.number
    kept = (branch.plain(number) for branch in agent().world.branches if branch.written_out(number) == whole.plain)
    return found._replace(assembled=replace(whole, plain=next(kept)))


class _NoDeadline:
    """walkeeper.lib.deadline.Deadline: no store hangs here for longer than it says."""

    def __init__(self, _: str) -> None: ...

    def call(self, function: Callable[[], T], _: float) -> T:
        return function()


class _NoWake:
    """walkeeper.lib.wake.Wake: threads here look often enough."""

    fd = -1

    def set(self) -> None: ...

    def clear(self) -> None: ...

    def close(self) -> None: ...


class _Dice:
    """What stands in for the module ``random``."""

    def uniform(self, low: float, high: float) -> float:
        return here().loop.dice.uniform(low, high)

    def randrange(self, start: int, stop: int) -> int:
        return here().loop.dice.randrange(start, stop)


class _Sessions:
    """What stands in for the module ``uuid``: other ones each time, and by the seed the same ones again."""

    hex = ""

    def uuid4(self) -> _Sessions:
        process = here()
        assert isinstance(process, NodeProcess)
        world = process.world
        world.sessions += 1
        drawn = _Sessions()
        drawn.hex = hashlib.md5(b"%d" % world.sessions, usedforsecurity=False).hexdigest()
        return drawn


_really_suspect: Final = LostWal.suspect


def _suspect(lost: LostWal, first: Segment, server_lsn: Lsn) -> None:
    agent().world.invariants.suspected(agent().node, first)
    _really_suspect(lost, first, server_lsn)


def _report_death(supervisor: Supervisor, name: str, problem: BaseException) -> None:
    if not isinstance(problem, Killed):
        agent().world.invariants.thread_died(agent(), name, problem)
    supervisor.ended.set()
