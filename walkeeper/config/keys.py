"""Every key of walkeeper's configuration: its type, its default, and what it is for.

docs/configuration.md and the names of the environment variables are made from these classes; what stands below a key there is
what people read of it, in the document and in a hint.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from inspect import getsource
from itertools import chain, pairwise
from types import UnionType
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, inspect

from walkeeper.config.model import MAIN
from walkeeper.lib.schedule import Schedule
from walkeeper.lib.section import Secret, Section
from walkeeper.lib.units import Age, Interval, Rate, Seconds, Size
from walkeeper.store.open import StoreKeys

Workers: TypeAlias = Annotated[int, Meta(ge=1, le=32)]
Port: TypeAlias = Annotated[int, Meta(ge=1, le=65535)]
Level: TypeAlias = Annotated[int, Meta(ge=1, le=19)]
Copies: TypeAlias = Annotated[int, Meta(ge=1)]
StoreName: TypeAlias = Annotated[str, Meta(pattern="^[a-z][a-z0-9-]{0,30}\\Z")]
SlotName: TypeAlias = Annotated[str, Meta(pattern="^[a-z0-9_]{1,63}\\Z")]


class NamedStoreKeys(StoreKeys, frozen=True):
    """One of several stores."""

    name: StoreName = MAIN
    """`main` is the one that an archive with a single store has."""


class EncryptionKeys(Section, frozen=True):
    """Encryption with [age](https://age-encryption.org). Needs the package pyrage, the extra `encryption`."""

    recipients: tuple[str, ...] = ()
    """Public keys (`age1…`) that new objects are encrypted to. Where there are any, a plain object is not believed: name them
    on hosts that only restore, too."""
    identity_file: str | None = None
    """The private key, as `age-keygen` writes it. Only where WAL is restored or verified."""
    plain_before: str | None = None
    """The first segment that had to be encrypted, for an archive that was plain once: below it plain objects are believed,
    and base backups of timelines up to that one."""


class AuthenticationKeys(Section, frozen=True):
    """Who made an object. Each gets a code that only holders of a key can make; without a right one it is not restored, and not
    built upon. The keys belong on database hosts and restore hosts, and nowhere near the store."""

    key_files: tuple[str, ...] = ()
    """Files with a key each, 32 characters or more (`openssl rand -hex 32`). New objects get codes of the first; the others,
    older ones, are good for reading."""
    since: str | None = None
    """The first segment whose objects must have a code: one that is still to come when the last host gets its key, and of the
    newest timeline. For a new archive `000000010000000000000000`."""


class SpoolKeys(Section, frozen=True):
    """pg_receivewal's directory on this node: a cache, which may lie on tmpfs."""

    directory: str | None = None
    """The data directory's path with `.walkeeper` added. Never inside the data directory."""
    limit: Size = Size(1024**3)
    """Streaming pauses above this size, until uploads have caught up."""
    reserve: Size = Size(16 * 1024**3)
    """Free space that the spool leaves on its file system, but no more than a twentieth of that, and no less than ten
    segments. Below it nothing is streamed: complete segments are taken from `pg_wal`, and what the hold slot keeps there goes
    from the spool."""


class GapKeys(Section, frozen=True):
    """WAL that nobody who answers has: a suspicion first, later a gap."""

    patience: Seconds = Seconds(3600)
    """How long members that do not answer are waited for before such WAL is recorded as a gap. Archiving goes on meanwhile;
    the hold slot does not move. `walkeeper gap accept` ends the wait."""


class BackupKeys(Section, frozen=True):
    """walkeeper's own base backups. Schedule and source are the same on all nodes: who archives goes by its own."""

    schedule: Schedule = Schedule("off")
    """When the cluster takes one by itself: a time of day (`02:00`), an interval (`12h`), a line as cron has it
    (`0 2 * * 0`), or `off`. By the clock and time zone of the node that archives; a missed one is made up once."""
    full_every: Age = Age(0)
    """How old a full backup gets, such as `7d`, before the schedule takes the next one; those between are incremental, six at
    most (PostgreSQL 17 and newer, with `summarize_wal`). `off`: each is full."""
    source: Literal["replica", "leader"] = "replica"
    """Whose server it is taken from. `replica`: one that streams, and the leader where none begins within a minute."""
    max_rate: Rate = Rate(0)
    """How much of it the server sends in a second at most: 32kB to 1GB, or `off`."""

    expire: str | bool = False
    """Whether `walkeeper expire --apply` follows each such backup: `on`, or the path of another configuration, whose
    credentials may delete; or `off`."""
    keep: Age = Age(0)
    """How far back everything stays restorable, such as `14d`, or `off`. `walkeeper expire` gives up what is older, and
    nothing is given up without it; two full backups stay whatever their age."""
    verify_schedule: Schedule = Schedule("off")
    """When the cluster proves by itself that the newest backup restores, by `walkeeper verify --restore` on a replica;
    written as `schedule` is, or `off`."""
    verify_directory: str = "/var/tmp"  # noqa: S108 - what is made there counts only if it is ours alone
    """Where it restores to, into a directory of its own below this one: with room for the whole cluster."""


class TailKeys(Section, frozen=True):
    """The tail: the part of the open segment that was received already goes to the store too."""

    interval: Interval = Interval(1)
    """How often new WAL is stored at most, or `off`. What is lost if all nodes are lost at once is about as old as this and
    one upload take. With `archiver: command` there is no tail."""


class PostgresqlKeys(Section, frozen=True):
    """How to reach the local PostgreSQL. Everything defaults to what `patroni.yml` says."""

    host: str | None = None
    """As Patroni does it: `localhost` if PostgreSQL listens there (at 127.0.0.1), else the first address of `listen`; with
    `use_unix_socket_repl` the Unix socket, where nothing names its directory the running server's. A path is such a
    directory."""
    port: Port | None = None
    """The port in Patroni's `listen`, else 5432."""
    dbname: str = "postgres"
    """Any database that the role may connect to."""
    user: str | None = None
    """Patroni's replication user. LOGIN and REPLICATION are enough."""
    password_file: str | None = None
    """A file that holds the password and nothing else; else Patroni's replication password."""
    password: Secret | None = None
    """The password itself: only in a file that no other user may read."""
    sslmode: str | None = None
    """As in libpq; so are the next ones."""
    sslrootcert: str | None = None
    sslcert: str | None = None
    sslkey: str | None = None
    sslcrl: str | None = None
    sslcrldir: str | None = None
    sslnegotiation: str | None = None
    gssencmode: str | None = None
    channel_binding: str | None = None
    require_auth: str | None = None
    """As in libpq 16: how a server may ask for the password. `!password`, which is never in clear; and for other members,
    whose addresses come from the DCS, `!password,!md5`, with `channel_binding: require` where `sslmode` demands TLS."""
    bin_dir: str | None = None
    """Where pg_receivewal is: Patroni's `bin_dir`. If none there is of the server's major version or newer, the search path
    and the packages of that version are looked through."""


class AgentKeys(Section, frozen=True):
    """The daemon."""

    start_from_callback: bool = True
    """A Patroni callback starts the agent where none runs. Set it to false under systemd."""
    poll_interval: Seconds = Seconds(2)
    """How often the agent looks at PostgreSQL, the record and the leader."""
    listen: str | bool = "127.0.0.1:8018"
    """`HOST:PORT` for the status page, metrics and health, or `off`."""
    log_file: str | None = None
    """Standard error; for an agent in the background `agent.log` in the spool directory."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged."""
    stop_timeout: Seconds = Seconds(10)
    """How long uploads under way may take when the agent is told to stop."""
    dcs_timeout: Seconds = Seconds(5)
    """To wait for each answer of the DCS."""
    read_back: Interval = Interval(600)
    """How often the agent that archives reads one stored segment through, any one, or `off`. At 10 min that is some 20 GB a
    month, which a cloud charges for where they leave its region."""


class RestoreKeys(Section, frozen=True):
    """`walkeeper restore-wal`."""

    deadline: Seconds = Seconds(60)
    """How long it goes on trying when the store does not answer, before it says *cannot tell*."""
    workers: Workers = 2
    """Segments fetched ahead at the same time, 1 to 32. Each is in memory, packed and plain."""
    ahead: Size = Size(256 * 1024**2)
    """How much may lie ready for all servers that recover here; two segments for each at least."""
    directory: str | None = None
    """Where it lies ready: `restore` in the spool directory. On the file system of `pg_wal` a segment is put in place by a
    rename. Never inside the data directory."""


class Keys(Section, frozen=True):
    """The keys of the section itself."""

    store: StoreKeys = StoreKeys()
    stores: tuple[NamedStoreKeys, ...] = ()
    """Instead of `store`: several, each with the keys of `store` and a `name` (`main`, if it has none), and each with an
    archive of its own. See docs/stores.md."""
    durable_in: Copies | None = None
    """With `stores`: how many of them must have WAL before the hold slot lets go of it. All of them, if it is not said."""
    archiver: Literal["streaming", "command"] = "streaming"
    """Where WAL comes from. `streaming`: pg_receivewal, with or without an archive_command beside it. `command`: pg_wal, for
    PostgreSQL's archive_command alone, without a replication connection."""
    receiver: Literal["pg_receivewal", "builtin"] = "pg_receivewal"
    """What streams. `pg_receivewal`: PostgreSQL's program, into the spool. `builtin`: the agent itself, which keeps the open
    segment in memory and takes complete ones from pg_wal, without a spool."""
    durability: Literal["local", "store"] = "local"
    """What a commit waits for. `local`: nothing of walkeeper's. `store`: its WAL is in the store; the agent streams by
    itself, as a synchronous standby that `synchronous_standby_names` has to name. See docs/durability.md."""
    degrade_after: Interval = Interval(0)
    """With `durability: store`: how long a commit waits for a store that takes nothing before commits go on without it,
    loudly, until it has caught up. `off`: for as long as it takes."""
    compression_level: Level = 1
    """zstd's, 1 to 19."""
    encryption: EncryptionKeys = EncryptionKeys()
    authentication: AuthenticationKeys = AuthenticationKeys()
    upload_workers: Workers = 2
    """Segments packed at the same time, 1 to 32; as many again, packed, are on their way to the store. Each holds one in
    memory, and for a moment three times what it packs to."""
    hold_slot: SlotName = "walkeeper"
    """The permanent physical slot that Patroni's dynamic configuration declares."""
    spool: SpoolKeys = SpoolKeys()
    tail: TailKeys = TailKeys()
    gap: GapKeys = GapKeys()
    backup: BackupKeys = BackupKeys()
    postgresql: PostgresqlKeys = PostgresqlKeys()
    agent: AgentKeys = AgentKeys()
    restore: RestoreKeys = RestoreKeys()


@dataclass(frozen=True, slots=True)
class Key:
    """One key. ``section`` and ``name`` say where it stands; ``kind`` how text from the environment is read,
    which has none for ``sections``; ``choices`` the words that it takes, where it takes no others. ``of``: its class."""

    section: tuple[str, ...]
    name: str
    of: type[Section]
    kind: Literal["text", "integer", "flag", "list", "sections"]
    default: object
    required: bool
    choices: tuple[str, ...] = ()

    @property
    def path(self) -> tuple[str, ...]:
        return (*self.section, self.name)

    @property
    def description(self) -> str:
        """What stands below it in the source, or below the one of the same name that its class has it from."""
        said = (
            _said(each.__module__).get((each.__name__, self.name))
            for each in self.of.__mro__
            if issubclass(each, Section)
        )
        return next(filter(None, said), "")


@cache
def _said(module: str) -> dict[tuple[str, str], str]:
    """The text below each key, by class and name: a struct does not keep it. None where the source is gone or another by now, as
    under an agent that runs while its package is replaced.
    """
    try:
        source = ast.parse(getsource(sys.modules[module]))
    except (OSError, SyntaxError, ValueError):
        return {}
    return {
        (section.name, ast.unparse(key.target)): " ".join(str(text.value.value).split())
        for section in source.body
        if isinstance(section, ast.ClassDef)
        for key, text in pairwise(section.body)
        if isinstance(key, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


@cache
def all_sections(
    section: type[Section] = Keys, path: tuple[str, ...] = ()
) -> tuple[tuple[tuple[str, ...], type[Section]], ...]:
    """Each section with its path, a section before those inside it."""
    fields = [(field.name, _inner(field.type)) for field in msgspec.structs.fields(section)]
    below = [all_sections(inner, (*path, name)) for name, inner in fields if inner]
    return ((path, section), *chain.from_iterable(below))


def keys_of(section: type[Section], path: tuple[str, ...]) -> Iterator[Key]:
    """The keys that stand in a section itself."""
    for field in msgspec.structs.fields(section):
        if not _inner(field.type):
            yield _key(section, field, path)


@cache
def all_keys() -> tuple[Key, ...]:
    """Made from the types of all of them, which costs as much as all else that reading a configuration does."""
    return tuple(key for path, section in all_sections() for key in keys_of(section, path))


def key_at(path: Sequence[str | int]) -> Key | None:
    """The key that stands there; None where a section does. One of several stores has the keys of ``store``."""
    names = ("store", *path[2:]) if path[:1] == ("stores",) else tuple(path)
    return next((key for key in all_keys() if key.path == names), None)


def _key(section: type[Section], field: msgspec.structs.FieldInfo, path: tuple[str, ...]) -> Key:
    kinds = [inner for inner in _alternatives(inspect.type_info(field.type)) if not isinstance(inner, inspect.NoneType)]
    kind: Literal["text", "integer", "flag", "list", "sections"] = "text"
    if isinstance(kinds[0], inspect.IntType):
        kind = "integer"
    elif isinstance(kinds[0], inspect.BoolType) and len(kinds) == 1:
        kind = "flag"
    elif isinstance(kinds[0], inspect.VarTupleType):
        kind = "sections" if isinstance(kinds[0].item_type, inspect.StructType) else "list"
    choices = tuple(map(str, kinds[0].values)) if isinstance(kinds[0], inspect.LiteralType) else ()
    return Key(path, field.name, section, kind, field.default, field.required, choices)


def _alternatives(info: inspect.Type) -> Iterator[inspect.Type]:
    if isinstance(info, inspect.Metadata):
        yield from _alternatives(info.type)
    elif isinstance(info, inspect.UnionType):
        for member in info.types:
            yield from _alternatives(member)
    else:
        yield info


def _inner(annotation: Any) -> type[Section] | None:
    """The section class in ``S3Settings`` or ``S3Settings | None``."""
    for part in annotation.__args__ if isinstance(annotation, UnionType) else (annotation,):
        if isinstance(part, type) and issubclass(part, Section):
            return part
    return None
