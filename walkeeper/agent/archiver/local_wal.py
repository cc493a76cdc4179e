"""What the takeover needs from the local data directory: the timeline histories in pg_wal."""

from __future__ import annotations

from pathlib import Path

from walkeeper.agent.archiver.ownership import LocalWal
from walkeeper.core.history import History, parse_history
from walkeeper.core.takeover import LocalServer
from walkeeper.errors import ConfigError, PostgresError
from walkeeper.postgres.data_directory import read_histories
from walkeeper.postgres.server import ServerState


def read_local_wal(pg_wal: Path, state: ServerState) -> LocalWal:
    """The server's history and the files it comes from, up to its own timeline. Raises PostgresError, ConfigError, BadHistory."""
    try:
        found = read_histories(pg_wal, own=state.timeline)
    except OSError as error:
        raise ConfigError(
            f"{error.filename}: {error.strerror}",
            hint="The agent runs as PostgreSQL's own user, on its host, and reads postgresql.data_dir of patroni.yml.",
        ) from None
    histories = {timeline: content for timeline, content in found.items() if timeline <= state.timeline}
    if state.timeline > 1 and state.timeline not in histories:
        raise PostgresError(
            f"{pg_wal}/{state.timeline:08X}.history: not there (yet)", hint="PostgreSQL writes it when promoted."
        )
    history = History(1) if state.timeline == 1 else parse_history(state.timeline, histories[state.timeline])
    return LocalWal(LocalServer(state.system_identifier, state.segment_size, history, state.lsn), histories)
