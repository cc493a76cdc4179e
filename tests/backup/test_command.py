"""``walkeeper backup`` as far as it needs no server: what it takes, and how it says how far it is."""

from __future__ import annotations

import io
import sys
import time
from typing import cast

import pytest

from tests.core.values import a_backup
from walkeeper.backup.command import _LOG_EVERY, _Attempt, _Meter
from walkeeper.backup.command import Request as Asked
from walkeeper.cli.main import parser
from walkeeper.config import Config
from walkeeper.core.backup import BackupId, WalRange, wal_ranges
from walkeeper.core.backup_job import DAMAGED
from walkeeper.core.lsn import MIB
from walkeeper.errors import BadBackup
from walkeeper.lib import events
from walkeeper.lib.terminal import Progress
from walkeeper.postgres.base_backup import Request, _command, _hint

ID = BackupId("20261128T020000Z", 3, "1a2b3c4d")


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def test_how_far_it_is_is_a_line_of_the_log_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    events.to_stderr()
    meter = _Meter(ID, 100 * MIB, Progress())
    for second in range(1, 71):
        clock.now = 1000.0 + second
        meter.moved(second * MIB)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == int(70 // _LOG_EVERY)
    assert lines[0].endswith(
        f"backup_goes_on backup={ID} bytes={30 * MIB} of={100 * MIB} bytes_per_second={MIB} seconds_left=70"
    )


def test_on_a_terminal_it_is_one_line_and_not_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, screen = Clock(monkeypatch), io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", screen)
    with Progress() as progress:
        meter = _Meter(ID, 100 * MIB, progress)
        clock.now += 40
        meter.moved(80 * MIB)
        clock.now += 40
        meter.moved(120 * MIB)  # more than the server had counted
    shown = [line.strip() for line in screen.getvalue().split("\r") if line.strip()]
    assert shown == ["80 MiB of about 100 MiB, 2 MiB/s, 10 s left", "120 MiB of about 100 MiB, 1.5 MiB/s, 0 s left"]


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    asked = parser().parse_args(["backup", "--max-rate", "50MB", "--checkpoint", "spread", "--resume", str(ID)])
    assert (asked.max_rate, asked.checkpoint, asked.resume) == (50 * MIB, "spread", str(ID))
    for wrong in ("31kB", "2GB", "x", "0", "-1MB"):
        with pytest.raises(SystemExit):
            parser().parse_args(["backup", "--max-rate", wrong])
        assert "--max-rate" in capsys.readouterr().err
    assert parser().parse_args(["backup", "--max-rate", "32kB"]).max_rate == 32 * 1024


def test_what_is_asked_of_the_server() -> None:
    told = _command(Request("it's", spread=True, max_rate=32)).decode()
    assert told.startswith("BASE_BACKUP (LABEL 'it''s', PROGRESS, CHECKPOINT 'spread', WAIT false, ")
    assert told.endswith(", MAX_RATE 32)")
    assert "MAX_RATE" not in _command(Request("x")).decode()


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("FATAL: must be superuser or replication role to start walsender", "attribute REPLICATION"),
        ("FATAL: number of requested standby connections exceeds max_wal_senders", "Raise max_wal_senders"),
        ("no pg_hba.conf entry for replication connection from host", "pg_hba.conf"),
        ("server closed the connection unexpectedly", "went down"),
        ("terminating connection due to administrator command", "ended its walsender"),
        ('WAL generated with "full_page_writes=off" was replayed during online backup', "full_page_writes = on"),
        ("the standby was promoted during online backup", "Begin again"),
    ],
)
def test_each_refusal_says_what_to_do(said: str, hint: str) -> None:
    assert hint in _hint(said)


def test_the_wal_that_is_needed_stands_at_the_manifests_end_newest_first() -> None:
    end = b"""{ "Path": "x", "Size": 1 }
],
"WAL-Ranges": [
{ "Timeline": 3, "Start-LSN": "0/3000000", "End-LSN": "0/3000100" },
{ "Timeline": 2, "Start-LSN": "0/2000028", "End-LSN": "0/3000000" }
],
"Manifest-Checksum": "00"}
"""
    ranges = (WalRange(2, "0/2000028", "0/3000000"), WalRange(3, "0/3000000", "0/3000100"))
    assert wal_ranges(end) == wal_ranges(b'"WAL-Ranges": a name' + end) == ranges
    for broken in (b"", b'{"WAL-Ranges": []', end[:-20], end.replace(b"0/3000100", b"../etc")):
        with pytest.raises(BadBackup, match="the server's manifest"):
            wal_ranges(broken)


def test_p14_a_damaged_one_is_never_told_as_stored(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where an attempt before has stored it."""
    damaged = a_backup(ID, damage=("checksum verification failed in file base/1/2",))
    for asked, code in ((Asked(), 1), (Asked(resume=str(ID)), 1), (Asked(job=str(ID)), DAMAGED)):
        assert _Attempt(cast(Config, None), asked)._verdict(damaged) == code
        assert "damaged: checksum verification failed in file base/1/2" in capsys.readouterr().err
        assert _Attempt(cast(Config, None), asked)._verdict(a_backup(ID)) == 0
