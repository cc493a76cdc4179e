"""A crash, or an error, at every system call of the agent's archive step: PUT, record, slot, spool (strace does it to the real agent).

Real PostgreSQL, pg_receivewal and etcd. The agent runs in peace; then strace is put on it and a segment is completed, or a
row committed for the tail. Calls are counted in each thread from there on, so that those of the step come first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Final

import pytest

from tests.fixtures.agents import SIZE, Machine
from tests.fixtures.tracing import Call, attached, calls_in, different, why_not_attached
from tests.fixtures.worlds import HOLD_SLOT, prepare
from tests.parts.etcd import Etcd
from tests.parts.postgres import Postgres
from tests.parts.processes import Process, new_directory, wait_until
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.read import fetch
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.store.directory import DirectoryStore

NAMES: Final = "openat,mkdir,write,fsync,link,linkat,unlink,unlinkat,rename,fsetxattr,sendto,sendmsg"
CHANGING: Final = frozenset({"mkdir", "write", "fsync", "link", "linkat", "unlink", "unlinkat", "rename", "fsetxattr"})
QUICK: Final = ("write", "link", "unlink")
"""The quick test kills at the last of each: before an object, before its name, before the spool is cleared."""
ERRORS: Final = ("EIO", "ENOSPC", "EINTR")
"""Not EACCES: what only people can fix is tried again after a minute."""
STEP_SECONDS: Final = 6.0
"""Seconds in which a step ends, or the agent."""
TALKS: Final = range(1, 7)
"""Kills while it talks to etcd and PostgreSQL: the n-th ``sendto`` of any thread."""

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.skipif(why_not_attached() is not None, reason=str(why_not_attached())),
]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    settings = {"wal_keep_size": "512MB"}  # what was archived is compared with it
    with Etcd() as etcd, Postgres(new_directory("c") / "pg", settings=settings) as server:
        prepare(server)
        server.execute("CREATE TABLE t (n int)")
        with closing(Machine("crashed", server, etcd)) as made:
            yield made


def segment(machine: Machine) -> Lsn:
    """Complete one. Where the frontier has to get to."""
    return Segment.parse(machine.server.complete_segments(1)[-1], SIZE).end


def row(machine: Machine) -> Lsn:
    machine.server.execute("INSERT INTO t VALUES (1)")
    return Lsn.parse(machine.server.value("SELECT pg_current_wal_flush_lsn()::text"))


Step = Callable[[Machine], Lsn]


def running(machine: Machine, step: Step) -> Process:
    """The agent, with nothing to do; it ships a tail only where that is the step."""
    agent = machine.start(env={"WALKEEPER_TAIL_INTERVAL": "off" if step is segment else "1s"})
    machine.wait_archived(1)
    if step is row:
        wait_frontier(machine, row(machine))
    return agent


def wait_frontier(machine: Machine, lsn: Lsn) -> None:
    wait_until(
        lambda: (record := machine.record) is not None and record.position >= lsn,
        f"the frontier at {lsn}", logs=[machine.log],
    )  # fmt: skip


def check(machine: Machine) -> None:
    """slot ≤ record ≤ stored, and what is stored is what the server wrote."""
    record = machine.record
    assert record is not None
    slot = Lsn.parse(
        machine.server.value(f"SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = '{HOLD_SLOT}'")
    )
    assert slot <= record.position
    assert not record.gaps
    layout = Layout(machine.scope, None, machine.server.system_identifier)
    names = machine.stored()
    numbers = {Segment.parse(name, SIZE).number for name in names}
    assert numbers >= set(range(min(numbers), record.position // SIZE))
    for name in names[-2:]:
        assert (
            fetch(DirectoryStore(machine.store), layout, Codec(), name) == (machine.server.pg_wal / name).read_bytes()
        )


def spooled(machine: Machine) -> list[str]:
    """The complete segments in its spool."""
    return [path.name for path in (machine.spool / "wal").iterdir() if not path.suffix]


def clean_run(machine: Machine, step: Step) -> list[Call]:
    """The calls of a step to which nothing happened: in the store and in the spool, and what it says to etcd and PostgreSQL."""
    agent = running(machine, step)
    trace = machine.directory / "trace"
    with attached(agent.pid, trace, NAMES):
        wait_frontier(machine, step(machine))
        wait_until(lambda: not spooled(machine), "an empty spool")
    assert agent.stop() == 0
    return calls_in(trace, machine.store, machine.spool, "kv/txn", "pg_replication_slot_advance")


def test_p2_the_order_is_put_record_slot_spool(machine: Machine) -> None:
    found = clean_run(machine, segment)

    def all_of(name: str, *parts: object) -> list[int]:
        return [
            at
            for at, call in enumerate(found)
            if call.name.startswith(name) and all(str(part) in call.arguments for part in parts)
        ]

    stored = max(all_of("link", machine.store, "/wal/"))
    durable = max(all_of("fsync", machine.store, "/wal/"))
    recorded = all_of("sendto", "kv/txn")  # and what else the agent writes into the DCS, at any time
    moved = max(all_of("sendto", "pg_replication_slot_advance"))
    removed = max(all_of("unlink", machine.spool))
    assert stored < durable < moved < removed
    assert any(durable < at < moved for at in recorded)


def kill_at(machine: Machine, step: Step, call: Call) -> bool:
    """Whether it came to that: which thread does how much of a step is not the same each time."""
    agent = running(machine, step)
    with attached(agent.pid, machine.directory / "trace", NAMES, call.killed()):
        end = step(machine)
        killed = died(agent)
    record = machine.record
    assert record is not None
    if step is segment and killed and call.name != "sendto":  # which may have been before it came
        name = Segment(record.timeline, end // SIZE - 1, SIZE).name
        assert record.position >= end or name in spooled(machine), call
    check(machine)
    if not killed:
        agent.stop()
    agent = machine.start()
    wait_frontier(machine, end)
    check(machine)
    agent.stop()
    return killed


def died(agent: Process) -> bool:
    with suppress(TimeoutError):
        agent.wait(STEP_SECONDS)
        return True
    return False


def changing(found: list[Call], step: Step) -> list[Call]:
    """Not what a pg_receivewal that was started meanwhile writes; nor the clearing up of a tail that was there before."""
    other = (".partial", "/tail/") if step is segment else (".partial",)
    mine = [call for call in found if not any(part in call.arguments for part in other)]
    return different(call for call in mine if call.name in CHANGING)


def quick(found: list[Call]) -> list[Call]:
    lasts = {call.name: call for call in found}
    return [lasts[name] for name in QUICK]


@pytest.mark.parametrize("step", [segment, row])
def test_p1_p2_a_kill_at_a_system_call_of_the_archive_step_loses_nothing(machine: Machine, step: Step) -> None:
    tried = quick(changing(clean_run(machine, step), step))
    killed = [call for call in tried if kill_at(machine, step, call)]
    assert killed == tried


@pytest.mark.slow
@pytest.mark.parametrize("step", [segment, row])
def test_p1_p2_a_kill_at_any_system_call_of_the_archive_step_loses_nothing(machine: Machine, step: Step) -> None:
    talks = [Call("sendto", count, "") for count in TALKS]
    tried = [*changing(clean_run(machine, step), step), *talks]
    killed = [call for call in tried if kill_at(machine, step, call)]
    assert len(killed) > 0.7 * len(tried), set(tried) - set(killed)


def fail_at_all(machine: Machine, step: Step, faults: list[tuple[Call, str]]) -> None:
    agent = running(machine, step)
    for call, error in faults:
        try:
            with attached(agent.pid, machine.directory / "trace", NAMES, call.failing(error)):
                wait_frontier(machine, step(machine))
            check(machine)
        except (TimeoutError, AssertionError) as problem:
            problem.add_note(f"{call}: {error}")
            raise
    assert agent.stop() == 0


@pytest.mark.parametrize("step", [segment, row])
def test_p1_p10_an_error_of_a_system_call_is_made_up_for_by_the_same_agent(machine: Machine, step: Step) -> None:
    found = quick(changing(clean_run(machine, step), step))
    fail_at_all(machine, step, list(zip(found, ERRORS, strict=True)))


@pytest.mark.slow
@pytest.mark.parametrize("step", [segment, row])
def test_p1_p10_an_error_of_any_system_call_is_made_up_for_by_the_same_agent(machine: Machine, step: Step) -> None:
    found = changing(clean_run(machine, step), step)
    fail_at_all(machine, step, [(call, error) for call in found for error in ERRORS])
