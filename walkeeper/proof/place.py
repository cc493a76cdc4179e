"""The directory of one proof: made, ours alone, and gone again, also after an interrupt or a kill -9 of the one before."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from walkeeper.archive.layout import Layout
from walkeeper.archive.open import open_archives
from walkeeper.config import Config
from walkeeper.core.proof import scratch_name
from walkeeper.errors import CannotRestore, CannotTell, StoreDenied, WalkeeperError
from walkeeper.lib import events
from walkeeper.lib.retry import with_retries
from walkeeper.postgres.data_directory import running_server
from walkeeper.proof import fence
from walkeeper.restore import state
from walkeeper.restore.directory import settings

DEFAULT: Final = Path("/var/tmp")  # noqa: S108 - what is made there counts only if it is ours alone
"""Where there is room that nobody's database needs, mostly; /tmp is memory on many hosts."""
DATA: Final = "data"
"""The data directory's name in it."""
_SHARE: Final = 20
_MOST: Final = 4 * 1024**3
_TRIES: Final = 5
"""Of removing: what restore-wal prefetches may just be coming."""


@contextmanager
def scratch(config: Config, below: Path | None) -> Iterator[Path]:
    """An empty directory, for the data directory and what else is written; it is gone when this is left. What another one left
    there is cleared away first, with its pin.

    Raises CannotRestore, ConfigError or the store's errors.
    """
    below = (below or DEFAULT).absolute()
    place = below / scratch_name(config.scope, config.group)
    try:
        place.mkdir(0o700, exist_ok=True)
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as problem:
        raise CannotRestore(
            f"{place}: {problem.strerror}",
            hint="It is made for the restore. Name a directory that may be written: walkeeper verify --restore DIRECTORY",
        ) from None
    try:
        _claim(place, fd)
        _unpin(config, place / DATA)  # or all stays as it is, for the next
        try:
            _remove(place, but_it=True)
            yield place
        finally:
            with suppress(WalkeeperError):  # it ends by itself
                _unpin(config, place / DATA)
            _remove(place, but_it=False)
    finally:
        os.close(fd)


def clear(config: Config, below: Path) -> None:
    """Remove what one that was killed has left there. Raises as ``scratch`` does."""
    if (below.absolute() / scratch_name(config.scope, config.group)).is_dir():
        with scratch(config, below):
            pass


def check_room(place: Path) -> None:
    """While something is written there: that others do not run out of room. Raises CannotTell."""
    disk = os.statvfs(place)
    free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    if free < min(total // _SHARE, _MOST):
        raise CannotTell(
            f"{place}: its disk is nearly full",
            hint="Make room, or name another one: walkeeper verify --restore DIRECTORY",
        )


def _claim(place: Path, fd: int) -> None:
    """Raises CannotRestore for what somebody else has put there, for another proof's, and where a server runs."""
    found = os.fstat(fd)
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise CannotRestore(
            f"{place}: it is not a directory that is ours alone",
            hint="Remove it, or name another place: walkeeper verify --restore DIRECTORY",
        )
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        of_another = not os.path.samestat(place.lstat(), found)  # the one before has just removed it
    except (BlockingIOError, FileNotFoundError):
        of_another = True
    if of_another:
        raise CannotRestore(f"{place}: another verify --restore is at it", hint="Wait for it, or end it.")
    if (server := running_server(place / DATA)) is not None:
        raise CannotRestore(f"{place / DATA}: a server runs there, with pid {server.pid}", hint="Stop it first.")


def _unpin(config: Config, data: Path) -> None:
    """What expire keeps for the restore there is kept no longer. restore-wal renews pins: then they have another number.

    Raises ConfigError or the store's errors; not where there is no right to do it.
    """
    if (sockets := settings.sockets(data)) != data:
        shutil.rmtree(sockets, ignore_errors=True)
    try:
        found = state.read(data)
    except CannotRestore:
        return
    if found is None or not found.pin:
        return
    store = open_archives(config, to_read=True).store
    pins = Layout(found.asked.scope, found.asked.group, found.asked.system_identifier).pins
    ours = f"{pins}{found.pin.partition('-')[0]}-"
    with suppress(StoreDenied):
        for key in with_retries(lambda: [each.key for each in store.list(pins) if each.key.startswith(ours)]):
            with_retries(partial(store.delete, key))


def _remove(place: Path, *, but_it: bool) -> None:
    for number in range(_TRIES):
        try:
            fence.lift(place / DATA)
            for each in place.iterdir():
                if each.is_dir() and not each.is_symlink():
                    shutil.rmtree(each)
                else:
                    each.unlink()
            if not but_it:
                place.rmdir()
        except FileNotFoundError:
            return
        except OSError as problem:
            if number == _TRIES - 1:
                events.warning("not_removed", directory=place, error=problem, hint="Remove it by hand.")
            time.sleep(0.2)
        else:
            return
