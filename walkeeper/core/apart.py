"""What is stored of a server that was a primary, while another member leads: nothing that takes a name from the leader's WAL.

Both may have been promoted at once, with the same number: the history's name is then the leader's, and each segment's.
"""

from __future__ import annotations

from walkeeper.core.names import HistoryFile, Segment, WalFile
from walkeeper.core.record import Record


def is_for_the_archive(file: WalFile, record: Record | None, member: str, leader: str, *, running: bool) -> bool:
    """Whether ``file``, handed over on ``member`` while ``leader`` leads, is stored. ``running``: the server accepts writes.

    ==========================  ==================================================================================
    what it wrote while it led  once it does not accept writes any more: Patroni hands that over before a rewind
    a history                   of a number that the leader, which archives, has not got to: else the next promotion
                                would choose that number again
    ==========================  ==================================================================================

    Without a record nothing is known of who led before.
    """
    if record is None:
        return not running
    if isinstance(file, HistoryFile) and leader == record.owner and file.timeline > record.timeline:
        return True
    timeline = file.timeline if isinstance(file, Segment | HistoryFile) else file.segment.timeline
    led = timeline == record.timeline and record.owner == member
    return not running and (led or timeline < record.timeline)
