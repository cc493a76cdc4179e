"""Real servers that recover while something is broken: none is promoted early, no standby dies, and once it is fixed all
goes on (P6). Through walkeeper-restore-wal, on a host without an agent."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import pytest
import yaml

from tests.fixtures.agents import command_line
from tests.fixtures.archived import BATCH, Archived, archived, broken, rows, wait_rows
from tests.fixtures.restoring import SCRIPT
from tests.parts.postgres import restore_server
from tests.parts.processes import new_directory, wait_until
from tests.parts.scripted_s3 import ScriptedS3, deaf

pytestmark = pytest.mark.postgres

OF_THE_ARCHIVE: Final = (
    "store away", "store closed", "truncated", "empty", "bit flip", "another segment", "no key", "wrong key",
)  # fmt: skip
OF_THE_CONFIGURATION: Final = (
    "store refuses", "store deaf", "broken configuration", "unknown key", "no configuration", "wrong scope",
)  # fmt: skip
OF_THE_CLIENT: Final = {
    "no python": None,
    "python of no use": "#!/bin/sh\nexit 1\n",
    "killed": "#!/bin/sh\nkill -9 $$\n",
    "out of memory": f'#!/bin/sh\nulimit -v 30000\nexec {sys.executable} "$@"\n',
    "disk full": f'#!/bin/sh\nulimit -f 100\nexec {sys.executable} "$@"\n',
    "traceback": f"#!/bin/sh\nexec {sys.executable} -c 'raise KeyError'\n",
}
FAULTS: Final = (*OF_THE_ARCHIVE, *OF_THE_CONFIGURATION, *OF_THE_CLIENT)
WHOLE: Final = f'#!/bin/sh\necho >> "${{0%/*}}/calls"\nexec {sys.executable} "$@"\n'


class Restored:
    """A server on the archive's backup; ``python`` is what its restore_command runs, and counts its ``calls``."""

    def __init__(self, archive: Archived, signal_file: str) -> None:
        self.archive = archive
        self.directory = new_directory("f")
        self.run = self.directory / "run"
        self.run.mkdir(mode=0o700)
        self.python = self.directory / "python"
        self.write_python(WHOLE)
        self.server = restore_server(
            archive.backup, self.directory / "pg", f"{SCRIPT} -c {archive.config} %f %p",
            signal_file=signal_file,  # type: ignore[arg-type]
            settings={"wal_retrieve_retry_interval": "200ms"},
            env={"WALKEEPER_RUN_DIR": str(self.run), "WALKEEPER_PYTHON": str(self.python)},
        )  # fmt: skip

    def write_python(self, text: str | None) -> None:
        """In one step: a file that is written cannot be run. None removes it."""
        if text is None:
            self.python.unlink()
            return
        fresh = self.directory / "fresh"
        fresh.write_text(
            text.replace("#!/bin/sh\n", '#!/bin/sh\necho >> "${0%/*}/calls"\n', 1) if "calls" not in text else text
        )
        fresh.chmod(0o755)
        fresh.rename(self.python)

    def asked(self) -> int:
        """How often its restore_command has come to Python, or to where Python should be."""
        calls = self.directory / "calls"
        return len(calls.read_text() if calls.exists() else "") + self.server.log.read_text().count("cannot be run")

    def wait_asked(self, times: int) -> None:
        before = self.asked()
        wait_until(lambda: self.asked() >= before + times, "its asking", 60, logs=[self.server.log])

    @contextmanager
    def with_fault(self, fault: str, victim: int) -> Iterator[None]:
        if fault in OF_THE_CLIENT:
            self.write_python(OF_THE_CLIENT[fault])
            try:
                yield
            finally:
                self.write_python(WHOLE)
        elif fault in ("store refuses", "store deaf"):
            with ScriptedS3() as s3:
                s3.always("GET", deaf if fault == "store deaf" else lambda exchange: exchange.send_error(503))
                where = {"bucket": "wal", "endpoint": s3.endpoint, "region": "x", "path_style": True}
                keys = {"access_key_id": "first-key", "secret_access_key": "a-secret-of-the-tests"}
                section = {"store": {"s3": where | keys}, "restore": {"deadline": "1s"}}
                self.archive.config.write_text(yaml.safe_dump({"scope": "demo", "walkeeper": section}))
                try:
                    yield
                finally:
                    self.archive.configure()
        else:
            with broken(self.archive, fault, victim):
                yield

    def hosts(self) -> list[int]:
        """The processes that prefetch for it."""
        return [pid for pid in self.server.host.pids() if "walkeeper.restore.host" in command_line(pid)]

    def close(self) -> None:
        self.server.close()


@pytest.fixture(scope="module")
def archive() -> Archived:
    return archived(1, len(FAULTS) + 2)


@pytest.fixture
def restored(archive: Archived) -> Iterator[Callable[[str], Restored]]:
    made: list[Restored] = []

    def make(signal_file: str) -> Restored:
        made.append(Restored(archive, signal_file))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_p6_no_fault_ends_a_recovery_early_and_mended_it_completes(
    archive: Archived, restored: Callable[[str], Restored]
) -> None:
    one = restored("recovery.signal")
    server = one.server
    for fault in FAULTS:
        with one.with_fault(fault, 2):
            server.start(wait=False)
            assert server.process.wait(60) != 0, fault
            assert (server.data / "recovery.signal").exists(), fault
            assert not list(server.pg_wal.glob("*.history")), fault
    server.start()
    wait_until(lambda: not server.value("SELECT pg_is_in_recovery()"), "the end of recovery", 60, logs=[server.log])
    assert rows(server) == archive.rows
    assert server.timeline() == 2


def test_p6_no_fault_ends_a_standby_and_mended_it_goes_on(
    archive: Archived, restored: Callable[[str], Restored]
) -> None:
    """The archive grows by one segment at a time, and each comes with a fault."""
    one = restored("standby.signal")
    server = one.server
    objects = [archive.object(name) for name in archive.segments]
    for path in objects[1:]:
        path.rename(path.with_suffix(".later"))
    try:
        server.start()
        wait_rows(server, BATCH)
        for number, fault in enumerate(FAULTS, start=1):
            come = functools.partial(objects[number].with_suffix(".later").rename, objects[number])
            if fault in OF_THE_ARCHIVE:
                server.host.pause()  # whoever is looking for it finds it with the fault, or not at all
                come()
            with one.with_fault(fault, number):
                if fault in OF_THE_ARCHIVE:
                    server.host.resume()
                else:
                    one.wait_asked(2)  # whoever is looking for it as things were is done
                    come()
                one.wait_asked(3)
                if fault not in OF_THE_CLIENT:
                    assert rows(server) == number * BATCH, fault
                assert server.running, fault
            wait_rows(server, (number + 1) * BATCH, 60)
        assert server.value("SELECT pg_is_in_recovery()")
        assert "exit=2 " in server.log.read_text()
    finally:
        for path in objects:
            if not path.exists():
                path.with_suffix(".later").rename(path)
