"""What doctor has seen, for the rules to judge. What could not be looked at is Unknown and says why: never a default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from walkeeper.config import Config
from walkeeper.core.hold_slot import SlotState, followed, reached
from walkeeper.core.lsn import Lsn
from walkeeper.core.record import Gap, Record
from walkeeper.core.room import Disk
from walkeeper.dcs.base import Room, Topology
from walkeeper.doctor.commands import Command
from walkeeper.errors import WalkeeperError
from walkeeper.postgres.server import ServerState

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Unknown:
    """It could not be looked at."""

    because: str


class Unseen(Exception):
    """A rule asked for what could not be looked at: it ends, and why is what is said."""


def known(found: _T | Unknown) -> _T:
    """For rules. Raises Unseen."""
    if isinstance(found, Unknown):
        raise Unseen(found.because)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """A member's PostgreSQL, as its own SQL tells it."""

    state: ServerState
    slot: SlotState | None
    settings: Mapping[str, str]
    """As SHOW prints them; a setting that this version does not have is left out."""
    role: str
    may_replicate: bool
    """The role is a superuser or has REPLICATION."""
    replication_refused: str | Unknown = ""
    """Why a replication connection was refused; empty where one was made."""
    agents: tuple[str, ...] = ()
    """The versions of the agents that have sessions there: an agent connects to its own node's server alone."""
    disk: Disk | None = None
    """Of pg_wal, as its agent says; None where no agent does."""
    stores: str = ""
    """Which stores its agent's configuration names, as ``core.stores_told.brief``; empty where no agent says so."""
    acknowledging: tuple[str, ...] = ()
    """The ``application_name`` of each walsender whose word on flushed WAL commits may wait for, by its beginning."""
    receives: bool = True
    """A standby streams from another server."""
    started_at: str = ""
    """UTC, as walkeeper writes times."""
    clock_ahead: float = 0.0
    """Seconds by which its clock is ahead of this node's."""
    archiving_failed: str = ""
    """The file that archive_command failed at last, while nothing was archived since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberFacts:
    """A member as Patroni's key and its own server describe it."""

    name: str
    leads: bool
    here: bool
    """It is the node that doctor runs on."""
    host: str | None = None
    port: int | None = None
    nofailover: bool = False
    patroni_version: str | None = None
    pending_restart: bool = False
    server: ServerFacts | Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class PatroniFacts:
    """This node's Patroni configuration: ``local`` without the dynamic one, the rest with it merged in."""

    local: Mapping[str, Any]
    callbacks: Mapping[str, Command]
    """By event; only those that are configured."""
    restore_command: Command | None
    pre_promote: Command | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFacts:
    """What came of the store's probe. ``clock_ahead`` in seconds; None where the store has no clock that matters."""

    url: str
    problem: WalkeeperError | None = None
    """What the probe raised; None: it can be written, read and listed, and does not overwrite."""
    clock_ahead: float | Unknown | None = None
    kept_versions: str | Unknown | None = Unknown("the store was not asked")
    """What keeps objects that somebody deletes; empty: nothing does. None where the store cannot have such a thing."""
    before_frontier: str | Unknown | None = None
    """The segment just below the frontier, if this store has it; empty if it lacks it; None if there is none yet."""
    gaps: tuple[Gap, ...] | Unknown = ()
    """Those that nobody has accepted."""
    accepted_gaps: tuple[Gap, ...] = ()
    suspected: tuple[Gap, ...] = ()
    backups: Mapping[str, Any] | Unknown | None = None
    """What walkeeper's base backups restore, as ``archive.restorable.summary`` says; None where there are none."""
    other_branch: str | Unknown = ""
    """Which timeline of this node's pg_wal is another one than the archive's of that number."""
    newer_branch: str | Unknown = ""
    """The archive's newest timeline, if the cluster has given it up and goes on with one of a lower number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolFacts:
    """The spool's directory. Sizes in bytes."""

    path: str
    exists: bool
    plain: bool = True
    """It is a directory and no link."""
    uid: int = 0
    mode: int = 0o700
    used: int = 0
    free: int = 0
    """What this user can still write on its file system."""
    creatable: bool = True
    """Where it does not exist: whether this user can make it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFacts:
    """This node's agent, by its own report."""

    report: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that was seen from one node, at one time."""

    config: Config
    program: str
    """How walkeeper is called here, in a shell's words, for what is to be pasted."""
    restore_program: str = ""
    """The shell script that is the same as ``walkeeper restore-wal`` and quicker; empty where it is not installed."""
    version: str
    uid: int
    """Who doctor runs as."""
    servers_uid: int | Unknown
    """Whose the data directory is: PostgreSQL's and the agent's user."""
    dcs_problem: WalkeeperError | None = None
    topology: Topology | Unknown
    record: Record | Unknown | None
    record_problem: str = ""
    """The record is there and cannot be believed."""
    record_age: float | None = None
    """Seconds since the owner wrote it."""
    compare_and_set: str | Unknown = ""
    """Why the record cannot be written from here; empty if a compare-and-set was seen to be refused for the right reason."""
    dcs_room: Room | Unknown | None = None
    """None where the DCS is not etcd with its API v3."""
    patroni: PatroniFacts | Unknown
    members: tuple[MemberFacts, ...]
    store: StoreFacts | Unknown
    spool: SpoolFacts | Unknown
    agent: AgentFacts | Unknown
    agent_absent: bool = False
    """It was looked for as its own user, and nobody listens."""
    receiver_problem: WalkeeperError | None = None
    """pg_receivewal cannot be used."""
    codec_problem: WalkeeperError | None = None
    expire_keep: float | Unknown | None = None
    """``backup.keep`` of the configuration that ``backup.expire`` names, in seconds; None: it has none, or nothing is named."""
    backup_every: float | None = None
    """Seconds between the newest two moments of ``backup.schedule``; None where there is none."""
    verify_room: int | Unknown = 0
    """Bytes that this user can still write in ``backup.verify_directory``."""
    base_backup: str | Unknown = field(default_factory=lambda: Unknown("nobody looked"))
    """The newest backup that pg_wal has a label of."""
    other_stores: tuple[Facts, ...] = ()
    """The same with the configuration, the store and the record of each of the others, where the cluster has several."""
    for_store: tuple[str, ...] = ()
    """Words for a command that is to be for this store: none, where it is the first."""

    @property
    def held(self) -> Lsn | None:
        """The frontier that the hold slot follows: of several stores', the one that enough of them have reached."""
        own = self.record
        if not isinstance(own, Record):
            return None
        records = [each.record for each in self.other_stores if isinstance(each.record, Record)]
        others = [found for record in records if (found := reached(own, record)) is not None]
        return followed([own.position, *others], self.config.durable_in)

    @property
    def waits_for_store(self) -> bool:
        """Whether commits wait for the store, by this node's configuration or by the record."""
        recorded = isinstance(self.record, Record) and self.record.durability == "store"
        return recorded or self.config.durability == "store"

    @property
    def this(self) -> MemberFacts | None:
        return next((member for member in self.members if member.here), None)

    @property
    def leader(self) -> MemberFacts | None:
        return next((member for member in self.members if member.leads), None)
