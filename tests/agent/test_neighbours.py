"""A hundred clusters may have their archives in one bucket, below one prefix: nobody asks for what is another one's."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from tests.fixtures.agents import Machine
from tests.fixtures.worlds import prepare
from tests.parts.etcd import Etcd
from tests.parts.postgres import Postgres
from tests.parts.processes import new_directory, wait_until

pytestmark = pytest.mark.postgres

NOTES: Final = "TEST_NOTES"
NOTING: Final = f"""
import os
from walkeeper.store.directory import DirectoryStore

def noted(name):
    asked = getattr(DirectoryStore, name)
    def ask(store, key, *rest):
        with open(os.environ["{NOTES}"], "a") as notes:
            notes.write(f"{{name}} {{key}}\\n")
        return asked(store, key, *rest)
    setattr(DirectoryStore, name, ask)

for name in ("create", "head", "get", "list", "folders", "delete"):
    noted(name)
"""
"""As sitecustomize.py: all that is asked of a store goes into a file, by what a command leaves running, too."""
COMMANDS: Final = ("status", "doctor", "verify", "verify --deep", "list", "backups", "gap list", "expire")


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Etcd() as etcd, Postgres(new_directory("m") / "pg", auth="scram-sha-256") as server:
        prepare(server)
        with closing(Machine("demo", server, etcd)) as made:
            yield made


class Notes:
    """Where what is asked of the store is noted, by whom has that environment."""

    def __init__(self, directory: Path) -> None:
        (directory / "sitecustomize.py").write_text(NOTING)
        self._file = directory / "notes"
        self.environment = {NOTES: str(self._file), "PYTHONPATH": str(directory)}

    def forget(self) -> None:
        self._file.write_text("")

    def lines(self) -> list[str]:
        return sorted(self._file.read_text().splitlines())


def run(machine: Machine, words: str, notes: Notes) -> list[str]:
    """What that command asked for."""
    notes.forget()
    command = [sys.executable, "-m", "walkeeper", "-c", str(machine.config), *words.split()]
    environment = machine.environment(notes.environment)
    machine.host.start(command, log=machine.log, env=environment, cwd=machine.server.data).wait(120)
    return wait_until(notes.lines, f"what {words} asks", 60, logs=[machine.log])


def others(asked: list[str]) -> list[str]:
    """A probe is somebody's own by its whole name."""
    keys = [line.partition(" ")[2] for line in asked]
    return [key for key in keys if not key.startswith("demo/") and (not key.startswith("probe/") or key == "probe/")]


def without_probes(asked: list[str]) -> list[str]:
    """A probe has another name each time."""
    return [line for line in asked if "probe/" not in line]


def test_nobody_asks_for_what_other_clusters_have_below_the_same_prefix(machine: Machine, tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    agent = machine.start(env=notes.environment)
    machine.wait_owned()
    machine.wait_archived()
    agent.stop()
    assert others(notes.lines()) == []
    alone = {words: run(machine, words, notes) for words in COMMANDS}
    for name in ("a", "dem", "demo-2", "demo2", "z"):
        shutil.copytree(machine.store / "demo", machine.store / name)
    for words in COMMANDS:
        asked = run(machine, words, notes)
        assert others(asked) == [], words
        assert without_probes(asked) == without_probes(alone[words])
    (machine.server.data / "recovery.signal").touch()
    assert others(run(machine, f"restore-wal {machine.stored()[0]} pg_wal/RECOVERYXLOG", notes)) == []
    (machine.server.data / "recovery.signal").unlink()
    notes.forget()
    machine.start(env=notes.environment)
    machine.wait_archived()
    assert others(notes.lines()) == []
