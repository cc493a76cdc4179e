"""A configuration that was read, checked and resolved."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, TypeAlias, TypeVar

from walkeeper.errors import ConfigError
from walkeeper.lib.schedule import Schedule
from walkeeper.lib.trust import Exposure
from walkeeper.store.base import StoreSettings

_T = TypeVar("_T")

ArchiverMode: TypeAlias = Literal["streaming", "command"]
"""Where WAL comes from: pg_receivewal, or what PostgreSQL hands to archive_command."""
ReceiverKind: TypeAlias = Literal["pg_receivewal", "builtin"]
Durability: TypeAlias = Literal["local", "store"]

MAIN: Final = "main"
"""The name of an archive's store where there is one, or of the first of several."""

NOT_IN_CLEAR: Final = "!password"
ONLY_SCRAM: Final = "!password,!md5"
"""Of ``require_auth``: what a server may not ask for. It may ask for nothing, as with ``trust`` or a certificate."""
_TLS: Final = frozenset({"require", "verify-ca", "verify-full"})


@dataclass(frozen=True, slots=True)
class PostgresqlSettings:
    """How to reach one server. ``host`` may be the directory of its Unix socket; ``options`` are libpq's, like sslmode.

    "" is a host, too: where the server in ``data_dir`` says that it has its socket. ``hostaddr`` spares looking ``host`` up. A
    ``password`` of None is looked for where libpq looks: PGPASSWORD, PGPASSFILE, ~/.pgpass. ``require_auth`` is libpq's, too,
    which has it since version 16. None: no server gets the password in clear.
    """

    host: str
    port: int
    user: str
    password: str | None = field(repr=False)
    dbname: str
    options: tuple[tuple[str, str], ...]
    require_auth: str | None = None
    hostaddr: str | None = None
    data_dir: Path | None = None
    sslpassword: str | None = field(default=None, repr=False)
    """The pass phrase of the client's key."""

    def of_member(self, host: str, port: int) -> PostgresqlSettings:
        """The same at an address that the DCS says, where anybody may listen: the password is proved by SCRAM, or not at all.

        Where TLS is demanded, it is bound to that connection too, so that nobody in the middle can hand it on.
        """
        options = dict(self.options)
        if self.password and options.get("sslmode") in _TLS and "sslcert" not in options:
            options.setdefault("channel_binding", "require")
        require_auth = self.require_auth or ONLY_SCRAM
        return replace(
            self, host=host, hostaddr=None, port=port, options=tuple(options.items()), require_auth=require_auth
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """The daemon's own. Durations in seconds; ``listen`` None is off; ``log_level`` is logging's number."""

    start_from_callback: bool
    poll_interval: float
    listen: tuple[str, int] | None
    log_file: Path | None
    log_level: int
    stop_timeout: float
    dcs_timeout: float
    read_back: float | None = 600.0
    """Seconds; None is off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What only the agent needs; None is what nothing says."""

    name: str | None
    data_dir: Path | None
    spool_directory: Path | None
    postgresql: PostgresqlSettings | None


@dataclass(frozen=True, slots=True)
class NamedStore:
    """One of several."""

    name: str
    settings: StoreSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything resolved. The properties raise ConfigError where this node's configuration does not say it.

    It is of one store, the first of several; ``of_store`` makes that of another one.
    """

    source: Path
    """The file that was loaded, absolute: what names the agent's socket."""
    patroni_config: Path
    scope: str
    namespace: str
    group: int | None
    """Citus group."""
    bin_dir: Path | None
    store: StoreSettings
    compression_level: int
    encryption_recipients: tuple[str, ...]
    """age public keys that new objects are encrypted to; none: they are not."""
    identity_file: Path | None
    """age private key; a node that only archives needs none."""
    upload_workers: int
    """Segments that are packed at the same time."""
    hold_slot: str
    spool_limit: int
    """Bytes."""
    tail_interval: float | None
    """Seconds; None is off."""
    restore_deadline: float
    """Seconds."""
    spool_reserve: int = 16 * 1024**3
    """Bytes."""
    gap_patience: float = 3600.0
    """Seconds."""
    backup_keep: float | None = None
    """Seconds; None is off."""
    backup_schedule: Schedule | None = None
    """None is off."""
    backup_full_every: float | None = None
    """Seconds from a full backup of the schedule to the next one, with incrementals between; None: each is full."""
    backup_source: Literal["replica", "leader"] = "replica"
    backup_expire: Path | None = None
    """The configuration for ``walkeeper expire`` after a scheduled backup; None: it is not run."""
    backup_verify_schedule: Schedule | None = None
    """None is off."""
    backup_verify_directory: Path = Path("/var/tmp")  # noqa: S108 - as in keys
    backup_rate: int | None = None
    """Bytes a second; None is as fast as it can."""
    restore_workers: int = 2
    restore_ahead: int = 256 * 1024 * 1024
    """Bytes."""
    restore_directory: Path | None = None
    """None is beside the data directory that asks."""
    agent: AgentSettings
    node: Node
    archiver: ArchiverMode = "streaming"
    receiver: ReceiverKind = "pg_receivewal"
    """With ``archiver: streaming``."""
    durability: Durability = "local"
    """``store``: a commit waits until its WAL is in the store."""
    degrade_after: float | None = None
    """Seconds; None: commits wait for as long as it takes."""
    authentication_keys: tuple[str, ...] = field(default=(), repr=False)
    """The first is for new objects; none: objects carry no codes."""
    authentic_since: str = ""
    """The first segment whose objects must have a code; empty: all must."""
    plain_before: str = ""
    """The first segment that must be encrypted where anything is; empty: all must."""
    store_name: str = MAIN
    others: tuple[NamedStore, ...] = ()
    """The stores beside this one."""
    durable_in: int = 1
    """How many of the stores must have WAL before the hold slot lets go of it."""
    waited_for: str = ""
    """The store that commits wait for, which is the first; empty: they wait for none."""
    exposed: tuple[Exposure, ...] = ()
    """What others may read or write of what this was read from, and should not."""

    @property
    def stores(self) -> tuple[str, ...]:
        """The names of all, this one first."""
        return (self.store_name, *(other.name for other in self.others))

    def of_store(self, name: str) -> Config:
        """The configuration of the archive in that store: with a record, a spool and backups of its own; what PostgreSQL waits
        for, and what is proved, is the first's. Raises ConfigError where there is none of that name.
        """
        if name == self.store_name:
            return self
        there = {other.name: other.settings for other in self.others}
        if name not in there:
            raise ConfigError(f"store {name}: there is none of that name", hint=f"There are {', '.join(self.stores)}.")
        spool = self.node.spool_directory or (self.spool_directory if self.node.data_dir else None)
        return replace(
            self,
            store=there.pop(name),
            store_name=name,
            others=(
                NamedStore(self.store_name, self.store),
                *(NamedStore(*other) for other in there.items()),
            ),
            node=replace(self.node, spool_directory=spool and spool / f"store-{name}"),
            archiver="streaming",
            receiver="builtin",
            durability="local",
            degrade_after=None,
            backup_verify_schedule=None,
        )

    @property
    def waits_for_other(self) -> str:
        """The store that commits wait for, where it is another one."""
        return "" if self.waited_for == self.store_name else self.waited_for

    @property
    def of_each_store(self) -> tuple[Config, ...]:
        """``of_store`` of all, this one first."""
        return tuple(map(self.of_store, self.stores))

    def of_only(self, name: str) -> Config:
        """``of_store``, as if there were no other."""
        return replace(self.of_store(name), others=())

    def key(self, name: str) -> str:
        """That key of walkeeper's in the DCS, for this store."""
        return name if self.store_name == MAIN else f"{name}-{self.store_name}"

    @property
    def spools(self) -> bool:
        """Whether WAL that streams in is kept in the spool until it is stored."""
        return self.archiver == "streaming" and self.receiver == "pg_receivewal"

    @property
    def uploads(self) -> int:
        """Segments on their way to the store at the same time: while one is packed, another waits for the store."""
        return 2 * self.upload_workers

    @property
    def name(self) -> str:
        return self._stated(self.node.name, "name", "It is this member's name; PATRONI_NAME can say it too.")

    @property
    def data_dir(self) -> Path:
        return self._stated(self.node.data_dir, "postgresql.data_dir", "PATRONI_POSTGRESQL_DATA_DIR can say it too.")

    @property
    def spool_directory(self) -> Path:
        if self.node.spool_directory is not None:
            return self.node.spool_directory
        return self.data_dir.with_name(self.data_dir.name + ".walkeeper")

    @property
    def postgresql(self) -> PostgresqlSettings:
        return self._stated(
            self.node.postgresql,
            "postgresql.authentication.replication.username",
            "Or set postgresql.user in walkeeper's own section. The agent needs a role with LOGIN and REPLICATION.",
        )

    def _stated(self, value: _T | None, key: str, hint: str) -> _T:
        if value is None:
            raise ConfigError(f"{self.patroni_config}: {key}: missing", hint=hint)
        return value
