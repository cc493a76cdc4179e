"""What an upload does about a failure: whether the segment is to blame, and how soon it is tried again."""

from __future__ import annotations

from dataclasses import dataclass

from walkeeper.core.about import About
from walkeeper.errors import BadSegment, Refused, StoreDenied, WalkeeperError


@dataclass(frozen=True, slots=True)
class Retry:
    """``damaged``: the file is of no use, and is put aside where that is ours to do. ``slowly``: only people can help, so
    it is tried again once a minute; else with growing waits. ``about`` is the word under which it is reported.
    """

    about: About
    damaged: bool
    slowly: bool


def retry_after(problem: WalkeeperError, *, below: bool = False) -> Retry:
    """A refusal is about the segment, anything else about the store.

    ``below``: the segment lies below the frontier, so that the archive has its bytes or others: whatever is refused there is of
    no use, be it damaged or what another cluster left.
    """
    if isinstance(problem, Refused):
        return Retry(About.ARCHIVER_REFUSED, damaged=below or isinstance(problem, BadSegment), slowly=True)
    return Retry(About.ARCHIVER_STORE, damaged=False, slowly=isinstance(problem, StoreDenied))
