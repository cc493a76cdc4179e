"""A base backup over the replication protocol: BASE_BACKUP on psycopg's low level, as pg_basebackup runs it.

PostgreSQL 15 and newer send one COPY stream: ``n`` begins an archive, ``d`` is data of it, ``m`` begins the manifest, ``p`` is
progress (``protocol.sgml``, "BASE_BACKUP"). ``get_copy_data(0)`` would hold the GIL for as long as it waits, so that nothing is
packed meanwhile: here only ``poll`` waits.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

import psycopg
from psycopg import pq

from walkeeper.core.lsn import Lsn
from walkeeper.postgres.server import hint_for
from walkeeper.postgres.walsender import WARNINGS, Walsender, message_of, text_of

APPLICATION: Final = "walkeeper backup"
OLDEST: Final = 150000
"""The oldest server, as ``server_version_num``: older ones send a COPY stream for each archive."""
BEFORE_IT_BEGINS: Final = 3600.0
"""Seconds that the server may say nothing before its first answer: it makes a checkpoint first, a slow one if asked for."""
_PORTION: Final = 1024 * 1024
"""Bytes of a manifest that are handed over at once."""
_CORRUPTED: Final = "XX001"
_ARCHIVE: Final = re.compile(rb"([1-9][0-9]{0,9})\.tar\Z")
_BASE: Final = b"base.tar"


@dataclass(frozen=True, slots=True)
class SentTablespace:
    """``location`` as the server has it; one that is relative lies in the data directory."""

    oid: int
    location: str


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
class BackupStream(Walsender):
    """One connection. All raise PostgresError; for one thread, in this order: identify, upload, begin, copy."""

    parameters = {"application_name": APPLICATION}  # noqa: RUF012 - as in the class that it is made of

    def upload(self, manifest: bytes) -> None:
        """PostgreSQL's own manifest of the backup on which the next one builds (``UPLOAD_MANIFEST``)."""
        self._send(b"UPLOAD_MANIFEST")
        self._expect(pq.ExecStatus.COPY_IN, self.silence)
        try:
            for at in range(0, len(manifest), _PORTION):
                self._pg.put_copy_data(manifest[at : at + _PORTION])
                self._flush()
            self._pg.put_copy_end()
            self._flush()
        except psycopg.Error as error:
            raise self._problem(str(error)) from None
        self._expect(pq.ExecStatus.COMMAND_OK, self.silence)
        self._done()

    def begin(self, request: Request, seconds: float = BEFORE_IT_BEGINS) -> Start:
        """Returns when the server has made its checkpoint and is about to send, within so many seconds."""
        self._send(_command(request))
        place = self._rows(seconds)
        spaces = self._rows(self.silence)
        self._expect(pq.ExecStatus.COPY_OUT, self.silence)
        sent = [row for row in range(spaces.ntuples) if spaces.get_value(row, 0) is not None]
        return Start(
            int(text_of(place, 0, 1)),
            Lsn.parse(text_of(place, 0, 0)),
            tuple(SentTablespace(int(text_of(spaces, row, 0)), self._location(spaces, row)) for row in sent),
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
            return Stop(int(text_of(place, 0, 1)), Lsn.parse(text_of(place, 0, 0)), ())
        if ended.error_field(pq.DiagnosticField.SQLSTATE) != _CORRUPTED.encode():
            raise self._refused(ended)
        damage = (*self.warnings[: WARNINGS - 1], message_of(ended))
        self.warnings.clear()
        return Stop(int(text_of(place, 0, 1)), Lsn.parse(text_of(place, 0, 0)), damage)

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
                f"tablespace {text_of(spaces, row, 0)}: its location {raw!r} is not UTF-8",
                hint="Move the tablespace to a directory whose name is.",
            ) from None

    def _hint(self, said: str) -> str:
        return _hint(said)


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


def _hint(text: str) -> str:
    """What to do about it, from the server's own words."""
    if "full_page_writes" in text:
        return "Set full_page_writes = on on the primary, run CHECKPOINT there, and begin again; or take it from the primary."
    if "promoted" in text:
        return "Begin again: the new primary, and every other replica, can be backed up."
    if "terminat" in text or "closed the connection" in text or "not open" in text:
        return "The server went down, or somebody ended its walsender. Begin again when it is back."
    return hint_for(text)
