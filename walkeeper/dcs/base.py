"""What the agent needs of a DCS. One conformance suite (tests/dcs/test_records.py) holds every backend to these sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

RECORD: Final = "walkeeper"
BACKUP_JOB: Final = "walkeeper-backup"
PROOF_JOB: Final = "walkeeper-proof"
REMEMBERED: Final = "walkeeper-remembered"
"""The keys that are walkeeper's, beside Patroni's own of the cluster."""


@dataclass(frozen=True, slots=True)
class Versioned:
    """A document as it stands in the DCS. ``version`` is opaque and changes with every write of another document; but for
    Consul also with one of the same."""

    document: bytes
    version: str


@dataclass(frozen=True, slots=True)
class Leader:
    """The member that holds Patroni's leader key. ``epoch`` names this very leadership, so that a later one of the
    same member differs; it is empty where the DCS cannot guard a write with it."""

    name: str
    epoch: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """A member as Patroni's key for it describes it; what Patroni has not written is None."""

    name: str
    role: str
    state: str
    host: str | None
    port: int | None
    timeline: int | None
    lsn: int | None
    tags: Mapping[str, Any] = field(default_factory=dict)
    patroni_version: str | None = None
    pending_restart: bool = False
    api_url: str | None = None
    replication_state: str | None = None
    """Of a standby, where Patroni writes it: ``streaming``, ``in archive recovery``."""

    @property
    def nofailover(self) -> bool:
        """Never promoted: Patroni gives such a member no permanent slot, and it is not held to being gap-safe."""
        return self.tags.get("nofailover") in (True, "true", "on", "yes") or self.tags.get("failover_priority") == 0


@dataclass(frozen=True, slots=True)
class Topology:
    """One look at the cluster: all from Patroni's keys, as old as they are."""

    leader: Leader | None
    members: tuple[Member, ...]
    standby_cluster: bool
    """Patroni's dynamic configuration makes this a standby cluster: its leader is in recovery."""
    paused: bool
    slots: tuple[str, ...]
    """The permanent slots that the dynamic configuration declares."""
    dynamic: Mapping[str, Any] = field(default_factory=dict)
    """The dynamic configuration itself, as the DCS has it."""

    @property
    def slots_off(self) -> bool:
        """Whether use_slots is off: Patroni drops every slot then."""
        section = self.dynamic.get("postgresql")
        value = section.get("use_slots", True) if isinstance(section, Mapping) else True
        return str(value).lower() in ("false", "off", "no", "0")

    def behind(self, leader: str | None) -> dict[str, int | None]:
        """How many bytes of WAL each member but that one lacks, as their keys say; None where they do not."""
        reach = next((member.lsn for member in self.members if member.name == leader), None)
        return {
            member.name: None if member.lsn is None or reach is None else max(0, reach - member.lsn)
            for member in self.members
            if member.name != leader
        }


@dataclass(frozen=True, slots=True)
class Room:
    """How much a DCS has stored, in bytes; at ``quota`` it takes no more. ``revision``: how often anything was written in it.
    ``compacted``: whether it ever let go of what was written over.
    """

    stored: int
    quota: int
    revision: int
    compacted: bool


class RecordStore(Protocol):
    """One key's: the record's, or another one of ours: to a DCS they are alike. Reads are linearizable, unless
    ``reads_lag``. Each method returns or raises DcsUnavailable within a deadline of its own; none retries.
    """

    @property
    def reads_lag(self) -> bool:
        """Whether ``read`` may say what was true a while ago, as what Patroni remembers of Kubernetes does. No write does."""

    def read(self) -> Versioned | None:
        """The record; None only when the DCS says that there is none."""

    def leader(self) -> Leader | None:
        """Who holds the leader key now."""

    def write(self, document: bytes, expected: Versioned | None, guard: Leader | None = None) -> Versioned:
        """Replace ``expected`` (None: create) by ``document``, in one step, and return it as written.

        Raises CasConflict, and changes nothing, when the record is another one by now; also when ``guard`` is given, the
        DCS can check it in the same transaction, and that leadership is over. After DcsUnavailable the write may have happened.
        """

    def topology(self) -> Topology:
        """Leader, members and the part of Patroni's dynamic configuration that concerns us."""

    def close(self) -> None:
        """Let go of connections; what hangs is left to the end of the process."""
