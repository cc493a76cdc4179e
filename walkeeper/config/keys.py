"""Every key of walkeeper's configuration: its type, its default, and what it is for.

docs/configuration.md and the names of the environment variables are made from these classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, inspect

from walkeeper.config.model import MAIN
from walkeeper.lib.schedule import Schedule
from walkeeper.lib.section import Secret, Section, metas
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

    name: Annotated[StoreName, Meta(description="`main` is the one that an archive with a single store has.")] = MAIN


class EncryptionKeys(Section, frozen=True):
    """Encryption with [age](https://age-encryption.org). Needs the package pyrage, the extra `encryption`."""

    recipients: Annotated[
        tuple[str, ...],
        Meta(
            description="Public keys (`age1…`) that new objects are encrypted to. Where there are any, a plain object is not "
            "believed: name them on hosts that only restore, too."
        ),
    ] = ()
    identity_file: Annotated[
        str | None,
        Meta(description="The private key, as `age-keygen` writes it. Only where WAL is restored or verified."),
    ] = None
    plain_before: Annotated[
        str | None,
        Meta(
            description="The first segment that had to be encrypted, for an archive that was plain once: below it plain objects "
            "are believed, and base backups of timelines up to that one."
        ),
    ] = None


class AuthenticationKeys(Section, frozen=True):
    """Who made an object. Each gets a code that only holders of a key can make; without a right one it is not restored, and not
    built upon. The keys belong on database hosts and restore hosts, and nowhere near the store."""

    key_files: Annotated[
        tuple[str, ...],
        Meta(
            description="Files with a key each, 32 characters or more (`openssl rand -hex 32`). New objects get codes of the "
            "first; the others, older ones, are good for reading."
        ),
    ] = ()
    since: Annotated[
        str | None,
        Meta(
            description="The first segment whose objects must have a code: one that is still to come when the last host gets its "
            "key, and of the newest timeline. For a new archive `000000010000000000000000`."
        ),
    ] = None


class SpoolKeys(Section, frozen=True):
    """pg_receivewal's directory on this node: a cache, which may lie on tmpfs."""

    directory: Annotated[
        str | None,
        Meta(description="The data directory's path with `.walkeeper` added. Never inside the data directory."),
    ] = None
    limit: Annotated[Size, Meta(description="Streaming pauses above this size, until uploads have caught up.")] = Size(
        1024**3
    )
    reserve: Annotated[
        Size,
        Meta(
            description="Free space that the spool leaves on its file system, but no more than a twentieth of that, and no less "
            "than ten segments. Below it nothing is streamed: complete segments are taken from `pg_wal`, and what the hold slot "
            "keeps there goes from the spool."
        ),
    ] = Size(16 * 1024**3)


class GapKeys(Section, frozen=True):
    """WAL that nobody who answers has: a suspicion first, later a gap."""

    patience: Annotated[
        Seconds,
        Meta(
            description="How long members that do not answer are waited for before such WAL is recorded as a gap. Archiving "
            "goes on meanwhile; the hold slot does not move. `walkeeper gap accept` ends the wait."
        ),
    ] = Seconds(3600)


class BackupKeys(Section, frozen=True):
    """walkeeper's own base backups. Schedule and source are the same on all nodes: who archives goes by its own."""

    schedule: Annotated[
        Schedule,
        Meta(
            description="When the cluster takes one by itself: a time of day (`02:00`), an interval (`12h`), a line as cron has "
            "it (`0 2 * * 0`), or `off`. By the clock and time zone of the node that archives; a missed one is made up once."
        ),
    ] = Schedule("off")
    full_every: Annotated[
        Age,
        Meta(
            description="How old a full backup gets, such as `7d`, before the schedule takes the next one; those between are "
            "incremental, six at most (PostgreSQL 17 and newer, with `summarize_wal`). `off`: each is full."
        ),
    ] = Age(0)
    source: Annotated[
        Literal["replica", "leader"],
        Meta(
            description="Whose server it is taken from. `replica`: one that streams, and the leader where none begins within a "
            "minute."
        ),
    ] = "replica"
    max_rate: Annotated[
        Rate,
        Meta(description="How much of it the server sends in a second at most: 32kB to 1GB, or `off`."),
    ] = Rate(0)

    expire: Annotated[
        str | bool,
        Meta(
            description="Whether `walkeeper expire --apply` follows each such backup: `on`, or the path of another "
            "configuration, whose credentials may delete; or `off`."
        ),
    ] = False
    keep: Annotated[
        Age,
        Meta(
            description="How far back everything stays restorable, such as `14d`, or `off`. `walkeeper expire` gives up what is "
            "older, and nothing is given up without it; two full backups stay whatever their age."
        ),
    ] = Age(0)
    verify_schedule: Annotated[
        Schedule,
        Meta(
            description="When the cluster proves by itself that the newest backup restores, by `walkeeper verify --restore` on a "
            "replica; written as `schedule` is, or `off`."
        ),
    ] = Schedule("off")
    verify_directory: Annotated[
        str,
        Meta(
            description="Where it restores to, into a directory of its own below this one: with room for the whole cluster."
        ),
    ] = "/var/tmp"  # noqa: S108 - what is made there counts only if it is ours alone


class TailKeys(Section, frozen=True):
    """The tail: the part of the open segment that was received already goes to the store too."""

    interval: Annotated[
        Interval,
        Meta(
            description="How often new WAL is stored at most, or `off`. What is lost if all nodes are lost at once is "
            "about as old as this and one upload take. With `archiver: command` there is no tail."
        ),
    ] = Interval(1)


class PostgresqlKeys(Section, frozen=True):
    """How to reach the local PostgreSQL. Everything defaults to what `patroni.yml` says."""

    host: Annotated[
        str | None,
        Meta(
            description="As Patroni does it: `localhost` if PostgreSQL listens there (at 127.0.0.1), else the first address of "
            "`listen`; with `use_unix_socket_repl` the Unix socket, where nothing names its directory the running server's. A "
            "path is such a directory."
        ),
    ] = None
    port: Annotated[Port | None, Meta(description="The port in Patroni's `listen`, else 5432.")] = None
    dbname: Annotated[str, Meta(description="Any database that the role may connect to.")] = "postgres"
    user: Annotated[str | None, Meta(description="Patroni's replication user. LOGIN and REPLICATION are enough.")] = (
        None
    )
    password_file: Annotated[
        str | None,
        Meta(description="A file that holds the password and nothing else; else Patroni's replication password."),
    ] = None
    password: Annotated[
        Secret | None, Meta(description="The password itself: only in a file that no other user may read.")
    ] = None
    sslmode: Annotated[str | None, Meta(description="As in libpq; so are the next ones.")] = None
    sslrootcert: str | None = None
    sslcert: str | None = None
    sslkey: str | None = None
    sslcrl: str | None = None
    sslcrldir: str | None = None
    sslnegotiation: str | None = None
    gssencmode: str | None = None
    channel_binding: str | None = None
    require_auth: Annotated[
        str | None,
        Meta(
            description="As in libpq 16: how a server may ask for the password. `!password`, which is never in clear; and "
            "for other members, whose addresses come from the DCS, `!password,!md5`, with `channel_binding: require` where "
            "`sslmode` demands TLS."
        ),
    ] = None
    bin_dir: Annotated[
        str | None,
        Meta(
            description="Where pg_receivewal is: Patroni's `bin_dir`. If none there is of the server's major version or newer, "
            "the search path and the packages of that version are looked through."
        ),
    ] = None


class AgentKeys(Section, frozen=True):
    """The daemon."""

    start_from_callback: Annotated[
        bool, Meta(description="A Patroni callback starts the agent where none runs. Set it to false under systemd.")
    ] = True
    poll_interval: Annotated[
        Seconds, Meta(description="How often the agent looks at PostgreSQL, the record and the leader.")
    ] = Seconds(2)
    listen: Annotated[
        str | bool, Meta(description="`HOST:PORT` for the status page, metrics and health, or `off`.")
    ] = "127.0.0.1:8018"
    log_file: Annotated[
        str | None,
        Meta(description="Standard error; for an agent in the background `agent.log` in the spool directory."),
    ] = None
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least that is logged.")
    ] = "info"
    stop_timeout: Annotated[
        Seconds, Meta(description="How long uploads under way may take when the agent is told to stop.")
    ] = Seconds(10)
    dcs_timeout: Annotated[Seconds, Meta(description="To wait for each answer of the DCS.")] = Seconds(5)
    read_back: Annotated[
        Interval,
        Meta(
            description="How often the agent that archives reads one stored segment through, any one, or `off`. At 10 min that "
            "is some 20 GB a month, which a cloud charges for where they leave its region."
        ),
    ] = Interval(600)


class RestoreKeys(Section, frozen=True):
    """`walkeeper restore-wal`."""

    deadline: Annotated[
        Seconds,
        Meta(description="How long it goes on trying when the store does not answer, before it says *cannot tell*."),
    ] = Seconds(60)
    workers: Annotated[
        Workers,
        Meta(description="Segments fetched ahead at the same time, 1 to 32. Each is in memory, packed and plain."),
    ] = 2
    ahead: Annotated[
        Size,
        Meta(description="How much may lie ready for all servers that recover here; two segments for each at least."),
    ] = Size(256 * 1024**2)
    directory: Annotated[
        str | None,
        Meta(
            description="Where it lies ready: `restore` in the spool directory. On the file system of `pg_wal` a segment is "
            "put in place by a rename. Never inside the data directory."
        ),
    ] = None


class Keys(Section, frozen=True):
    """The keys of the section itself."""

    store: StoreKeys = StoreKeys()
    stores: Annotated[
        tuple[NamedStoreKeys, ...],
        Meta(
            description="Instead of `store`: several, each with the keys of `store` and a `name` (`main`, if it has none), and "
            "each with an archive of its own. See docs/stores.md."
        ),
    ] = ()
    durable_in: Annotated[
        Copies | None,
        Meta(
            description="With `stores`: how many of them must have WAL before the hold slot lets go of it. All of them, if it is "
            "not said.",
        ),
    ] = None
    archiver: Annotated[
        Literal["streaming", "command"],
        Meta(
            description="Where WAL comes from. `streaming`: pg_receivewal, with or without an archive_command beside it. "
            "`command`: pg_wal, for PostgreSQL's archive_command alone, without a replication connection."
        ),
    ] = "streaming"
    receiver: Annotated[
        Literal["pg_receivewal", "builtin"],
        Meta(
            description="What streams. `pg_receivewal`: PostgreSQL's program, into the spool. `builtin`: the agent itself, which "
            "keeps the open segment in memory and takes complete ones from pg_wal, without a spool."
        ),
    ] = "pg_receivewal"
    durability: Annotated[
        Literal["local", "store"],
        Meta(
            description="What a commit waits for. `local`: nothing of walkeeper's. `store`: its WAL is in the store; the agent "
            "streams by itself, as a synchronous standby that `synchronous_standby_names` has to name. See docs/durability.md."
        ),
    ] = "local"
    degrade_after: Annotated[
        Interval,
        Meta(
            description="With `durability: store`: how long a commit waits for a store that takes nothing before commits go on "
            "without it, loudly, until it has caught up. `off`: for as long as it takes."
        ),
    ] = Interval(0)
    compression_level: Annotated[Level, Meta(description="zstd's, 1 to 19.")] = 1
    encryption: EncryptionKeys = EncryptionKeys()
    authentication: AuthenticationKeys = AuthenticationKeys()
    upload_workers: Annotated[
        Workers,
        Meta(
            description="Segments packed at the same time, 1 to 32; as many again, packed, are on their way to the store. Each "
            "holds one in memory, and for a moment three times what it packs to."
        ),
    ] = 2
    hold_slot: Annotated[
        SlotName, Meta(description="The permanent physical slot that Patroni's dynamic configuration declares.")
    ] = "walkeeper"
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
    which has none for ``sections``; ``choices`` the words that it takes, where it takes no others."""

    section: tuple[str, ...]
    name: str
    kind: Literal["text", "integer", "flag", "list", "sections"]
    default: object
    required: bool
    description: str
    choices: tuple[str, ...] = ()

    @property
    def path(self) -> tuple[str, ...]:
        return (*self.section, self.name)


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
            yield _key(field, path)


@cache
def all_keys() -> tuple[Key, ...]:
    """Made from the types of all of them, which costs as much as all else that reading a configuration does."""
    return tuple(key for path, section in all_sections() for key in keys_of(section, path))


def key_at(path: Sequence[str | int]) -> Key | None:
    """The key that stands there; None where a section does. One of several stores has the keys of ``store``."""
    names = ("store", *path[2:]) if path[:1] == ("stores",) else tuple(path)
    return next((key for key in all_keys() if key.path == names), None)


def _key(field: msgspec.structs.FieldInfo, path: tuple[str, ...]) -> Key:
    kinds = [inner for inner in _alternatives(inspect.type_info(field.type)) if not isinstance(inner, inspect.NoneType)]
    kind: Literal["text", "integer", "flag", "list", "sections"] = "text"
    if isinstance(kinds[0], inspect.IntType):
        kind = "integer"
    elif isinstance(kinds[0], inspect.BoolType) and len(kinds) == 1:
        kind = "flag"
    elif isinstance(kinds[0], inspect.VarTupleType):
        kind = "sections" if isinstance(kinds[0].item_type, inspect.StructType) else "list"
    choices = tuple(map(str, kinds[0].values)) if isinstance(kinds[0], inspect.LiteralType) else ()
    description = next((meta.description for meta in metas(field.type) if meta.description), "")
    return Key(path, field.name, kind, field.default, field.required, description, choices)


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
    for part in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(part, type) and issubclass(part, Section):
            return part
    return None
