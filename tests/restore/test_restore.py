"""``walkeeper restore-wal``: exactly what was archived, or *absent*, or *cannot tell*; on servers in recovery, too (P6)."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.fixtures.agents import command_line
from tests.fixtures.archived import BATCH, Archived, archived, broken, rows, wait_rows
from tests.parts.postgres import Postgres, restore_server
from tests.parts.processes import CHECKOUT, new_directory, wait_until
from tests.parts.scripted_s3 import Exchange, ScriptedS3, deaf
from walkeeper.archive.codec import Codec
from walkeeper.core.lsn import MIB
from walkeeper.restore import command as restore

pytestmark = pytest.mark.postgres
PLACE: Final = "pg_wal/RECOVERYXLOG"
SIGNALS: Final = [
    (("recovery.signal",), 255),
    (("standby.signal",), 2),
    (("recovery.signal", "standby.signal"), 2),
    ((), 2),
]


@pytest.fixture(scope="module")
def archive() -> Archived:
    return archived(1, 4)


@pytest.fixture
def recover(archive: Archived) -> Iterator[Callable[..., Postgres]]:
    """Make a server that recovers from the archive; it is not started."""
    made: list[Postgres] = []

    def make(signal_file: Any, of: Archived = archive) -> Postgres:
        of.configure()
        server = restore_server(of.backup, new_directory("b") / "pg", of.command(), signal_file=signal_file)
        made.append(server)
        return server

    yield make
    for server in made:
        server.close()


# --------------------------------------------------------------------------------------------------- servers in recovery


@pytest.mark.parametrize("size", [1, 16])
def test_p6_a_server_recovers_to_the_end_of_the_archive_and_opens(
    archive: Archived, recover: Callable[..., Postgres], size: int
) -> None:
    of = archive if size == 1 else archived(size, 2)
    server = recover("recovery.signal", of)
    server.start()
    wait_until(lambda: not server.value("SELECT pg_is_in_recovery()"), "the end of recovery", logs=[server.log])
    assert rows(server) == of.rows
    assert server.value("SELECT min(n) FROM t") == 0
    assert server.timeline() == 2


@pytest.mark.parametrize("fault", ["store away", "bit flip"])
def test_p6_what_cannot_be_told_stops_a_recovery_which_later_completes(
    archive: Archived, recover: Callable[..., Postgres], fault: str
) -> None:
    with broken(archive, fault):
        server = recover("recovery.signal")
        server.start(wait=False)
        assert server.process.wait(30) != 0
        log = server.log.read_text()
        assert "HINT" in log
        assert "exit=255" in log
        assert not list(server.pg_wal.glob("RECOVERY*"))
        assert not (server.pg_wal / "00000002.history").exists()
    server.start()
    wait_until(lambda: not server.value("SELECT pg_is_in_recovery()"), "the end of recovery", logs=[server.log])
    assert rows(server) == archive.rows


def test_p6_what_cannot_be_told_keeps_a_standby_asking(archive: Archived, recover: Callable[..., Postgres]) -> None:
    """With a pg_wal that is a symbolic link, as many have it."""
    server = recover("standby.signal")
    elsewhere = server.directory / "elsewhere"
    server.pg_wal.rename(elsewhere)
    server.pg_wal.symlink_to(elsewhere)
    server.configure({"wal_retrieve_retry_interval": "500ms"})
    with broken(archive, "bit flip"):
        server.start()
        wait_rows(server, 2 * BATCH)
        wait_until(lambda: server.log.read_text().count("exit=2 ") >= 2, "two refusals", logs=[server.log])
        assert rows(server) == 2 * BATCH
    wait_rows(server, archive.rows)
    assert server.value("SELECT pg_is_in_recovery()")
    assert not list(elsewhere.glob("*.walkeeper.*"))


def test_p9_a_promotion_does_not_wait_for_a_store_that_is_away(
    archive: Archived, recover: Callable[..., Postgres]
) -> None:
    server = recover("standby.signal")
    archive.configure(restore={"deadline": "60s"})
    server.start()
    wait_rows(server, archive.rows)
    with broken(archive, "store away"):
        begun = time.monotonic()
        server.promote()
        assert time.monotonic() - begun < 30
    assert not server.value("SELECT pg_is_in_recovery()")
    assert rows(server) == archive.rows


# -------------------------------------------------------------------------------------------------------- exits, one by one


class DataDirectory:
    """As much of one as restore-wal looks at."""

    def __init__(self, directory: Path, archive: Archived, signals: tuple[str, ...] = ("recovery.signal",)) -> None:
        self.path = directory / "data"
        self.archive = archive
        (self.path / "pg_wal").mkdir(parents=True)
        (self.path / "global").mkdir()
        (self.path / "global" / "pg_control").write_bytes((archive.backup / "global" / "pg_control").read_bytes())
        for name in signals:
            (self.path / name).touch()

    @property
    def place(self) -> Path:
        return self.path / PLACE

    def ask(self, name: str, destination: str = PLACE) -> int:
        return restore.main(self.archive.config, name, str(self.path / destination), {})

    def start(self, patch: str = "", name: str | None = None) -> subprocess.Popen[str]:
        """The command as PostgreSQL runs it, after some Python text."""
        program = f"import sys\n{patch}\nfrom walkeeper.cli.main import main; sys.exit(main())"
        return subprocess.Popen(
            [sys.executable, "-c", program, "-c", self.archive.config, "restore-wal", name or self.name, PLACE],
            cwd=self.path, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    @property
    def name(self) -> str:
        return self.archive.segments[2]

    def left(self) -> list[str]:
        return sorted(path.name for path in (self.path / "pg_wal").iterdir())


@pytest.fixture
def data(tmp_path: Path, archive: Archived) -> Iterator[DataDirectory]:
    archive.configure(restore={"deadline": "60s"})
    yield DataDirectory(tmp_path, archive)
    archive.configure()


def test_delivered_is_0_and_whole(data: DataDirectory) -> None:
    assert data.ask(data.name) == 0
    plain = data.place.read_bytes()
    assert len(plain) == MIB
    assert Codec().decode(".zst", data.archive.object(data.name).read_bytes(), MIB) == plain
    assert data.left() == ["RECOVERYXLOG"]


def test_it_replaces_what_lies_there(data: DataDirectory) -> None:
    data.place.write_bytes(b"half a segment")
    assert data.ask(data.name) == 0
    assert data.place.stat().st_size == MIB


@pytest.mark.parametrize("name", ["00000001.history", "00000002.history", "0000000100000000000000F0", "000000090000000000000003"])  # fmt: skip
def test_h1_h6_proved_absent_is_1(data: DataDirectory, name: str) -> None:
    assert data.ask(name) == 1
    assert data.left() == []


@pytest.mark.parametrize(
    "fault",
    [
        "store away",
        "store closed",
        "truncated",
        "empty",
        "bit flip",
        "another segment",
        "no key",
        "wrong key",
        "broken configuration",
        "unknown key",
        "no configuration",
        "wrong scope",
    ],
)
@pytest.mark.parametrize(("signals", "expected"), SIGNALS)
def test_p6_what_cannot_be_told_is_neither_0_nor_1(
    tmp_path: Path, archive: Archived, fault: str, signals: tuple[str, ...], expected: int,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data = DataDirectory(tmp_path, archive, signals)
    archive.configure(restore={"deadline": "300ms"})
    with broken(archive, fault):
        assert data.ask(data.name) == expected
    assert data.left() == []
    said = capfd.readouterr().err
    assert f"file={data.name} exit={expected} " in said
    assert "HINT" in said or f"{archive.config}:2: " in said
    assert "Traceback" not in said


@pytest.mark.parametrize("fault", ["missing", "read-only", "full", "a directory", "no data directory"])
@pytest.mark.parametrize(("signals", "expected"), SIGNALS[:2])
def test_h5_a_destination_that_cannot_be_written_is_cannot_tell(
    tmp_path: Path, archive: Archived, monkeypatch: pytest.MonkeyPatch, fault: str, signals: tuple[str, ...],
    expected: int, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    archive.configure()
    data = DataDirectory(tmp_path, archive, signals)
    destination = PLACE
    if fault == "missing":
        (data.path / "pg_wal").rmdir()
    elif fault == "read-only":
        (data.path / "pg_wal").chmod(0o500)
    elif fault == "full":
        write = os.write

        def half(fd: int, content: bytes) -> int:
            if len(content) < MIB:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(fd, content[: MIB // 2])

        monkeypatch.setattr(os, "write", half)
    elif fault == "a directory":
        data.place.mkdir()
    else:
        monkeypatch.chdir(data.path)
        destination = "RECOVERYXLOG"
        data.path = tmp_path / "elsewhere"
        assert restore.main(archive.config, data.name, destination, {}) == expected
        return
    assert data.ask(data.name, destination) == expected
    monkeypatch.undo()
    assert "HINT" in capfd.readouterr().err
    if (data.path / "pg_wal").exists():
        (data.path / "pg_wal").chmod(0o700)
        assert [name for name in data.left() if name != "RECOVERYXLOG"] == []
        assert not data.place.is_file()


def test_a_store_that_is_back_within_the_deadline_is_enough(data: DataDirectory) -> None:
    data.archive.configure(restore={"deadline": "10s"})
    away = data.archive.directory / "away"
    data.archive.store.rename(away)
    process = data.start()
    assert process.stderr is not None
    try:
        assert any("restore_waits" in line for line in process.stderr)
        assert process.poll() is None
    finally:
        away.rename(data.archive.store)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert data.place.stat().st_size == MIB


# --------------------------------------------------------------------------------------------------------- time and signals


def s3_configuration(data: DataDirectory, server: ScriptedS3, deadline: str) -> None:
    data.archive.config.write_text(
        yaml.safe_dump(
            {
                "scope": "demo",
                "walkeeper": {
                    "store": {
                        "s3": {
                            "bucket": "wal", "endpoint": server.endpoint, "region": "us-east-1", "path_style": True,
                            "access_key_id": "first-key", "secret_access_key": "a-secret-of-the-tests",
                        }
                    },
                    "restore": {"deadline": deadline},
                },
            }
        )
    )  # fmt: skip


def drip(exchange: Exchange) -> None:
    """A byte now and then: no read ever times out."""
    exchange.send_response(200)
    exchange.send_header("Content-Length", "1000000")
    exchange.end_headers()
    while not exchange.s3.closing.wait(0.05):
        exchange.wfile.write(b"x")


def test_an_answer_that_only_drips_in_does_not_outlast_the_deadline(data: DataDirectory) -> None:
    with ScriptedS3() as server:
        server.always("GET", drip)
        s3_configuration(data, server, "8s")  # a busy machine takes some until it asks
        begun = time.monotonic()
        assert data.ask(data.name) == 255
        assert 8 <= time.monotonic() - begun < 35
        assert [operation for operation, _ in server.requests] == ["GET", "GET"]  # with and without encryption
    assert data.left() == []


def test_p9_a_standby_does_not_wait_long_for_a_deaf_store(
    tmp_path: Path, archive: Archived, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DataDirectory(tmp_path, archive, ("standby.signal",))
    monkeypatch.setattr(restore, "STANDBY_SILENCE", 0.3)
    with ScriptedS3() as server:
        server.always("GET", deaf)
        s3_configuration(data, server, "60s")
        begun = time.monotonic()
        assert data.ask("00000002.history") == 2
        assert time.monotonic() - begun < 20
        assert len(server.requests) == 1


SLOW_WRITE: Final = """
import os, time
from walkeeper.lib import durable
def write_all(fd, data):
    os.write(fd, data[:len(data) // 2])
    open("half", "w").close()
    time.sleep(60)
durable.write_all = write_all
"""
SLOW_FETCH: Final = """
import time
from walkeeper.archive.read import Reader
fetch = Reader.deliver
def slow(*arguments):
    open("half", "w").close()
    time.sleep(1.5)
    return fetch(*arguments)
Reader.deliver = slow
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_h4_h8_killed_while_it_writes_it_leaves_nothing_at_the_destination(data: DataDirectory, number: int) -> None:
    """SIGTERM, which PostgreSQL sends when it shuts down, must be seen as the reason."""
    process = data.start(SLOW_WRITE)
    wait_until((data.path / "half").exists, "half a file")
    assert not data.place.exists()
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == -number
    assert not data.place.exists()
    assert len(data.left()) == 1
    assert data.ask(data.name) == 0
    assert data.left() == ["RECOVERYXLOG"]


def test_h8_a_shutdown_does_not_wait_for_it(archive: Archived, recover: Callable[..., Postgres]) -> None:
    server = recover("standby.signal")
    script = server.directory / "restore.py"
    script.write_text(
        f"import sys, time\nfrom walkeeper.restore import client\n"
        f"def fetch(*_):\n    open({str(server.directory / 'asked')!r}, 'w').close()\n    time.sleep(60)\n"
        f"client.restore = fetch\nfrom walkeeper.cli.main import main; sys.exit(main())\n"
    )
    server.configure({"restore_command": archive.command().replace("-m walkeeper", str(script))})
    server.start(wait=False)
    wait_until((server.directory / "asked").exists, "the fetch", logs=[server.log])
    begun = time.monotonic()
    server.stop("fast")
    assert time.monotonic() - begun < 20
    assert "FATAL" not in server.log.read_text()
    wait_until(lambda: not [pid for pid in server.host.pids() if "restore.py" in command_line(pid)], "its end")


def test_two_at_once_do_not_take_each_other_s_files(data: DataDirectory) -> None:
    process = data.start(SLOW_WRITE)
    wait_until((data.path / "half").exists, "half a file")
    assert data.ask(data.name) == 0
    assert len(data.left()) == 2
    process.kill()
    process.communicate(timeout=60)


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        ("sys.modules['walkeeper.store.directory'] = None", "ModuleNotFoundError"),
        ("import walkeeper.restore; sys.modules['walkeeper.restore.exits'] = None", "ModuleNotFoundError"),
        ("sys.modules['backports.zstd'] = sys.modules['compression.zstd'] = None", "ModuleNotFoundError"),
        (
            "from walkeeper.archive.read import Reader\ndef fetch(*_): raise MemoryError\nReader.deliver = fetch",
            "MemoryError",
        ),
        (
            "from walkeeper.archive.read import Reader\ndef fetch(*_): raise SystemExit(1)\nReader.deliver = fetch",
            "SystemExit",
        ),
        (
            "from walkeeper.archive.read import Reader\ndef fetch(*_): raise RecursionError\nReader.deliver = fetch",
            "RecursionError",
        ),
        ("import resource; resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))", ""),
    ],
)
def test_whatever_breaks_in_the_process_stops_a_recovery(data: DataDirectory, patch: str, said: str) -> None:
    process = data.start(patch)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 255
    assert said in errors
    assert data.left() == []


def test_sigint_is_cannot_tell(data: DataDirectory) -> None:
    process = data.start(SLOW_FETCH)
    wait_until((data.path / "half").exists, "the fetch")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 255
    assert data.left() == []


def test_the_orphan_of_a_killed_server_delivers_nothing(data: DataDirectory) -> None:
    """The server may be back, and wait for another file under the same name."""
    program = f"import sys\n{SLOW_FETCH}\nfrom walkeeper.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "-c", str(data.archive.config), "restore-wal", data.name, PLACE]
    data.archive.configure(restore={"deadline": "10s"})
    log = data.path / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:])", *command],
            cwd=data.path, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, stderr=output,
        )  # fmt: skip
        wait_until((data.path / "half").exists, "the fetch")
        server.kill()
        server.wait()
    wait_until(lambda: "is gone" in log.read_text(), "the orphan's end", logs=[log])
    assert data.left() == []
