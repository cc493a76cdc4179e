"""Fixtures for tests on real servers, and the rule that nothing of them survives the run."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Generator, Iterator
from datetime import datetime, tzinfo
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import botocore.session
import hypothesis
import pytest

from tests.parts.etcd import Etcd
from tests.parts.postgres import Postgres
from tests.parts.processes import die_with_parent, end_run, keep_in_memory, living, new_directory, remove_directories
from walkeeper.lib import clock

NOT_AS_ROOT: Final = ("postgres", "cluster")
LONGEST_FIRST: Final = ("cluster", "simulation", "postgres", "s3")

OURS: Final = ("WALKEEPER_TEST_", "WALKEEPER_USER")
NOBODY_S: Final = (
    *("PG", "PATRONI", "WALKEEPER_", "ETCD", "CONSUL_", "AWS_", "AZURE_", "GOOGLE_", "BOTO", "NOTIFY_SOCKET", "WATCHDOG_"),
    *("LC_", "LANG", "LINES", "COLUMNS", "NO_COLOR", "FORCE_COLOR", "PYTHONWARNINGS", "PYTHONUNBUFFERED"),
)  # fmt: skip
"""Begin the names of variables that change what PostgreSQL, Patroni, the clouds' libraries, terminals or walkeeper do."""
YEARS: Final = 1500 * 86400.0
ODD_ZONE: Final = "<+0545>-5:45"
"""A test that takes local time for UTC fails everywhere and on each day. No tzdata is needed, and no clock is ever changed."""


def _same_everywhere() -> None:
    """The environment of this process and of all that it starts, wherever and by whomever the tests are run."""
    for name in [name for name in os.environ if name.startswith(NOBODY_S) and not name.startswith(OURS)]:
        del os.environ[name]
    exceptions = (os.environ.get(name, "") for name in ("no_proxy", "NO_PROXY"))
    direct = ",".join(filter(None, ["127.0.0.1", "localhost", "::1", "[::1]", *exceptions]))
    os.environ |= {"LC_ALL": "C.UTF-8", "TZ": ODD_ZONE, "no_proxy": direct, "NO_PROXY": direct}
    time.tzset()


_same_everywhere()

# Beside other load any example may take long.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")
# What the SDK's files say of S3 is parsed once and not for each client, of which nearly every test of S3 makes one.
botocore.session.create_loader = cache(botocore.session.create_loader)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Of tests/crash, whose tests are as long as one says."""
    parser.addoption("--backups", type=int, default=3, help="base backups that are taken while things are killed")
    parser.addoption("--seed", type=int, default=1, help="which kills come, and when")


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's & does so, and every child would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # A worker that has run a thousand tests holds hundreds of descriptors: reserved ports, idle connections.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(8192, hard) if hard >= 0 else 8192), hard))
    if hasattr(config, "workerinput"):
        die_with_parent()
    keep_in_memory()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long begin first, so that at the end no worker is left alone with one. Else the order stays as it is."""

    def rank(item: pytest.Item) -> int:
        marks = (number for number, mark in enumerate(LONGEST_FIRST) if item.get_closest_marker(mark))
        return next(marks, len(LONGEST_FIRST))

    ranks: dict[Path, int] = {}
    for item in items:
        ranks[item.path] = min(rank(item), ranks.get(item.path, rank(item)))
    items.sort(key=lambda item: ranks[item.path])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """PostgreSQL refuses root; say what to do instead of failing in initdb."""
    if os.geteuid() == 0 and any(item.get_closest_marker(mark) for mark in NOT_AS_ROOT):
        pytest.fail(
            "PostgreSQL does not run as root. HINT: make test runs the tests as another user; "
            "tools/as-user COMMAND does so for any command.",
            pytrace=False,
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, None, None]:
    """After a file's last test its directories go. After the very last one nothing that carries this run's mark may be alive."""
    yield
    if nextitem is None or nextitem.path != item.path:
        remove_directories()
    if nextitem is None and (left := living()):
        pytest.fail(f"processes left by this run's tests: {'; '.join(left)}", pytrace=False)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    end_run()


@pytest.fixture(autouse=True)
def _keep_the_log() -> Iterator[None]:
    """A command called in the tests' own process sets up the process's log; the next test finds it as it was."""
    log = logging.getLogger("walkeeper")
    before = log.handlers[:], log.propagate, log.level
    yield
    log.handlers[:], log.propagate = before[:2]
    log.setLevel(before[2])


@pytest.fixture(autouse=True)
def _come_back() -> Iterator[None]:
    """Whoever plays a postmaster works in its data directory."""
    before = Path.cwd()
    yield
    os.chdir(before)


@pytest.fixture(autouse=True)
def _room_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of every disk is free, however full this machine's are: a short one is what a test says itself."""
    real = os.statvfs

    def with_room(path: str | Path | int) -> os.statvfs_result:
        found = list(real(path))
        found[3] = found[4] = found[2] // 2  # f_bfree, f_bavail, f_blocks
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "statvfs", with_room)


@pytest.fixture(autouse=True)
def _years_later(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Walkeeper's wall clock is years ahead of every date that a test names: one that goes wrong at a later date does so today.

    Not where real servers run, or files are as old as the machine says: their clocks are compared with ours.
    """
    if any(request.node.get_closest_marker(mark) for mark in (*LONGEST_FIRST, "real_clock")):
        return
    real = time.time

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(real() + YEARS, tz)

    monkeypatch.setattr(clock, "time", SimpleNamespace(**{**vars(time), "time": lambda: real() + YEARS}))
    monkeypatch.setattr(clock, "datetime", Later)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A private directory whose path is short enough for Unix sockets."""
    directory = new_directory("t")
    yield directory
    shutil.rmtree(directory, ignore_errors=True)  # a thread that ends may be removing its own part of it


@pytest.fixture
def make_postgres(short_path: Path) -> Iterator[Callable[..., Postgres]]:
    """Starts servers, any number of them: ``make_postgres(segment_size_mb=…, settings=…)``."""
    made: list[Postgres] = []

    def make(**options: object) -> Postgres:
        server = Postgres(short_path / f"pg{len(made)}", **options)  # type: ignore[arg-type]
        made.append(server)
        return server.__enter__()

    yield make
    for server in made:
        server.close()


@pytest.fixture
def postgres(make_postgres: Callable[..., Postgres]) -> Postgres:
    """A running server with 1 MiB segments."""
    return make_postgres()


@pytest.fixture(scope="module")
def etcd() -> Iterator[Etcd]:
    """It stays up."""
    with Etcd() as server:
        yield server


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In that time zone."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()
