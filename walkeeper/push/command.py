"""``walkeeper archive-push`` without an agent: the whole work in this process. Slower than asking, and just as correct."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeAlias

from walkeeper.archive.open import Archives, open_archives
from walkeeper.archive.seen import Seen, place_of
from walkeeper.config import load
from walkeeper.core.beliefs import NO_ARCHIVE
from walkeeper.errors import AnotherCluster, ArchiveMissing, PostgresError, StoreUnavailable
from walkeeper.lib import events
from walkeeper.lib.deadline import Deadline, DeadlineExceeded
from walkeeper.postgres.data_directory import clone_of, is_stopping
from walkeeper.push.client import working_directory
from walkeeper.push.place import Place, parse_path
from walkeeper.push.storing import Pusher, system_identifier

STORE_SECONDS: Final = 60.0
"""Seconds for the store; PostgreSQL keeps the file and asks again."""
STOPPING_SECONDS: Final = 5.0
"""The same while the server stops: no shutdown waits for the store."""

Checked: TypeAlias = tuple[str, str]
"""Where this host has seen the archive, if it has, and the place that is configured."""


def main(config: Path, path: str, environ: Mapping[str, str] = os.environ) -> int:
    """0 when the archive has the file that ``path``, PostgreSQL's ``%p``, names; raises for everything else."""
    events.to_stderr()
    place = parse_path(path, working_directory())
    seconds = STOPPING_SECONDS if is_stopping(place.data_directory) else STORE_SECONDS
    try:
        Deadline("store").call(lambda: _push(config, place, environ), seconds)
    except DeadlineExceeded:
        raise StoreUnavailable(
            f"{place.name}: the store did not take it within {seconds:g} s",
            hint="PostgreSQL keeps the file and asks again. Look at the store and the way to it.",
        ) from None
    return 0


def _push(config_path: Path, place: Place, environ: Mapping[str, str]) -> None:
    config = load(config_path, environ)
    archives = open_archives(config)
    _check_no_clone(archives, place)
    if config.node.spool_directory is not None or config.node.data_dir is not None:
        check_archive(archives, config.spool_directory, place)
    Pusher(archives).push(place)


def check_archive(archives: Archives, spool: Path, place: Place, checked: Checked | None = None) -> Checked:
    """That the store is the one in which an agent here has seen the archive: no agent holds the record against it now.

    ``checked``: what is not checked again. Raises ArchiveMissing, or the store's errors.
    """
    seen, system = Seen(spool).place(), system_identifier(place)
    here = place_of(archives, system)
    if (seen, here) == checked:
        return checked
    if seen not in ("", here):
        raise ArchiveMissing(
            f"{here}: the archive that this host knows is {seen}",
            hint="Is the configuration right? If another archive is to begin there, start the agent, which finds out.",
        )
    if seen and next(iter(archives.store.list(archives.layout(system).starts)), None) is None:
        raise ArchiveMissing(f"{here}: no archive is there, and this host has seen one", hint=NO_ARCHIVE)
    return seen, here


def _check_no_clone(archives: Archives, place: Place) -> None:
    """As a takeover, which removes the mark where a person's word has let it take that cluster's place."""
    try:
        origin = clone_of(place.data_directory)
    except OSError as error:
        raise PostgresError(f"{error.filename}: {error.strerror}") from None
    if origin and origin == f"{archives.store.url}/{archives.layout(system_identifier(place)).root}":
        raise AnotherCluster(
            f"{origin}: this cluster was restored from there as another one (walkeeper restore --from), and never archives there",
            hint="Its configuration is the other cluster's: give it another scope or prefix. If it takes that cluster's place, "
            "start its agent.",
        )
