"""``walkeeper restore-wal %f %p``: PostgreSQL's restore_command.

Delivered, *proved absent* and *cannot tell* are three different exits (promise P6):

- 0: the file lies at the destination, whole, and its checksum is right;
- 1: the store answered, and the archive has no such file;
- everything else that can happen: tried again until ``restore.deadline``, then 255 where the server is in archive
  recovery (it stops, nothing is lost) and 2 where it is a standby (it asks again).
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from walkeeper import durable, events
from walkeeper.archive import fetch
from walkeeper.codec import open_codec
from walkeeper.config import load
from walkeeper.errors import CannotTell, WalkeeperError
from walkeeper.layout import Layout
from walkeeper.store.open import open_store

DELIVERED: Final = 0
ABSENT: Final = 1
ASK_AGAIN: Final = 2
STOP_RECOVERY: Final = 255

_FIRST_WAIT: Final = 0.2
_LONGEST_WAIT: Final = 5.0


_CONTROL: Final = struct.Struct("=QI")
_CONTROL_VERSIONS: Final = range(1300, 2000)
"""``PG_CONTROL_VERSION`` from PostgreSQL 13 on."""


def main(config_path: Path, name: str, destination: str, environ: Mapping[str, str] = os.environ) -> int:
    """Deliver the WAL file ``name`` to ``destination``, PostgreSQL's ``%p``. Returns the exit code; never raises."""
    events.to_stderr()
    place = Path.cwd() / destination if not destination.startswith("/") else Path(destination)
    data_directory = place.parent.parent  # not resolved: pg_wal may be a link to elsewhere
    try:
        return restore(config_path, name, place, data_directory, environ)
    except BaseException as problem:  # noqa: BLE001 - whatever it was, PostgreSQL must not take it for the end of the WAL
        events.failure("restore_failed", problem, file=name)
    return cannot_tell_code(data_directory)


def cannot_tell_code(data_directory: Path) -> int:
    """The exit that makes this server wait rather than believe that the WAL ends here.

    With both signal files PostgreSQL is a standby. Without either it is pg_rewind that asks, and any failure will do.
    """
    if not (data_directory / "standby.signal").exists() and (data_directory / "recovery.signal").exists():
        return STOP_RECOVERY
    return ASK_AGAIN


def restore(config_path: Path, name: str, place: Path, data_directory: Path, environ: Mapping[str, str]) -> int:
    """DELIVERED or ABSENT; raises for everything else, after trying until the deadline where waiting can help."""
    config = load(config_path, environ)
    layout = Layout(config.scope, config.group, read_system_identifier(data_directory))
    codec = open_codec(config)
    deadline = time.monotonic() + config.restore_deadline
    wait = _FIRST_WAIT
    while True:
        try:
            plain = fetch(open_store(config.store), layout, codec, name)
            break
        except WalkeeperError as problem:
            if not problem.waiting_helps or time.monotonic() + wait > deadline:
                raise
            events.failure("restore_waits", problem, file=name, seconds=wait)
        time.sleep(wait)
        wait = min(wait * 2, _LONGEST_WAIT)
    if plain is None:
        return ABSENT
    durable.place(place, plain)
    return DELIVERED


def read_system_identifier(data_directory: Path) -> int:
    """From ``global/pg_control`` (``src/include/catalog/pg_control.h``): its first field. Raises CannotTell."""
    path = data_directory / "global" / "pg_control"
    try:
        system_identifier, version = _CONTROL.unpack_from(path.read_bytes())
    except (OSError, struct.error) as error:
        raise CannotTell(
            f"{path}: {error}",
            hint="restore-wal is run by PostgreSQL, which gives it %f and %p of its own data directory.",
        ) from None
    if version not in _CONTROL_VERSIONS:
        raise CannotTell(f"{path}: control version {version} is not one of PostgreSQL 13 or newer")
    return int(system_identifier)
