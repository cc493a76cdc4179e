"""A replication connection, on psycopg's low level: what its commands have in common (``protocol.sgml``).

``get_copy_data(0)`` and its like would hold the GIL for as long as they wait: here only ``poll`` waits.
"""

from __future__ import annotations

import select
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, Self

import psycopg
from psycopg import pq

from walkeeper.config import PostgresqlSettings
from walkeeper.errors import PostgresError
from walkeeper.postgres.server import connect, hint_for

SILENCE: Final = 300.0
"""Seconds that the server may say nothing."""
WARNINGS: Final = 100
"""Warnings that are kept."""


@dataclass(frozen=True, slots=True)
class Identity:
    """``timeline`` is the one that the server writes or replays."""

    system_identifier: int
    timeline: int


@dataclass(slots=True)
class Walsender:
    """One connection, as a context manager. All raise PostgresError; for one thread."""

    settings: PostgresqlSettings
    silence: float = SILENCE
    warnings: list[str] = field(default_factory=list)
    """What the server said besides, as far as it was not made part of an error or of the damage."""
    application: str = ""
    """Its ``application_name``; "" is that of every connection."""
    _link: psycopg.Connection[tuple[object, ...]] | None = None

    parameters: ClassVar[Mapping[str, str]] = {}
    """Of the connection, beside those of every one."""

    def __enter__(self) -> Self:
        try:
            named = {"application_name": self.application} if self.application else {}
            self._link = connect(self.settings, replication="true", **self.parameters, **named)
        except psycopg.Error as error:
            raise self._problem(str(error)) from None
        self._pg.notice_handler = self._noticed
        self._pg.nonblocking = 1
        return self

    def __exit__(self, *_: object) -> None:
        """Closing it ends the server's part of it, too."""
        if self._link is not None:
            self._pg.notice_handler = None
            self._link.close()
            self._link = None

    def identify(self) -> Identity:
        self._send(b"IDENTIFY_SYSTEM")
        answer = self._rows(self.silence)
        found = Identity(int(text_of(answer, 0, 0)), int(text_of(answer, 0, 1)))
        self._done()
        return found

    def _send(self, command: bytes) -> None:
        try:
            self._pg.send_query(command)
            self._flush()
        except psycopg.Error as error:
            raise self._problem(str(error)) from None

    def _flush(self) -> None:
        while self._pg.flush():
            self._wait(time.monotonic() + self.silence, select.POLLIN | select.POLLOUT)

    def _rows(self, seconds: float) -> pq.abc.PGresult:
        return self._expect(pq.ExecStatus.TUPLES_OK, seconds)

    def _expect(self, status: pq.ExecStatus, seconds: float) -> pq.abc.PGresult:
        result = self._result(seconds)
        if result.status != status:
            raise self._refused(result)
        return result

    def _result(self, seconds: float) -> pq.abc.PGresult:
        until = time.monotonic() + seconds
        while self._pg.is_busy():
            self._wait(until)
        result = self._pg.get_result()
        if result is None:
            raise self._problem("it ended the command without saying how")
        return result

    def _done(self) -> None:
        """Up to where the next command may be sent."""
        until = time.monotonic() + self.silence
        while True:
            while self._pg.is_busy():
                self._wait(until)
            if self._pg.get_result() is None:
                return

    def _wait(self, until: float, events: int = select.POLLIN) -> None:
        """Until something came, and take it in."""
        poll = select.poll()
        poll.register(self._pg.socket, events)
        left = until - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise self._problem("it says nothing any more", hint="Look at the server and at the way to it.")
        try:
            self._pg.consume_input()
        except psycopg.Error as error:
            raise self._problem(str(error)) from None

    def _noticed(self, result: pq.abc.PGresult) -> None:
        severity = result.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED)
        if severity == b"WARNING" and len(self.warnings) < WARNINGS:
            self.warnings.append(message_of(result))

    def _refused(self, result: pq.abc.PGresult) -> PostgresError:
        if result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) is None:
            return self._problem(f"it answered with {pq.ExecStatus(result.status).name}")
        return self._problem(message_of(result))

    def _problem(self, text: str, *, hint: str = "") -> PostgresError:
        said = " ".join(text.split())
        return PostgresError(
            f"postgresql at {self.settings.host}:{self.settings.port}: {said}", hint=hint or self._hint(said)
        )

    def _hint(self, said: str) -> str:
        """What to do about it, from the server's own words."""
        return hint_for(said)

    @property
    def _pg(self) -> pq.abc.PGconn:
        if self._link is None:
            raise RuntimeError("not connected")
        return self._link.pgconn


def text_of(result: pq.abc.PGresult, row: int, column: int) -> str:
    return (result.get_value(row, column) or b"").decode("utf-8", "replace")


def message_of(result: pq.abc.PGresult) -> str:
    """The primary message, with the detail behind it."""
    fields = (pq.DiagnosticField.MESSAGE_PRIMARY, pq.DiagnosticField.MESSAGE_DETAIL)
    said = [found.decode("utf-8", "replace") for each in fields if (found := result.error_field(each)) is not None]
    return " ".join(" ".join(said).split())
