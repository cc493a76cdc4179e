"""Abandoned timelines, which the archive has and the cluster left: a server was promoted beside the leader, which went on.

PostgreSQL chooses the highest number that restore_command finds. A member that is told of such a timeline follows it, or does
not start, because what it has is beyond the fork. So it is not told, unless it may be about to choose a number for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Final

from walkeeper.archive.open import open_archives
from walkeeper.config import Config
from walkeeper.core.branches import is_abandoned
from walkeeper.core.history import History
from walkeeper.dcs.base import RecordStore, Topology
from walkeeper.dcs.claim import Known, read_claim
from walkeeper.errors import ConfigError
from walkeeper.lib import events
from walkeeper.postgres.data_directory import is_starting, read_control_file
from walkeeper.store.base import Store

DCS_SECONDS: Final = 0.8
"""Seconds for one call to the DCS: PostgreSQL waits, perhaps in a promotion, and who asks for it waits for two of them."""
PATIENCE: Final = 10.0
"""Seconds that a DCS that says nothing is asked again while the server starts: nobody promotes it then."""


class Abandoned:
    """For a member of the cluster that ``config`` is of. ``connect`` gives the way to its record, and raises ConfigError."""

    def __init__(self, config: Config, store: Store, connect: Callable[[], RecordStore]) -> None:
        self._config = config
        self._store = store
        self._connect = connect
        self._records: RecordStore | None = None

    def hides(self, history: History, data_directory: Path) -> bool:
        """Whether that server is to go on as if that timeline did not exist. Where that is not sure it is not.

        Raises DcsError where the DCS says nothing, or the store's errors.
        """
        control = read_control_file(data_directory)
        is_standby = (data_directory / "standby.signal").exists()
        if not is_standby or any(byte.timeline >= history.timeline for byte in control.had):
            return False
        try:
            records = self._records = self._records or self._connect()
        except ConfigError:
            return False
        claim = read_claim(records)
        if claim.known is Known.UNKNOWN and claim.problem is not None:
            raise claim.problem
        record = claim.record
        if record is None or int(record.system_identifier) != control.system_identifier:
            return False
        if record.timeline >= history.timeline:
            return False
        if not only_follows(data_directory, self._config.node.name, record.owner, records.topology()):
            return False
        archives = open_archives(self._config, self._store, to_read=True)
        contents = archives.contents(control.system_identifier, record.size)
        kept = contents.history(record.timeline)
        # Where the cluster may go on with it, or with one that comes after it, nothing is withheld.
        for each in chain([history], contents.histories_from(history.timeline + 1)):
            if kept is None or not is_abandoned(each, kept, record.position):
                return False
        events.info(
            "timeline_abandoned", timeline=history.timeline, leader_timeline=record.timeline, frontier=record.lsn
        )
        return True


def only_follows(data_directory: Path, me: str | None, owner: str, topology: Topology) -> bool:
    """Who the record is of leads, or nobody does, and this server is not being promoted.

    Patroni promotes a standby that is up, and that has the leader key by then; people do it in a pause.
    """
    leader = topology.leader.name if topology.leader is not None else None
    if is_starting(data_directory):
        return leader in (None, owner)
    return leader == owner != me and not topology.paused
