"""A restore, in the one order in which nothing torn starts: ``global/pg_control`` away first, and back last of all.

In between, whatever the moment of a kill or of a power loss: without that file PostgreSQL refuses the directory, and what the
directory says of itself lets the same command go on. Before it comes back everything else is durable, the settings and the
signal file too: a server that started without those would replay past its target.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from walkeeper.archive.expiry import Lasting, let_go, new_pin, write_pin_in_each
from walkeeper.archive.open import open_archives
from walkeeper.core.backup import Backup
from walkeeper.core.backup_index import Part
from walkeeper.core.incremental import Layers, layers_of, without_increment
from walkeeper.errors import CannotRestore, Damaged, StoreDenied, StoreError, WalkeeperError
from walkeeper.lib import durable
from walkeeper.lib.clock import timestamp
from walkeeper.lib.retry import with_retries
from walkeeper.postgres import programs
from walkeeper.postgres.data_directory import CLONE_OF, clone_of
from walkeeper.restore import state
from walkeeper.restore.directory import damage, settings
from walkeeper.restore.directory.fetch import PG_CONTROL, Fetch, is_placed, read_index
from walkeeper.restore.directory.model import Plan
from walkeeper.restore.directory.tree import Tree
from walkeeper.restore.state import State

BACKUP_LABEL: Final = "backup_label"
_LONGEST_AUTO_CONF: Final = 1024 * 1024
_LONGEST_LABEL: Final = 64 * 1024


@dataclass(slots=True)
class Result:
    """``aside``: settings of postgresql.auto.conf that were made comments."""

    fetched: int = 0
    """Bytes, as stored."""
    kept: int = 0
    """Plain bytes that were there already."""
    aside: tuple[str, ...] = ()
    pin_problem: str = ""


def carry_out(plan: Plan, restore_command: str, moved: Callable[[int], None]) -> Result:
    """Do it. ``moved`` is told how many plain bytes more are there. Raises CannotRestore, CannotTell or the store's errors.

    Damage, with the ``backup`` that has it, is noted in the store.
    """
    result = Result()
    try:
        _make_directories(plan)
        with _only_one(plan.directory):
            tree = Tree(plan.directory, plan.tablespaces)
            try:
                _restore(plan, tree, restore_command, result, moved)
            except Damaged as problem:
                if problem.backup:
                    damage.note(plan, problem)
                raise
            finally:
                tree.close()
    except OSError as problem:
        where = f": {problem.filename}" if problem.filename else ""
        raise CannotRestore(
            f"{plan.directory}{where}: {problem.strerror}",
            hint="Nothing there starts as a database yet. When the disk can take it, the same command goes on.",
        ) from None
    return result


def _restore(plan: Plan, tree: Tree, restore_command: str, result: Result, moved: Callable[[int], None]) -> None:
    look_first = plan.resumed is not None or plan.request.delta
    if plan.request.use == "server":
        _make_sockets(plan.directory)  # before hours of work, as /tmp may be full
    now, pin = _begin(plan, result)
    _note(tree, now)
    if pin is not None:
        _let_go_of_the_one_before(plan)

    def renewed(id_: str) -> None:
        nonlocal now
        now = msgspec.structs.replace(now, pin=id_)
        _note(tree, now)

    tree.remove(PG_CONTROL, durably=True)
    fetch = Fetch(plan.backups, _make_files(plan, tree), tree)
    for each in fetch.pieces(plan.config.restore_workers, look_first=look_first):
        moved(each.plain)
        result.fetched += each.packed
        result.kept += each.kept
        if pin is not None:
            pin.tend(renewed)
    _settle(plan, tree, {"restore_command": restore_command, **now.recovery}, fetch.control, result)
    _note(tree, msgspec.structs.replace(now, phase="placing"))
    tree.sync()
    tree.write_file(PG_CONTROL, fetch.control, _mode(plan.directory), durably=True)


def _begin(plan: Plan, result: Result) -> tuple[State, Lasting | None]:
    """With a new pin in the store, so that expire keeps what is read. Without the right to write one the restore goes on.

    An earlier run's pin may have ended since, and whoever goes on may need as long again.
    """
    pin, lasting = plan.resumed.pin if plan.resumed is not None else "", None
    try:
        ahead = plan.config.store.clock_ahead() or 0.0
        wanted = new_pin(plan.backup, plan.timeline, f"{os.uname().nodename}:{plan.directory}", ahead)
        refused = with_retries(lambda: write_pin_in_each(plan.wal_store, plan.evidence.layout, wanted))
        result.pin_problem = "; ".join(refused)
        pin, lasting = wanted.id, Lasting(plan.wal_store, plan.evidence.layout, wanted)
    except (StoreDenied, StoreError) as problem:
        result.pin_problem = str(problem)
    if plan.resumed is not None:
        return msgspec.structs.replace(plan.resumed, pin=pin), lasting
    begun = State(
        asked=plan.asked,
        backup=plan.backup.id,
        timeline=plan.timeline,
        recovery=plan.recovery,
        pin=pin,
        began=timestamp(),
        inode=plan.directory.stat().st_ino,
    )
    return begun, lasting


def _let_go_of_the_one_before(plan: Plan) -> None:
    """Who restored here before is over: the directory is locked, no server runs in it, and it no longer says what that needs."""
    before, layout = plan.before, plan.evidence.layout
    if before is None or not before.pin:
        return
    asked = before.asked
    if (asked.scope, asked.group, asked.system_identifier) == (layout.scope, layout.group, layout.system_identifier):
        with suppress(StoreError):  # it ends by itself
            let_go(plan.wal_store, layout, before.pin)
        for other in plan.config.of_each_store[1:]:  # its plan may have had the WAL of all
            with suppress(WalkeeperError):
                let_go(open_archives(other, to_read=True).store, layout, before.pin)


def _note(tree: Tree, now: State) -> None:
    tree.write_file(state.NAME, state.encode(now), durably=True)


def _make_directories(plan: Plan) -> None:
    """The data directory and those of tablespaces, their names durable."""
    for place in (plan.directory, *plan.tablespaces.values()):
        missing = [each for each in (place, *place.parents) if not each.exists()]
        if missing:
            durable.make_directories(missing[-1].parent, place, mode=0o700)


@contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    """Two that write into one directory would take each other's files for their own."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotRestore(
                f"{directory}: another restore is writing there",
                hint="Wait for it, or end it; then the same command goes on.",
            ) from None
        yield
    finally:
        os.close(fd)


def _make_files(plan: Plan, tree: Tree) -> Layers:
    """First what the backup does not have goes, then everything that it has gets its name, and the size that it begins with.

    The links of tablespaces come before those: they tell a later restore whose what lies there is, if this one ends here.
    """
    layers = layers_of(plan.chain, partial(_parts, plan))
    layers.name(state.NAME)
    spaces = (part.path for part in _parts(plan, plan.backup) if part.path.startswith("pg_tblspc/"))
    tree.keep_only(layers.names, {path for path in spaces if path.count("/") == 2})
    for oid, place in plan.tablespaces.items():
        tree.link(f"pg_tblspc/{oid}", place)
    for number, backup in reversed(list(enumerate(plan.chain))):
        for part in _parts(plan, backup):
            if (made := layers.made(number, part)) is not None:
                tree.make(made)
    group = any(part.path == "PG_VERSION" and part.mode & 0o040 for part in _parts(plan, plan.backup))
    for place in (plan.directory, *plan.tablespaces.values()):
        place.chmod(0o750 if group else 0o700)
    return layers


def _parts(plan: Plan, backup: Backup) -> Iterator[Part]:
    """Of everything that is restored."""
    for piece in read_index(plan.backups, backup):
        yield from filter(is_placed, piece.parts)


def _settle(plan: Plan, tree: Tree, recovery: dict[str, str], control: bytes, result: Result) -> None:
    """Tablespaces, what a chain says of itself, settings, and the signal file."""
    mode = _mode(plan.directory)
    if len(plan.chain) > 1:
        label = tree.read_file(BACKUP_LABEL, _LONGEST_LABEL) or b""
        tree.write_file(BACKUP_LABEL, without_increment(label), mode)
    if plan.tablespaces:
        tree.write_file("tablespace_map", settings.tablespace_map(plan.tablespaces), mode)
    replica = plan.request.use == "replica"
    original = tree.read_file(settings.AUTO_CONF, _LONGEST_AUTO_CONF) or b""
    auto_conf, aside = settings.auto_conf(original, recovery, keep=replica)
    tree.write_file(settings.AUTO_CONF, auto_conf, mode)
    result.aside = tuple(aside)
    _mark_clone(plan, tree, mode)
    if plan.request.use == "server":
        _write_start(plan, tree, control, mode)
    tree.write_file("standby.signal" if replica else "recovery.signal", b"", mode)


def _mark_clone(plan: Plan, tree: Tree, mode: int) -> None:
    if plan.clone_of:
        tree.write_file(CLONE_OF, plan.clone_of.encode(), mode)
    elif clone_of(plan.directory) == f"{plan.evidence.store.url}/{plan.evidence.layout.root}":
        tree.remove(CLONE_OF)  # the backup is of a clone that took this archive over: it is this cluster by now


def _write_start(plan: Plan, tree: Tree, control: bytes, mode: int) -> None:
    """What the start that is printed needs. Patroni has its own."""
    _make_sockets(plan.directory)
    tree.write_file(settings.HBA, settings.HBA_CONTENT, mode)
    told = _control_data(plan, control)
    tree.write_file(settings.START_CONF, settings.start_conf(plan.directory, told), mode)


def _control_data(plan: Plan, control: bytes) -> str:
    """pg_controldata wants a data directory: a scratch one, in ours, as /tmp may be full, has what that gets last of all."""
    with tempfile.TemporaryDirectory(prefix="walkeeper-", dir=plan.directory) as scratch:
        folder = Path(scratch) / "global"
        folder.mkdir()
        (folder / "pg_control").write_bytes(control)
        return programs.control_data(plan.folder, Path(scratch))


def _make_sockets(directory: Path) -> None:
    """Where it is not the data directory: in /tmp others could have put something of that name there (P16)."""
    place = settings.sockets(directory)
    if place == directory:
        return
    with suppress(FileExistsError):
        place.mkdir(0o700)
    found = place.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise CannotRestore(
            f"{place}: it is not a directory that is ours alone",
            hint="Remove it: the server's socket is going to be in it.",
        )


def _mode(directory: Path) -> int:
    """Of files, as PostgreSQL takes it from its data directory's."""
    return 0o640 if directory.stat().st_mode & 0o050 else 0o600
