"""WAL as a server sends it: START_REPLICATION without a slot, on psycopg's low level (``protocol.sgml``, "START_REPLICATION").

No flush position is reported but an Acknowledgement: without one PostgreSQL never takes this for a synchronous standby, and a
server that shuts down waits for what is received, not for what is stored (``SyncRepReleaseWaiters``, ``WalSndDone``).
"""

from __future__ import annotations

import select
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import pq

from walkeeper.core.lsn import Lsn
from walkeeper.core.synchronous import NOTHING, Acknowledgement
from walkeeper.lib.clock import wall_seconds
from walkeeper.postgres.pg_receivewal import WAL_SENDER_TIMEOUT
from walkeeper.postgres.walsender import Walsender

AUTOMATICALLY: Final = "The stream is begun again automatically."
STATUS_SECONDS: Final = 1.0
"""Seconds between two reports of what was received."""
MUTE_SECONDS: Final = 15.0
"""Seconds without an answer, which each report asks for, until the server counts as gone."""
_AT_ONCE: Final = 4 * 1024 * 1024
"""Bytes after which ``receive`` returns though more has come."""

# r, written, flushed, applied, microseconds since 2000, whether an answer is wanted.
_STATUS: Final = struct.Struct(">cQQQQB")
# w, position of the data, end of the server's WAL, its clock; k, end of the server's WAL, its clock, whether an answer is wanted.
_DATA: Final = struct.Struct(">cQQQ")
_KEEPALIVE: Final = struct.Struct(">cQQB")
_NOWHERE: Final = Lsn(0)
_YEAR_2000: Final = 946684800


@dataclass(slots=True)
class WalStream(Walsender):
    """One connection. All raise PostgresError; for one thread, in this order: identify, start, receive again and again."""

    silence: float = MUTE_SECONDS
    server_lsn: Lsn = _NOWHERE
    """How far the server said that its WAL is flushed, or sent."""
    received: Lsn = _NOWHERE
    heard: bool = False
    """Whether anything has come since ``start``."""
    ended: bool = False
    """Whether the server ended it by a word, as it does when it shuts down (``WalSndDone``)."""
    wake: int = -1
    """A descriptor that ends the wait of ``receive`` and ``idle`` when it can be read; -1: none."""
    _acknowledged: Acknowledgement = NOTHING
    _heard_at: float = 0.0
    _told_at: float = 0.0

    parameters = {"options": f"-c wal_sender_timeout={WAL_SENDER_TIMEOUT}"}  # noqa: RUF012 - as in the class that it is made of

    def start(self, lsn: Lsn, timeline: int) -> None:
        """Begin at that position of that timeline."""
        self._send(f"START_REPLICATION PHYSICAL {lsn} TIMELINE {timeline}".encode())
        self._expect(pq.ExecStatus.COPY_BOTH, self.silence)
        self.received, self._heard_at = lsn, time.monotonic()
        self._tell()

    def receive(self, seconds: float, take: Callable[[Lsn, memoryview], None]) -> None:
        """What has come, in order, into ``take``, whose view is good until it returns; waits at most so long for the first."""
        pg, taken, waited = self._pg, 0, False
        try:
            while taken < _AT_ONCE:
                length, message = pg.get_copy_data(1)
                if length > 0:
                    taken += length
                    self._take(message, take)
                elif length < 0:
                    raise self._ended()
                elif taken or waited:
                    break
                else:
                    waited = True
                    self._wait_briefly(seconds)
        except psycopg.Error as error:
            raise self._problem(str(error)) from None
        now = time.monotonic()
        if taken:
            self._heard_at = now
        elif now - self._heard_at > self.silence:
            raise self._problem("it says nothing any more")
        self._tell_now_and_then()

    def idle(self, seconds: float) -> None:
        """As ``receive``, but nothing is taken: the server waits, and is told that we live."""
        poll = select.poll()
        if self.wake >= 0:
            poll.register(self.wake, select.POLLIN)
        poll.poll(seconds * 1000)
        self._heard_at = time.monotonic()
        self._tell_now_and_then()

    def acknowledge(self, what: Acknowledgement) -> None:
        """Say so, where it is not what was said last: what it names is durable, or, as NOTHING, that nothing is promised."""
        if what != self._acknowledged:
            self._acknowledged = what
            self._tell(answer=False)

    def _tell_now_and_then(self) -> None:
        if time.monotonic() - self._told_at >= STATUS_SECONDS:
            self._tell()

    def _take(self, message: memoryview, take: Callable[[Lsn, memoryview], None]) -> None:
        self.heard = True
        kind = bytes(message[:1])
        if kind == b"w" and len(message) > _DATA.size:
            _, at, end, _ = _DATA.unpack_from(message)
            data = message[_DATA.size :]
            take(Lsn(at), data)
            self.received = Lsn(at + len(data))
            self.server_lsn = max(self.server_lsn, Lsn(end), self.received)
        elif kind == b"k" and len(message) == _KEEPALIVE.size:
            _, end, _, wanted = _KEEPALIVE.unpack(message)
            self.server_lsn = max(self.server_lsn, Lsn(end))
            if wanted:
                self._tell()
        else:
            raise self._problem(f"it sent a message of {len(message)} bytes that is not understood, {kind!r}")

    def _tell(self, *, answer: bool = True) -> None:
        """Written, flushed and applied are one: nothing between received and durable is worth a commit's wait."""
        self._told_at = time.monotonic() if answer else self._told_at
        stamp = int((wall_seconds() - _YEAR_2000) * 1_000_000)
        durable = self._acknowledged.lsn
        try:
            self._pg.put_copy_data(_STATUS.pack(b"r", durable or self.received, durable, durable, stamp, answer))
            self._pg.flush()  # what does not go now goes with the next call
        except psycopg.Error as error:
            raise self._problem(str(error)) from None

    def _wait_briefly(self, seconds: float) -> None:
        poll = select.poll()
        poll.register(self._pg.socket, select.POLLIN)
        if self.wake >= 0:
            poll.register(self.wake, select.POLLIN)
        if poll.poll(seconds * 1000):
            self._pg.consume_input()

    def _ended(self) -> Exception:
        """By the server: it shuts down, or another timeline begins."""
        result = self._pg.get_result()
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            return self._refused(result)
        self.ended = result is not None and result.status == pq.ExecStatus.COMMAND_OK
        return self._problem("it ended the stream")

    def _hint(self, said: str) -> str:
        return super(WalStream, self)._hint(said) or AUTOMATICALLY
