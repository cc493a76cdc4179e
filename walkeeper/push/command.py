"""``walkeeper archive-push`` without an agent: the whole work in this process. Slower than asking, and just as correct."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from walkeeper.archive.open import Archives, open_archives
from walkeeper.config import load
from walkeeper.errors import AnotherCluster, PostgresError, StoreUnavailable
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
    archives = open_archives(load(config_path, environ))
    _check_no_clone(archives, place)
    Pusher(archives).push(place)


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
