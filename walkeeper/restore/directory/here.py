"""What a restore needs of this host: directories, the room in them, the server's programs. Writes nothing."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from walkeeper.config import Config
from walkeeper.core.amounts import size as shown_size
from walkeeper.core.backup import Backup
from walkeeper.core.backup_index import Part, Piece
from walkeeper.core.incremental import changed_path, is_map, layers_of
from walkeeper.core.lsn import MIB
from walkeeper.errors import CannotRestore, CannotTell, WalkeeperError, WrongCall
from walkeeper.lib.retry import with_retries
from walkeeper.postgres import programs as postgres_programs
from walkeeper.postgres.data_directory import read_control_file, running_server
from walkeeper.postgres.postmasters import is_same, postmasters, sees_all
from walkeeper.restore import state
from walkeeper.restore.directory import settings
from walkeeper.restore.directory.fetch import in_order
from walkeeper.restore.directory.model import Plan, Request, Use
from walkeeper.restore.directory.tree import LOST_AND_FOUND, PG_WAL, unfinished
from walkeeper.restore.state import Asked, State

_SPARE: Final = 256 * MIB
"""Bytes that must be free besides: for what the recovery writes."""
_OF_WAL: Final = 1024 * MIB
"""Bytes of WAL that lie in pg_wal at a time while it is replayed, where max_wal_size is PostgreSQL's default, or not known."""
_STOP: Final = "Is it the right directory? Then stop that server first."
_NOTHING: Final = frozenset({LOST_AND_FOUND, unfinished(state.NAME)})
"""What an empty directory may have: a restore writes the second first of all, and on a full disk no more than that."""
_CONFIGURATION: Final = ("postgresql.base.conf", "postgresql.conf", settings.AUTO_CONF)
"""Files of a data directory that set max_wal_size; the last that does counts. Patroni makes the first of the second."""


class Needed(NamedTuple):
    """Bytes of the files by tablespace, 0 for none; and where the backup has the files of its configuration."""

    sizes: dict[int, int]
    configuration: dict[str, tuple[Piece, Part]]


def check_place(plan: Plan) -> None:
    """That the directories can take it: empty, ours, with room. Reads the index, and so proves that a key opens it.

    Raises CannotRestore, CannotTell, Locked, BadBackup or the store's errors. Writes nothing.
    """
    places = {0: plan.directory, **plan.tablespaces}
    for oid, place in places.items():
        _check_directory(place, oid, plan)
    check_room_for(plan, places)


def check_room_for(plan: Plan, places: dict[int, Path]) -> Needed:
    """For its files there, and for WAL. Raises as above."""
    found = needed(plan, places)
    check_room(places, found.sizes, wal_at_a_time(plan, found))
    return found


def wal_at_a_time(plan: Plan, found: Needed) -> int:
    """Bytes that lie in pg_wal while it is replayed: what comes between two checkpoints of the server that wrote it."""
    whole = plan.wal_segments * plan.backup.size
    if whole <= _OF_WAL:
        return whole
    most: float = _OF_WAL
    for name in _CONFIGURATION:
        if name in found.configuration:
            piece, part = found.configuration[name]
            with suppress(WalkeeperError):  # the restore itself will say it
                plain = with_retries(lambda piece=piece: plan.backups.read_piece(plan.backup, piece))  # type: ignore[misc]
                most = settings.max_wal_size(plain[part.at : part.at + part.length]) or most
    return int(min(whole, max(most, _OF_WAL)))


def needed(plan: Plan, places: dict[int, Path]) -> Needed:
    """Bytes of the files in each, by the index of each backup, which is proved to open, its pieces to be in order, and all that a
    chain builds on to be there. A file counts with what it has at most: an older backup's is written before it is cut. Raises as
    above."""
    found = dict.fromkeys(places, 0)
    largest: dict[int, int] = {}
    """By path, of those that an older backup has, too."""
    configuration: dict[str, tuple[Piece, Part]] = {}

    def count(part: Part, changed: str | None, *, newest: bool) -> None:
        path = hash(changed or part.path)
        before = 0 if newest else largest.pop(path, None)
        if before is not None and not (changed and is_map(changed)):
            size = max(before, part.restored if changed else part.size)
            found[_of(part.path, places)] += size - before
            if changed:
                largest[path] = size

    def parts(backup: Backup) -> Iterator[Part]:
        incremental = backup.kind == "incremental"
        for piece in in_order(with_retries(lambda: plan.backups.index(backup)), incremental=incremental):
            yield from piece.parts
            for part in piece.parts:
                if part.path in _CONFIGURATION and backup is plan.backup and part.length == part.size:
                    configuration[part.path] = piece, part
                if part.kind == "f" and part.offset == 0:
                    count(part, changed_path(part.path) if incremental else None, newest=backup is plan.backup)

    layers_of(plan.chain, parts)
    return Needed(found, configuration)


def directory(config: Config, request: Request) -> Path:
    directory = request.directory or config.node.data_dir
    if directory is None:
        raise CannotRestore(
            "restore: no data directory", hint="Name one with --data-dir: the configuration has no postgresql.data_dir."
        )
    return directory.absolute()


def before(directory: Path, use: Use = "server") -> State | None:
    """What an earlier restore left there. Raises CannotRestore where a server runs in it, or where nobody can tell.

    Patroni knows that none runs: it starts them.
    """
    with _may_be_seen(directory):
        return _before(directory, use) if directory.is_dir() else None


def _before(directory: Path, use: Use) -> State | None:
    if (server := running_server(directory)) is not None:
        raise CannotRestore(f"{directory}: a server runs there, with pid {server.pid}", hint=_STOP)
    for each in postmasters():
        if is_same(each.directory, directory):
            raise CannotRestore(
                f"{directory}: a server runs there, in a container, with pid {each.pid} here", hint=_STOP
            )
    if use == "server" and (directory / "postmaster.pid").exists() and not sees_all():
        away = shlex.join(["rm", str(directory / "postmaster.pid")])
        raise CannotRestore(
            f"{directory}: it has a postmaster.pid, and a server that runs in another container is not seen from here",
            hint=f"If none runs there, in no other container either, a crash has left it: {away}",
        )
    return state.read(directory)


@contextmanager
def _may_be_seen(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise CannotRestore(
            f"{place}: {problem.strerror or problem}",
            hint=f"Choose a directory that uid {os.geteuid()} may look into, or let it, on the whole path.",
        ) from None


def resumable(directory: Path, before: State | None, asked: Asked, *, delta: bool) -> State | None:
    """What is gone on with. One that has ended is not: with --delta it is a directory like any other."""
    if before is None:
        return None
    if before.asked == asked and not (delta and state.is_whole(directory, before)):
        return before
    if delta:
        return None
    if state.is_whole(directory, before):
        raise CannotRestore(
            f"{directory}: backup {before.backup} was restored there to {before.asked.to!r}, begun at {before.began}",
            hint="--delta makes it what is asked for now. What was written there since is gone then.",
        )
    raise CannotRestore(
        f"{directory}: backup {before.backup} is being restored there to {before.asked.to!r}, since {before.began}",
        hint="The same command goes on with it. --delta makes it what is asked for now.",
    )


def tablespaces(backup: Backup, directory: Path, told: tuple[str, ...]) -> dict[int, Path]:
    """Where each of the backup's goes. One that lay in the data directory stays there. Raises CannotRestore."""
    moved = {}
    for each in told:
        old, equals, new = each.partition("=")
        if not equals or not new.startswith("/"):
            raise WrongCall(
                f"--tablespace {each}: not OLD=NEW with an absolute path", hint="OLD is its OID, or where it lay."
            )
        moved[old.rstrip("/") or old] = Path(new)
    places = {}
    for space in backup.tablespaces:
        named = moved.pop(str(space.oid), None) or moved.pop(space.location, None)
        if named is not None or space.location.startswith("/"):
            places[space.oid] = named or Path(space.location)
    if moved:
        there = ", ".join(f"{space.oid} {space.location}" for space in backup.tablespaces) or "none"
        raise CannotRestore(
            f"--tablespace {next(iter(moved))}: backup {backup.id} has no such tablespace", hint=f"It has: {there}."
        )
    resolved = [os.path.realpath(place) for place in (directory, *places.values())]
    for each in resolved:
        if sum(os.path.commonpath([each, other]) == other for other in resolved) > 1:
            raise CannotRestore(
                f"{each}: it lies in another directory of this restore",
                hint="Choose another place with --tablespace OLD=NEW.",
            )
    return places


def programs(config: Config, backup: Backup) -> Path | None:
    """Raises CannotRestore where only other versions are here: what was restored could not be started."""
    folder, unfit = postgres_programs.server_folder(config.bin_dir, backup.major)
    if folder is None and unfit:
        raise CannotRestore(
            f"backup {backup.id}: it is of PostgreSQL {backup.major}, and {', '.join(unfit)}",
            hint=f"Install PostgreSQL {backup.major}, or set postgresql.bin_dir to where it is.",
        )
    return folder


def _check_directory(place: Path, oid: int, plan: Plan) -> None:
    option = "--data-dir" if oid == 0 else f"--tablespace {oid}=DIRECTORY"
    try:
        if not place.exists():
            if place.is_symlink():
                raise CannotRestore(
                    f"{place}: it is a link to {place.readlink()}, which is not there",
                    hint="Make that directory first.",
                )
            near = next(each for each in place.parents if each.exists())
            if not os.access(near, os.W_OK | os.X_OK):
                raise CannotRestore(
                    f"{place}: it cannot be made: {near} may not be written",
                    hint=f"Make it as root, and let it belong to this user, or choose another one with {option}.",
                )
            return
        found = place.stat()
        if not place.is_dir():
            raise CannotRestore(f"{place}: it is not a directory", hint=f"Choose another one with {option}.")
        if found.st_uid != os.geteuid():
            raise CannotRestore(
                f"{place}: it belongs to uid {found.st_uid}, and this is uid {os.geteuid()}",
                hint="Run walkeeper restore as PostgreSQL's user, who must own it.",
            )
        content = [each for each in place.iterdir() if each.name not in _NOTHING and not _is_empty_wal(each)]
    except OSError as problem:
        raise CannotRestore(f"{place}: {problem.strerror}", hint=f"Choose another one with {option}.") from None
    if oid and content and plan.resumed is None:
        _check_own(place, oid, plan)
    if content and not plan.request.delta and plan.resumed is None:
        raise CannotRestore(
            f"{place}: it is not empty",
            hint=f"Empty it, choose another one with {option}, or write over it with --delta.",
        )
    if oid == 0:
        _check_cluster(place, plan.evidence.layout.system_identifier)
    known = (place / "PG_VERSION").exists() or (place / state.NAME).exists()
    if oid == 0 and content and not known:
        raise CannotRestore(
            f"{place}: it is not a data directory, and --delta removes what the backup does not have",
            hint="Is it the right path? An empty directory needs no --delta.",
        )


def _is_empty_wal(path: Path) -> bool:
    """A link to a directory without files, which somebody has made so that pg_wal comes to lie on another disk."""
    is_link = path.name == PG_WAL and path.is_symlink() and path.is_dir()
    return is_link and not any(each.is_file() for each in path.rglob("*"))


def _check_cluster(directory: Path, system_identifier: int) -> None:
    """That what is written over is not another cluster's, as far as it says whose it is."""
    with suppress(CannotTell):
        found = read_control_file(directory).system_identifier
        if found != system_identifier:
            empty = shlex.join(["find", str(directory), "-mindepth", "1", "-delete"])
            raise CannotRestore(
                f"{directory}: it is of another cluster, with system identifier {found}, and not {system_identifier}",
                hint=f"Is it the right path? If it may go, empty it first: {empty}",
            )


def _check_own(place: Path, oid: int, plan: Plan) -> None:
    """That what lies in a tablespace is of what lies in the data directory, and not another server's."""
    if os.path.realpath(plan.directory / "pg_tblspc" / str(oid)) == os.path.realpath(place):
        return
    hint = f"Empty it, or choose another place with --tablespace {oid}=DIRECTORY."
    if plan.request.use == "replica":
        hint = "A replica writes over its own directories only. Patroni takes its next method."
    raise CannotRestore(
        f"{place}: it is not empty, and not the tablespace of what lies in {plan.directory}",
        hint=f"Is it another server's? {hint}",
    )


def _of(path: str, places: dict[int, Path]) -> int:
    """The tablespace that a path of the index is in, by OID; 0 for none."""
    folder, _, rest = path.partition("/")
    oid = rest.partition("/")[0]
    return int(oid) if folder == "pg_tblspc" and oid.isdecimal() and int(oid) in places else 0


def check_room(places: dict[int, Path], sizes: dict[int, int], wal: int) -> None:
    """On each file system; what lies in the directories already is written over. ``wal``: bytes that lie in pg_wal at a time.

    Raises CannotRestore. A pg_wal on a disk of its own is not looked at.
    """
    total: dict[int, list[int]] = {}
    shown: dict[int, Path] = {}
    for oid, place in places.items():
        with _may_be_seen(place):
            near = next(each for each in (place, *place.parents) if each.exists())
            beside = wal if oid == 0 and not (place / PG_WAL).is_symlink() else 0
        device = near.stat().st_dev
        sums = total.setdefault(device, [0 if oid else _SPARE, 0])
        sums[0] += sizes[oid] + beside
        sums[1] += _used(place) if place.exists() else 0
        shown.setdefault(device, near)
    for device, (bytes_, used) in total.items():
        disk = os.statvfs(shown[device])
        free = disk.f_bavail * disk.f_frsize + used
        if bytes_ > free:
            raise CannotRestore(
                f"{shown[device]}: the backup and its WAL need {shown_size(bytes_)} there, and {shown_size(free)} are free",
                hint="Make room, or choose another directory with --data-dir, or with --tablespace OLD=NEW.",
            )


def _used(place: Path) -> int:
    """Bytes on the disk."""
    found = 0
    for folder, _, names in os.walk(place):
        for name in names:
            try:
                found += os.lstat(f"{folder}/{name}").st_blocks * 512
            except OSError:
                continue
    return found
