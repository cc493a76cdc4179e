"""A base backup over the replication protocol: BASE_BACKUP on psycopg's low level, as pg_basebackup runs it.

PostgreSQL 15 and newer send one COPY stream: ``n`` begins an archive, ``d`` is data of it, ``m`` begins the manifest, ``p`` is
progress (``protocol.sgml``, "BASE_BACKUP"). ``get_copy_data(0)`` would hold the GIL for as long as it waits, so that nothing is
packed meanwhile: here only ``poll`` waits.
"""

from __future__ import annotations

import re
import select
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Protocol, Self

import psycopg
from psycopg import pq

from walkeeper.config import PostgresqlSettings
from walkeeper.core.lsn import Lsn
from walkeeper.errors import PostgresError
from walkeeper.postgres.server import connect, hint_for

APPLICATION: Final = "walkeeper backup"
OLDEST: Final = 150000
"""The oldest server, as ``server_version_num``: older ones send a COPY stream for each archive."""
BEFORE_IT_BEGINS: Final = 3600.0
"""Seconds that the server may say nothing before its first answer: it makes a checkpoint first, a slow one if asked for."""
SILENCE: Final = 300.0
"""Seconds that it may say nothing after that."""
_PORTION: Final = 1024 * 1024
"""Bytes of a manifest that are handed over at once."""
_WARNINGS: Final = 100
"""Warnings that are kept."""
_CORRUPTED: Final = "XX001"
_ARCHIVE: Final = re.compile(rb"([1-9][0-9]{0,9})\.tar\Z")
_BASE: Final = b"base.tar"


@dataclass(frozen=True, slots=True)
class SentTablespace:
    """``location`` as the server has it; one that is relative lies in the data directory."""

    oid: int
    location: str


@dataclass(frozen=True, slots=True)
class Identity:
    """``timeline`` is the one that the server writes or replays."""

    system_identifier: int
    timeline: int
    version: int
    """``server_version_num``."""


@dataclass(frozen=True, slots=True)
class Start:
    """``estimate`` is how many bytes there will be about, as the server counted them beforehand."""

    timeline: int
    lsn: Lsn
    tablespaces: tuple[SentTablespace, ...]
    estimate: int


@dataclass(frozen=True, slots=True)
class Stop:
    """``damage`` is empty, or what the server said against what it had sent: pages with a wrong checksum."""

    timeline: int
    lsn: Lsn
    damage: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """``max_rate`` in kB a second. ``spread``: the checkpoint before it takes its time, as the server's own do.

    ``incremental``: only what has changed since the backup whose manifest was uploaded.
    """

    label: str
    spread: bool = False
    max_rate: int | None = None
    incremental: bool = False


class Sink(Protocol):
    """Takes what comes, in order; a view is only good until the method returns. What it raises ends the backup."""

    def begin(self, tablespace: int) -> None:
        """The tar of that tablespace; 0 is the data directory's own, the last one."""

    def feed(self, data: memoryview) -> None:
        """Of that tar."""

    def manifest(self, data: memoryview) -> None:
        """PostgreSQL's manifest, after all tars."""


@dataclass(slots=True)
class Walsender:
    """One replication connection. All raise PostgresError; for one thread, in this order: identify, upload, begin, copy."""

    settings: PostgresqlSettings
    silence: float = SILENCE
    warnings: list[str] = field(default_factory=list)
    """What the server said besides, as far as it was not made part of an error or of the damage."""
    _link: psycopg.Connection[tuple[object, ...]] | None = None

    def __enter__(self) -> Self:
        try:
            self._link = self._connect()
        except psycopg.Error as error:
            raise self._problem(str(error)) from None
        self._pg.notice_handler = self._noticed
        self._pg.nonblocking = 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Closing it ends the server's part of it, too."""
        if self._link is not None:
            self._pg.notice_handler = None
            self._link.close()
            self._link = None

    def identify(self) -> Identity:
        self._send(b"IDENTIFY_SYSTEM")
        answer = self._rows(SILENCE)
        found = Identity(int(_text(answer, 0, 0)), int(_text(answer, 0, 1)), self._pg.server_version)
        self._done()
        return found

    def upload(self, manifest: bytes) -> None:
        """PostgreSQL's own manifest of the backup on which the next one builds (``UPLOAD_MANIFEST``)."""
        self._send(b"UPLOAD_MANIFEST")
        self._expect(pq.ExecStatus.COPY_IN, SILENCE)
        try:
            for at in range(0, len(manifest), _PORTION):
                self._pg.put_copy_data(manifest[at : at + _PORTION])
                self._flush()
            self._pg.put_copy_end()
            self._flush()
        except psycopg.Error as error:
            raise self._problem(str(error)) from None
        self._expect(pq.ExecStatus.COMMAND_OK, SILENCE)
        self._done()

    def begin(self, request: Request, seconds: float = BEFORE_IT_BEGINS) -> Start:
        """Returns when the server has made its checkpoint and is about to send, within so many seconds."""
        self._send(_command(request))
        place = self._rows(seconds)
        spaces = self._rows(SILENCE)
        self._expect(pq.ExecStatus.COPY_OUT, SILENCE)
        sent = [row for row in range(spaces.ntuples) if spaces.get_value(row, 0) is not None]
        return Start(
            int(_text(place, 0, 1)),
            Lsn.parse(_text(place, 0, 0)),
            tuple(SentTablespace(int(_text(spaces, row, 0)), self._location(spaces, row)) for row in sent),
            sum(int(spaces.get_value(row, 2) or 0) * 1024 for row in range(spaces.ntuples)),
        )

    def copy(self, sink: Sink) -> Stop:
        """Everything that the server sends into ``sink``, and what it says of it at the end."""
        feed = sink.feed
        for message in self._messages():
            kind = message[0]
            if kind == 0x64:  # d
                feed(message[1:])
            elif kind == 0x6E:  # n
                feed = sink.feed
                sink.begin(self._archive(bytes(message[1:]).partition(b"\0")[0]))
            elif kind == 0x6D:  # m
                feed = sink.manifest
            elif kind != 0x70:  # p
                raise self._problem(f"it sent a message of an unknown kind, {kind:#04x}")
        place = self._rows(self.silence)
        ended = self._result(self.silence)
        if ended.status == pq.ExecStatus.COMMAND_OK:
            return Stop(int(_text(place, 0, 1)), Lsn.parse(_text(place, 0, 0)), ())
        if ended.error_field(pq.DiagnosticField.SQLSTATE) != _CORRUPTED.encode():
            raise self._refused(ended)
        damage = (*self.warnings[: _WARNINGS - 1], _message(ended))
        self.warnings.clear()
        return Stop(int(_text(place, 0, 1)), Lsn.parse(_text(place, 0, 0)), damage)

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return connect(self.settings, replication="true", application_name=APPLICATION)

    def _messages(self) -> Iterator[memoryview]:
        pg, wait = self._pg, self._wait
        while True:
            try:
                length, message = pg.get_copy_data(1)
            except psycopg.Error as error:
                raise self._problem(str(error)) from None
            if length > 0:
                yield message
            elif length == 0:
                wait(time.monotonic() + self.silence)
            else:
                return

    def abandon(self) -> None:
        """End what it is at, as far as it still listens, and the connection."""
        with suppress(psycopg.Error):
            self._pg.get_cancel().cancel()
        self.__exit__(None, None, None)

    def _send(self, command: bytes) -> None:
        try:
            self._pg.send_query(command)
            self._flush()
        except psycopg.Error as error:
            raise self._problem(str(error)) from None

    def _flush(self) -> None:
        while self._pg.flush():
            self._wait(time.monotonic() + SILENCE, select.POLLIN | select.POLLOUT)

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
        until = time.monotonic() + SILENCE
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
        if severity == b"WARNING" and len(self.warnings) < _WARNINGS:
            self.warnings.append(_message(result))

    def _archive(self, name: bytes) -> int:
        if name == _BASE:
            return 0
        match = _ARCHIVE.match(name)
        if match is None:
            raise self._problem(f"it sent an archive with the name {name!r}")
        return int(match[1])

    def _location(self, spaces: pq.abc.PGresult, row: int) -> str:
        raw = spaces.get_value(row, 1) or b""
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self._problem(
                f"tablespace {_text(spaces, row, 0)}: its location {raw!r} is not UTF-8",
                hint="Move the tablespace to a directory whose name is.",
            ) from None

    def _refused(self, result: pq.abc.PGresult) -> PostgresError:
        if result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) is None:
            return self._problem(f"it answered with {pq.ExecStatus(result.status).name}")
        return self._problem(_message(result))

    def _problem(self, text: str, *, hint: str = "") -> PostgresError:
        said = " ".join(text.split())
        return PostgresError(
            f"postgresql at {self.settings.host}:{self.settings.port}: {said}", hint=hint or _hint(said)
        )

    @property
    def _pg(self) -> pq.abc.PGconn:
        if self._link is None:
            raise RuntimeError("not connected")
        return self._link.pgconn


def _command(request: Request) -> bytes:
    options = [
        "LABEL '" + request.label.replace("'", "''") + "'",
        "PROGRESS",
        f"CHECKPOINT '{'spread' if request.spread else 'fast'}'",
        "WAIT false",
        "TABLESPACE_MAP",
        "MANIFEST 'yes'",
        "MANIFEST_CHECKSUMS 'CRC32C'",
    ]
    if request.incremental:
        options.append("INCREMENTAL")
    if request.max_rate is not None:
        options.append(f"MAX_RATE {request.max_rate}")
    return f"BASE_BACKUP ({', '.join(options)})".encode()


def _text(result: pq.abc.PGresult, row: int, column: int) -> str:
    return (result.get_value(row, column) or b"").decode("utf-8", "replace")


def _message(result: pq.abc.PGresult) -> str:
    """The primary message, with the detail behind it."""
    fields = (pq.DiagnosticField.MESSAGE_PRIMARY, pq.DiagnosticField.MESSAGE_DETAIL)
    said = [found.decode("utf-8", "replace") for each in fields if (found := result.error_field(each)) is not None]
    return " ".join(" ".join(said).split())


def _hint(text: str) -> str:
    """What to do about it, from the server's own words."""
    if "REPLICATION" in text or "replication role" in text:
        return "The role needs the attribute REPLICATION: alter role … replication; or set walkeeper.postgresql.user."
    if "full_page_writes" in text:
        return "Set full_page_writes = on on the primary, run CHECKPOINT there, and begin again; or take it from the primary."
    if "promoted" in text:
        return "Begin again: the new primary, and every other replica, can be backed up."
    if "terminat" in text or "closed the connection" in text or "not open" in text:
        return "The server went down, or somebody ended its walsender. Begin again when it is back."
    return hint_for(text)
