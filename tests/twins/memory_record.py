"""A DCS in memory, and the record in it. It passes the same suite as the real ones (tests/test_records.py)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from walkeeper.dcs.base import RECORD, Leader, Member, Topology, Versioned
from walkeeper.errors import CasConflict, DcsError, DcsUnavailable


@dataclass
class MemoryDcs:
    """One DCS for any number of nodes; each of them looks at it through a MemoryRecord of its own.

    ``down`` is an outage for everybody. ``standby_cluster``, ``paused`` and ``slots`` are the dynamic configuration.
    """

    down: bool = False
    standby_cluster: bool = False
    paused: bool = False
    slots: tuple[str, ...] = ()
    members: tuple[Member, ...] = ()
    documents: dict[str, Versioned] = field(default_factory=dict)
    """By key."""
    _leader: Leader | None = None
    _revision: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_revision(self) -> str:
        self._revision += 1
        return str(self._revision)

    @property
    def record(self) -> Versioned | None:
        return self.documents.get(RECORD)

    @property
    def leader(self) -> Leader | None:
        return self._leader

    def set_leader(self, name: str | None) -> Leader | None:
        """Patroni's leader key: a new leadership each time, of the same member as well. None: nobody holds it."""
        with self.lock:
            self._leader = Leader(name, self.next_revision()) if name else None
            return self._leader

    def set_members(self, *members: Member | str) -> None:
        """Members as they are, or by name only."""
        self.members = tuple(
            member if isinstance(member, Member) else Member(member, "replica", "streaming", None, None, None, None)
            for member in members
        )

    def put(self, document: bytes, key: str = RECORD) -> Versioned:
        """Write the record past every condition, garbage as well."""
        with self.lock:
            self.documents[key] = written = Versioned(document, self.next_revision())
            return written

    def wipe(self, key: str = RECORD) -> None:
        """What ``patronictl remove`` does to the record."""
        with self.lock:
            self.documents.pop(key, None)


class MemoryRecord:
    """A RecordStore over one key of a MemoryDcs.

    ``cut_off`` is an outage for this node alone, ``denied`` refuses the key, ``read_only`` refuses its writes, and ``lose_answers`` is the number
    of next writes that take effect and whose answer is lost. ``guards`` False is a DCS that cannot guard a write.
    """

    def __init__(self, dcs: MemoryDcs | None = None, key: str = RECORD, *, guards: bool = True) -> None:
        self.dcs = dcs or MemoryDcs()
        self.key = key
        self.guards = guards
        self.cut_off = False
        self.denied = False
        self.read_only = False
        self.lose_answers = 0
        self.reads_lag = False
        self.reads = 0
        self.writes: list[bytes] = []
        """Every document that was written through this view, in order."""

    def read(self) -> Versioned | None:
        self._check()
        self._check_key()
        self.reads += 1
        return self.dcs.documents.get(self.key)

    def leader(self) -> Leader | None:
        self._check()
        leader = self.dcs.leader
        return leader if leader is None or self.guards else Leader(leader.name)

    def write(self, document: bytes, expected: Versioned | None, guard: Leader | None = None) -> Versioned:
        self._check()
        self._check_key()
        document.decode()
        if self.read_only:
            raise DcsError("memory: not allowed: writes are refused", hint="A test did this.")
        with self.dcs.lock:
            current = self.dcs.documents.get(self.key)
            if (current and current.version) != (expected and expected.version):
                raise CasConflict("record in the DCS: somebody else wrote it first")
            if self.guards and guard is not None and not self._holds(guard):
                raise CasConflict(f"leader key in the DCS: {guard.name} no longer holds it")
            written = self.dcs.documents[self.key] = Versioned(document, self.dcs.next_revision())
        self.writes.append(document)
        if self.lose_answers:
            self.lose_answers -= 1
            raise DcsUnavailable("memory: no answer", hint="A test did this.")
        return written

    def topology(self) -> Topology:
        leader = self.leader()
        return Topology(
            leader,
            tuple(sorted(self.dcs.members, key=lambda member: member.name)),
            self.dcs.standby_cluster,
            self.dcs.paused,
            tuple(sorted(self.dcs.slots)),
        )

    def close(self) -> None:
        """There is nothing to let go of."""

    def _holds(self, guard: Leader) -> bool:
        leader = self.dcs.leader
        return leader is not None and leader.name == guard.name and guard.epoch in {"", leader.epoch}

    def _check_key(self) -> None:
        if self.denied:
            raise DcsError("memory: not allowed", hint="A test did this.")

    def _check(self) -> None:
        if self.dcs.down or self.cut_off:
            raise DcsUnavailable("memory: no answer", hint="A test did this.")


def members(names: Sequence[str], leader: str) -> tuple[Member, ...]:
    """Members as Patroni describes a healthy cluster, all on timeline 1."""
    return tuple(
        Member(
            name,
            "primary" if name == leader else "replica",
            "running" if name == leader else "streaming",
            "127.0.0.1",
            5432,
            1,
            0x3000000,
        )
        for name in names
    )
