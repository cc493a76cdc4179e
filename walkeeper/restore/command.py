"""``walkeeper restore-wal %f %p``: PostgreSQL's restore_command.

Delivered, *proved absent* and *cannot tell* are three different exits (promise P6):

- 0: the file lies at the destination, whole, and its checksum is right;
- 1: the store answered, the archive has no such file, and to a server in archive recovery: it ends there, and has no hole there;
- everything else that can happen: 255 where the server is in archive recovery (it stops, nothing is lost) and 2 where it is
  a standby (it asks again).

Where the server would stop, it is tried again until ``restore.deadline``. A standby asks again automatically, and a promotion
waits for each answer: there it is tried once, and a store that says nothing is no longer waited for after seconds.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from walkeeper.archive.layout import Layout
from walkeeper.archive.open import open_all, open_archives
from walkeeper.archive.read import Reader, wal_file
from walkeeper.config import Config, load
from walkeeper.core.history import parse_history
from walkeeper.core.names import HistoryFile
from walkeeper.dcs.base import RECORD, RecordStore
from walkeeper.errors import CannotTell, DcsError, HoleInArchive, WalkeeperError
from walkeeper.lib import durable, events
from walkeeper.lib.clock import SystemClock
from walkeeper.lib.deadline import Deadline, DeadlineExceeded
from walkeeper.postgres.data_directory import is_starting, read_control_file, running_server
from walkeeper.restore import client, exits
from walkeeper.restore.abandoned import Abandoned
from walkeeper.restore.asker import Asker
from walkeeper.restore.branch import for_server
from walkeeper.restore.connecting import connect_all
from walkeeper.restore.ends import DCS_SILENCE, Ends, has_itself
from walkeeper.restore.exits import ABSENT, DELIVERED
from walkeeper.restore.numbers import Numbers
from walkeeper.store.base import Store

STANDBY_SILENCE: Final = 3.0
"""Seconds that a store may say nothing while a standby, perhaps one that is being promoted, waits."""
_FIRST_WAIT: Final = 0.2
_LONGEST_WAIT: Final = 5.0


def main(config_path: Path, name: str, destination: str, environ: Mapping[str, str] = os.environ) -> int:
    """Deliver the WAL file ``name`` to ``destination``, PostgreSQL's ``%p``. Returns the exit code; never raises."""
    asker = Asker()
    events.to_stderr()
    place = Path(destination).absolute() if destination.startswith("/") else Path.cwd() / destination
    data_directory = place.parent.parent  # not resolved: pg_wal may be a link to elsewhere
    try:
        plain = restore(config_path, name, data_directory, environ)
        if plain is None:
            return ABSENT
        _place(place, plain, asker)
    except BaseException as problem:  # noqa: BLE001 - whatever it was, PostgreSQL must not take it for the end of the WAL
        code = exits.cannot_tell(str(data_directory), ".")
        events.failure("restore_failed", problem, file=name, exit=code)
        return code
    return DELIVERED


def restore(config_path: Path, name: str, data_directory: Path, environ: Mapping[str, str]) -> bytes | None:
    """The whole file, checked; None if it is proved absent. Raises for everything else."""
    config = load(config_path, environ)
    once = exits.will_ask_again(str(data_directory))
    archives = open_archives(config, open_all(config, timeout=STANDBY_SILENCE if once else None), to_read=True)
    control, source = read_control_file(data_directory), archives.reader()
    layout = archives.layout(control.system_identifier)
    ends = Ends(source, lambda: _records(config), SystemClock(), config.restore_deadline)
    numbers = Numbers(config.node.name, archives, partial(_records, config), DCS_SILENCE)

    def work() -> bytes | None:
        plain = _delivered(source, ends, layout, name, data_directory, control.segment_size)
        if plain is None:
            return numbers.text(name, data_directory)
        return None if _is_abandoned(config, archives.store, name, plain, data_directory) else plain

    try:
        return _within(config.restore_deadline, work, name, once=once)
    except WalkeeperError:
        if (used := numbers.text(name, data_directory)) is None:
            raise
        return used


def _records(config: Config, key: str = RECORD) -> RecordStore:
    return connect_all(config, key, DCS_SILENCE)


def _is_abandoned(config: Config, store: Store, name: str, plain: bytes, data_directory: Path) -> bool:
    """As where an agent answers. Raises CannotTell for a server that starts while the DCS says nothing: PostgreSQL then goes on
    with the timeline that it is on, and asks again.
    """
    file = wal_file(name)
    if not isinstance(file, HistoryFile) or running_server(data_directory) is None:
        return False
    abandoned = Abandoned(config, store, lambda: _records(config))
    try:
        return abandoned.hides(parse_history(file.timeline, plain), data_directory)
    except DcsError as problem:
        if is_starting(data_directory):
            raise CannotTell(f"{name}: whether the cluster left that timeline: {problem}", hint=problem.hint) from None
        return False


def _delivered(
    source: Reader, ends: Ends, layout: Layout, name: str, data_directory: Path, size: int | None
) -> bytes | None:
    plain = source.deliver(layout, name, size)
    if plain is None:
        if exits.in_archive_recovery(str(data_directory)):
            tail, hole = ends.look(layout, name)
            if hole is not None and not has_itself(data_directory, name, layout.system_identifier):
                raise hole
            return None if tail is None else tail.beyond(data_directory / "pg_wal")
        tail = source.tail(layout, name).assembled
        if tail is None and exits.is_standby(str(data_directory)) and (hole := ends.note(layout, name)) is not None:
            events.failure("hole_in_archive", hole, file=name, exit=ABSENT)
        return None if tail is None else tail.beyond(data_directory / "pg_wal")
    if running_server(data_directory) is None:  # pg_rewind looks for what the other branch has, too
        return plain
    return for_server(name, plain, data_directory)


def _within(seconds: float, work: Callable[[], bytes | None], name: str, *, once: bool) -> bytes | None:
    """Try until it works, or until waiting cannot help, or the time is over: also for an answer that only drips in."""
    deadline = Deadline("store")
    until = time.monotonic() + seconds
    wait = _FIRST_WAIT
    hole: HoleInArchive | None = None
    while True:
        try:
            return deadline.call(work, until - time.monotonic())
        except DeadlineExceeded:
            raise hole or CannotTell(
                f"{name}: the store did not deliver it within {seconds:g} s",
                hint="Look at the store and the way to it; restore.deadline says how long it may take.",
            ) from None
        except WalkeeperError as problem:
            hole = problem if isinstance(problem, HoleInArchive) else None
            if once or not problem.waiting_helps or time.monotonic() + wait > until:
                raise
            events.failure("restore_waits", problem, file=name, seconds=wait)
        time.sleep(wait)
        wait = min(wait * 2, _LONGEST_WAIT)


def _place(place: Path, plain: bytes, asker: Asker) -> None:
    """Raises CannotTell. A server that was killed may be back by now and ask for another file under the same name."""
    try:
        if not durable.place(place, plain, lambda: not asker.gone):
            raise CannotTell(f"{place}: PostgreSQL, which asked for it, is gone")
    except OSError as error:
        raise CannotTell(
            f"{place}: {error.strerror}", hint="The data directory must be writable, with room for a segment."
        ) from None


if __name__ == "__main__":
    _config, _name, _destination = sys.argv[1:]
    _code = main(Path(_config), _name, _destination)
    exits.hold()
    sys.exit(client.SAID.get(_code, _code))
