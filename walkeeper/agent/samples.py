"""The last hours, in a ring of fixed size: what the page draws. They end with the process."""

from __future__ import annotations

from collections import deque
from typing import Final

from walkeeper.page.document import SAMPLE_SECONDS
from walkeeper.page.facts import Sample

HOURS: Final = 6


class Samples:
    """One writer, any number of readers."""

    def __init__(self) -> None:
        self._ring: deque[Sample] = deque(maxlen=int(HOURS * 3600 / SAMPLE_SECONDS))

    def due(self, now: float) -> bool:
        """Whether it is time for another one; ``now`` is monotonic."""
        return not self._ring or now - self._ring[-1].at >= SAMPLE_SECONDS

    def add(self, sample: Sample) -> None:
        self._ring.append(sample)

    def all(self) -> tuple[Sample, ...]:
        """Oldest first."""
        while True:
            try:
                return tuple(self._ring)
            except RuntimeError:
                continue  # one came while they were copied
