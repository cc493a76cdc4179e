"""Ships the tail: what was received of the open segment goes to the store piece by piece, in a thread of its own.

Only where the frontier is: behind a segment that is not stored yet a tail would help nobody, and while segments fill faster
than ``interval`` they are stored soon enough themselves. The receipts go to the archiver, which moves the frontier.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from walkeeper.agent.archiver.open_segment import OpenSegment
from walkeeper.agent.archiver.received import Part
from walkeeper.agent.archiver.whereabouts import Sources
from walkeeper.agent.problems import Problems
from walkeeper.archive import tail
from walkeeper.archive.tail import StoredPiece
from walkeeper.core.about import About
from walkeeper.core.frontier import Frontier
from walkeeper.core.names import Segment
from walkeeper.core.receipt import Receipt, TailReceipt
from walkeeper.core.tail import MAX_PIECE, Piece, due_for_merge, inner_fork, longest_chain
from walkeeper.errors import BadName, BadSegment, StoreDenied, WalkeeperError
from walkeeper.lib import events
from walkeeper.lib.parallel import in_parallel
from walkeeper.lib.retry import Backoff
from walkeeper.postgres.wal_file import Sums, sums_of

TICK: Final = 0.1
"""Seconds between two looks at how far the receiver is."""
DROPS: Final = 4
"""Covered pieces that are removed at each look, at most."""
SHIPPED_DROPS: Final = 64
"""As many, where pieces are shipped as WAL comes."""
AT_ONCE: Final = 8
"""Of them at the same time."""
LAST: Final = 64
"""Segments that are remembered as stored."""
LOOK_BACK: Final = 2
"""Segments before the start of which a dead owner may have left covered pieces."""


@dataclass(slots=True)
class Chain:
    """The pieces of the open segment so far, as one run of the receiver got it, or an earlier one with the same bytes."""

    segment: Segment
    run: int
    owner: str
    stored: list[TailReceipt] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)
    """For each of ``stored``."""

    @property
    def end(self) -> int:
        return self.stored[-1].piece.end if self.stored else 0

    def add(self, receipt: TailReceipt, level: int) -> None:
        self.stored.append(receipt)
        self.levels.append(level)


class Tail:
    """The tail of one ownership. ``run`` is a thread's; ``stored`` and ``advance`` are for the thread that has the frontier."""

    def __init__(
        self,
        sources: Sources,
        opened: OpenSegment | None,
        session: str,
        interval: float | None,
        problems: Problems,
        *,
        shipped: bool = False,
    ) -> None:
        """``shipped``: pieces are stored by ``ship``, as others call it, and none by the clock."""
        self.uploaded = 0
        self.uploaded_bytes = 0
        self._archive = sources.archive
        self._sources = sources
        self._open = opened
        self._session = session
        self._interval = interval
        self._problems = problems
        self._clock = sources.clock
        self._receipts: queue.SimpleQueue[TailReceipt] = queue.SimpleQueue()
        self._whole: queue.SimpleQueue[tuple[Receipt, bool]] = queue.SimpleQueue()
        """Segments that are stored as a whole, and whether it was this archiver that has stored them."""
        self._early: dict[int, list[TailReceipt]] = {}
        """Of segments that the frontier has not come to, by their numbers."""
        self._by_ship = shipped
        self._shipped: queue.SimpleQueue[tuple[int, TailReceipt]] = queue.SimpleQueue()
        self._flying: Counter[int] = Counter()
        """How many pieces of a segment, by its number, are on their way."""
        self._lock = threading.Lock()
        self._chain: Chain | None = None
        self._own: dict[int, set[str]] = {}
        """The key of each piece that may be stored, by its segment's number."""
        self._stored_whole: dict[int, Receipt] = {}
        """Of the last segments that are: a piece of theirs may still come."""
        self._others: dict[int, list[StoredPiece]] = {}
        self._covered: deque[tuple[str, Receipt | TailReceipt]] = deque()
        self._may_remove = True
        self._marked = 0
        self._marked_at = self._clock.monotonic()

    # --- for the archiver -----------------------------------------------------------------------------------------

    def stored(self, receipt: Receipt) -> None:
        """A segment is stored as a whole: its pieces have become superfluous."""
        self._whole.put((receipt, True))

    def advance(self, frontier: Frontier) -> bool:
        """Move the frontier by what was stored; True if it did move."""
        moved, number = False, frontier.next_segment.number
        for early in sorted(each for each in self._early if each <= number):  # first what came first
            for receipt in self._early.pop(early):
                moved = frontier.add_tail(receipt) or moved
        while not self._receipts.empty():
            receipt = self._receipts.get()
            if receipt.segment.number > number:
                self._early.setdefault(receipt.segment.number, []).append(receipt)
            else:
                moved = frontier.add_tail(receipt) or moved
        return moved

    def ship(self, part: Part) -> TailReceipt:
        """Store it as a piece. Safe from every thread. Raises as ``archive.tail.put``."""
        number = part.segment.number
        piece = Piece(part.begin, part.end, self._owner(part.run))
        with self._lock:
            self._flying[number] += 1
            self._own.setdefault(number, set()).add(self._key(part.segment, piece))
        try:
            return tail.put(self._archive, part.segment, piece, part.plain)
        finally:
            with self._lock:
                self._flying[number] -= 1
                if not self._flying[number]:
                    del self._flying[number]

    def shipped(self, run: int, receipts: Iterable[TailReceipt]) -> None:
        """They are stored, in the order of the WAL and without a hole. Safe from every thread, for one at a time."""
        for receipt in receipts:
            self._shipped.put((run, receipt))

    def run(self, frontier: Frontier, stopping: threading.Event) -> None:
        """Until ``stopping``."""
        backoff = Backoff(0.5, 5)
        begun = failing = False
        while not stopping.wait(TICK):
            try:
                if not begun:
                    self._find_others(frontier.next_segment)
                    begun = True
                self._look(frontier.next_segment)
                self._clear_up()
            except WalkeeperError as problem:
                failing = True
                self._problems.report(About.ARCHIVER_TAIL, problem, grace=True)
                stopping.wait(backoff.failed())
            else:
                backoff.succeeded()
                if failing:  # else what is open is of those who ship
                    self._problems.clear(About.ARCHIVER_TAIL)
                failing = False

    # --- shipping -------------------------------------------------------------------------------------------------

    def _look(self, segment: Segment) -> None:
        if self._by_ship:
            self._collect()
            return
        if self._interval is None or self._open is None:
            return
        written = self._open.written(segment)
        if written is None:
            return
        chain, marks = self._chain_for(segment, written.run), (self._marked, self._marked_at)
        if not self._due(chain, written.offset, self._interval):
            return
        try:
            self._ship_up_to(chain, written.offset)
        except WalkeeperError:
            self._marked, self._marked_at = marks  # it is due at the next look, too
            raise

    def _ship_up_to(self, chain: Chain, offset: int) -> None:
        while chain.end < offset:
            end = min(offset, chain.end + MAX_PIECE)
            receipt = self._ship(chain, chain.end, end)
            if receipt is None:
                return
            chain.add(receipt, 0)
            self._receipts.put(receipt)
            self._merge(chain)

    def _chain_for(self, segment: Segment, run: int) -> Chain:
        chain = self._chain
        if chain is not None and chain.segment == segment and chain.run == run:
            return chain
        if chain is None or chain.run != run:
            # Streamed again from the segment's start: what is stored of it may go on, if the bytes are the same.
            elsewhere = [other for other in self._others.get(segment.number, ()) if other.segment != segment.name]
            self._others[segment.number] = [
                *elsewhere,
                *tail.stored_pieces(self._archive.store, self._archive.layout, segment.name),
            ]
            self._marked, self._marked_at = segment.start, self._clock.monotonic()
        self._chain = Chain(segment, run, self._owner(run))
        return self._chain

    def _owner(self, run: int) -> str:
        return f"{self._session[:12]}{run:04x}"

    def _collect(self) -> None:
        """What was shipped: the frontier may have it, and small pieces become one."""
        while not self._shipped.empty():
            run, receipt = self._shipped.get()
            chain = self._chain
            if chain is None or (chain.segment, chain.run, chain.end) != (receipt.segment, run, receipt.piece.begin):
                chain = self._chain = Chain(receipt.segment, run, receipt.piece.owner)
            chain.add(receipt, 0)
            self.uploaded += 1
            self.uploaded_bytes += receipt.stored_bytes
            self._receipts.put(receipt)
            self._merge(chain)

    def _due(self, chain: Chain, offset: int, interval: float) -> bool:
        """New bytes, an interval after the last ones, in a segment that will not be complete within the next."""
        segment, now = chain.segment, self._clock.monotonic()
        passed = now - self._marked_at
        if offset <= chain.end or passed < interval:
            return False
        position = segment.start + offset
        if position <= inner_fork(self._sources.history, segment):
            return False
        came, self._marked, self._marked_at = position - self._marked, position, now
        return segment.end - position > came * interval / passed

    def _ship(self, chain: Chain, begin: int, end: int) -> TailReceipt | None:
        """One piece; None where it can no longer be read, because the segment is complete or streamed again."""
        if begin == 0 and not chain.stored and self._continue_earlier(chain, end):
            begin = chain.end
            if begin == end:
                return None
        plain = self._read(chain, begin, end)
        if plain is None:
            return None
        piece = Piece(begin, end, chain.owner)
        with self._lock:
            self._own.setdefault(chain.segment.number, set()).add(self._key(chain.segment, piece))
        receipt = tail.put(self._archive, chain.segment, piece, plain)
        self.uploaded += 1
        self.uploaded_bytes += receipt.stored_bytes
        return receipt

    def _key(self, segment: Segment, piece: Piece) -> str:
        return self._archive.layout.piece(segment.name, piece, self._archive.codec.suffix)

    def _read(self, chain: Chain, begin: int, end: int) -> bytes | None:
        return None if self._open is None else self._open.read(chain.segment, chain.run, begin, end)

    def _continue_earlier(self, chain: Chain, end: int) -> bool:
        """Take over the longest chain that is stored of this segment and has the bytes that were received now."""
        others = self._others.get(chain.segment.number, [])
        by_piece = {
            stored.piece: stored
            for stored in others
            if stored.segment == chain.segment.name and stored.piece.end <= end
        }
        owners = sorted({piece.owner for piece in by_piece})
        chains = [longest_chain([piece for piece in by_piece if piece.owner == owner]) for owner in owners]
        best = max(chains, key=lambda pieces: pieces[-1].end if pieces else 0, default=[])
        plain = self._read(chain, 0, best[-1].end) if best else None
        if plain is None:
            return False
        receipts = []
        for piece in best:
            receipt = tail.confirm(self._archive, by_piece[piece], chain.segment, plain[piece.begin : piece.end])
            if receipt is None:
                return False
            receipts.append(receipt)
        chain.owner = best[0].owner
        with self._lock:
            self._own.setdefault(chain.segment.number, set()).update(receipt.key for receipt in receipts)
        self._others[chain.segment.number] = [
            stored for stored in others if by_piece.get(stored.piece) is not stored or stored.piece not in best
        ]
        for receipt in receipts:
            chain.add(receipt, 0)
            self._receipts.put(receipt)
        events.info("tail_continued", segment=chain.segment, pieces=len(receipts), end=chain.stored[-1].end)
        return True

    def _merge(self, chain: Chain) -> None:
        """Many small pieces become one; only then they are removed."""
        while count := due_for_merge(chain.levels):
            begin, end = chain.stored[-count].piece.begin, chain.end
            merged = self._ship(chain, begin, end) if end - begin <= MAX_PIECE else None
            if merged is None:
                return
            level = chain.levels[-1] + 1
            self._covered.extend((receipt.key, merged) for receipt in chain.stored[-count:])
            del chain.stored[-count:], chain.levels[-count:]
            chain.add(merged, level)

    # --- clearing up ----------------------------------------------------------------------------------------------

    def _find_others(self, start: Segment) -> None:
        """What earlier owners left of the segments before the start, where a complete one may cover it by now."""
        for stored in tail.stored_pieces(self._archive.store, self._archive.layout):
            with suppress(BadName):
                number = Segment.parse(stored.segment, start.size).number
                if number >= start.number - LOOK_BACK:
                    self._others.setdefault(number, []).append(stored)
        for number in sorted(self._others):
            receipt = self._archive.find(self._sources.history.segment(number, start.size))
            if receipt is not None:
                self._whole.put((receipt, False))

    def _clear_up(self) -> None:
        while not self._whole.empty():
            receipt, ours = self._whole.get()
            if ours:
                self._stored_whole[receipt.segment.number] = receipt
            if len(self._stored_whole) > LAST:
                del self._stored_whole[min(self._stored_whole)]
            self._covered.extend((key, receipt) for key in self._covered_of_others(receipt))
        with self._lock:
            whole = [number for number in self._own.keys() & self._stored_whole.keys() if not self._flying[number]]
            for number in sorted(whole):
                receipt = self._stored_whole[number]
                self._covered.extend((key, receipt) for key in sorted(self._own.pop(number)))
        self._remove(SHIPPED_DROPS if self._by_ship else DROPS)

    def _remove(self, count: int) -> None:
        covered = [self._covered.popleft() for _ in range(min(count, len(self._covered)))]
        try:
            deque(in_parallel(lambda each: self._drop(*each), covered, min(AT_ONCE, len(covered))), maxlen=0)
        except WalkeeperError:
            self._covered.extendleft(reversed(covered))
            raise

    def _covered_of_others(self, receipt: Receipt) -> list[str]:
        """Chains that say nothing but what the stored segment says: compared byte for byte, and dropped as a whole.

        What went beyond the fork is in no other object: it stays.
        """
        others = self._others.pop(receipt.segment.number, [])
        here = self._local_sums(receipt, others) if others else None
        if here is None:
            return []
        found: list[str] = []
        for owner in sorted({(stored.segment, stored.piece.owner) for stored in others}):
            chain = [stored for stored in others if (stored.segment, stored.piece.owner) == owner]
            if tail.covers(self._archive, here.ranges, chain):
                found += [stored.key for stored in chain]
            else:
                events.info("tail_kept", segment=owner[0], owner=owner[1], why=f"not all of it is in {receipt.segment}")
        return found

    def _local_sums(self, receipt: Receipt, pieces: Iterable[StoredPiece]) -> Sums | None:
        """Of those pieces, in the bytes that the store has under that receipt, as they lie here; None if they no longer do."""
        ranges = [(each.piece.begin, each.piece.end) for each in pieces]
        for directory in (self._sources.spool.wal, self._sources.pg_wal):
            with suppress(OSError, BadSegment):
                sums = sums_of(directory / receipt.segment.name, receipt.segment, ranges)
                if sums.whole == receipt.sha256:
                    return sums
        return None

    def _drop(self, key: str, cover: Receipt | TailReceipt) -> None:
        if not self._may_remove:
            return
        try:
            tail.drop(self._archive, key, cover)
            with self._lock:
                self._own.get(cover.segment.number, set()).discard(key)
        except StoreDenied as problem:
            self._may_remove = False
            events.warning(
                "tail_not_removed",
                key=key,
                error=problem,
                hint="These credentials may not delete. walkeeper goes on; let a lifecycle rule of the bucket remove what is "
                "older than some days under tail/.",
            )
