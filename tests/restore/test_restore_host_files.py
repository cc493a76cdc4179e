"""What a process that prefetches leaves in the run directory when it was killed: the next one removes it, whoever's it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.parts.processes import wait_until
from walkeeper.control import server, spawn
from walkeeper.control.server import AgentLock
from walkeeper.errors import AgentError
from walkeeper.restore import host
from walkeeper.restore.host_files import clear, clear_ended

SUFFIXES = (".lock", ".sock", ".sock.new", ".start.log")


def left(run: Path) -> list[str]:
    return sorted(path.name for path in run.iterdir())


def put(run: Path, name: str) -> Path:
    for suffix in SUFFIXES:
        (run / f"{name}{suffix}").touch()
    return run / f"{name}.sock"


def test_what_ended_ones_left_goes_and_nothing_of_one_that_lives_nor_anything_else(tmp_path: Path) -> None:
    own, living, dead = (put(tmp_path, f"restore-{number:08x}") for number in range(3))
    agents = put(tmp_path, "patroni.yml-1a2b3c4d")
    (tmp_path / "restore-00000003.start.log").touch()
    with AgentLock(tmp_path / "restore-00000000.lock"), AgentLock(tmp_path / "restore-00000001.lock"):
        clear_ended(own)
        assert left(tmp_path) == sorted(
            f"{socket.stem}{suffix}" for socket in (own, living, agents) for suffix in SUFFIXES
        )
        clear(own)
    assert left(tmp_path) == sorted(f"{socket.stem}{suffix}" for socket in (living, agents) for suffix in SUFFIXES)
    assert not dead.exists()


def test_what_one_that_is_just_being_started_has_stays(tmp_path: Path) -> None:
    """Its log is there before its lock is taken: what it says of a failure was lost."""
    own, starting = (put(tmp_path, f"restore-{number:08x}") for number in range(2))
    log = starting.with_suffix(".start.log")
    reader, writer = os.pipe()
    spawn.start(["-c", "import os; print('begins', flush=True); os.read(3, 1)"], str(log), reader)
    os.close(reader)
    wait_until(log.read_text, "its begin")
    clear_ended(own)
    assert all(starting.with_suffix(suffix).exists() for suffix in SUFFIXES)
    os.close(writer)

    def cleared() -> bool:
        clear_ended(own)
        return not log.exists()

    wait_until(cleared, "its end")
    assert not any(starting.with_suffix(suffix).exists() for suffix in SUFFIXES)


def test_p16_at_its_end_it_leaves_what_is_of_another_one_by_now(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody removed its files, and the next one was started."""
    monkeypatch.setenv("WALKEEPER_RUN_DIR", str(short_path))
    short_path.chmod(0o700)
    others: list[AgentLock] = []

    def served(_: Path, socket: Path, lock: AgentLock) -> int:
        lock.path.unlink()
        others.append(AgentLock(lock.path))
        socket.touch()
        return 0

    monkeypatch.setattr(host, "_serve", served)
    assert host.main(short_path / "walkeeper.yml") == 0
    assert others[0].is_named
    assert others[0].path.with_suffix(".sock").exists()
    others[0].release()


def test_p16_a_lock_whose_file_goes_while_it_is_taken_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next one would make the file anew, and there were two."""
    path, taken = tmp_path / "restore-00000001.lock", server._locked
    lock = AgentLock(path)

    def and_removed(path: Path) -> int:
        monkeypatch.setattr(server, "_locked", taken)
        lock.release()
        descriptor = taken(path)
        path.unlink()
        return descriptor

    monkeypatch.setattr(server, "_locked", and_removed)
    again = AgentLock(path)
    assert os.fstat(again._descriptor).st_ino == path.stat().st_ino
    with pytest.raises(AgentError, match="already running"):
        AgentLock(path)
