"""What the takeover needs from the local data directory: the timeline histories in pg_wal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from walkeeper.agent.archiver.ownership import LocalWal
from walkeeper.core.history import MAX_HISTORY_BYTES, History, parse_history
from walkeeper.core.takeover import LocalServer
from walkeeper.errors import ConfigError, PostgresError
from walkeeper.postgres.server import ServerState

_NAME: Final = re.compile(r"([0-9A-F]{8})\.history\Z")


def read_local_wal(pg_wal: Path, state: ServerState) -> LocalWal:
    """The server's history and the files it comes from, up to its own timeline. Raises PostgresError or ConfigError."""
    histories = _read_histories(pg_wal, state.timeline)
    if state.timeline > 1 and state.timeline not in histories:
        raise PostgresError(
            f"{pg_wal}/{state.timeline:08X}.history: not there (yet)", hint="PostgreSQL writes it when promoted."
        )
    history = History(1) if state.timeline == 1 else parse_history(state.timeline, histories[state.timeline])
    return LocalWal(LocalServer(state.system_identifier, state.segment_size, history, state.lsn), histories)


def _read_histories(pg_wal: Path, newest: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    try:
        for path in pg_wal.iterdir():
            match = _NAME.match(path.name)
            if match and 1 < int(match[1], 16) <= newest:
                with path.open("rb") as file:
                    found[int(match[1], 16)] = file.read(MAX_HISTORY_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"{error.filename}: {error.strerror}",
            hint="The agent runs as PostgreSQL's own user, on its host, and reads postgresql.data_dir of patroni.yml.",
        ) from None
    return found
