"""The segment that the server still writes, as far as it was received: what the tail is taken from."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from walkeeper.core.names import PARTIAL, Segment
from walkeeper.errors import SpoolError
from walkeeper.postgres.pg_receivewal import Receiver, Written


class OpenSegment(Protocol):
    """Safe from every thread."""

    def written(self, segment: Segment) -> Written | None:
        """How far it was received; None where it is not being received, not yet or no longer. Raises PostgresError."""

    def read(self, segment: Segment, run: int, begin: int, end: int) -> bytes | None:
        """Those bytes of that run, which was ``written`` as far; None where they are gone. Raises SpoolError, PostgresError."""


class PartialFile:
    """What pg_receivewal writes into the spool."""

    def __init__(self, receiver: Receiver, directory: Path) -> None:
        self.receiver = receiver
        self._directory = directory

    def written(self, segment: Segment) -> Written | None:
        return self.receiver.written(self._path(segment), segment.size)

    def read(self, segment: Segment, run: int, begin: int, end: int) -> bytes | None:
        """None, too, where that run no longer writes this file after they were read."""
        path = self._path(segment)
        try:
            with path.open("rb") as file:
                file.seek(begin)
                plain = file.read(end - begin)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SpoolError(f"{path}: {error.strerror}", hint="The agent tries again.") from None
        written = self.written(segment)
        if written is None or written.run != run or written.offset < end or len(plain) != end - begin:
            return None
        return plain

    def _path(self, segment: Segment) -> Path:
        return self._directory / (segment.name + PARTIAL)
