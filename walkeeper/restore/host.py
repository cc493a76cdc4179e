"""The process that prefetches on a host without an agent, where a server recovers from the archive.

restore-wal starts it; it ends automatically when nobody asks it, when the servers that asked are gone, and when its
configuration is not what it was.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from walkeeper.control import paths, spawn
from walkeeper.control.server import AgentLock, ControlServer
from walkeeper.errors import CannotTell, ConfigError, WalkeeperError
from walkeeper.lib import events
from walkeeper.lib.clock import SystemClock
from walkeeper.restore.host_files import clear, clear_ended

if TYPE_CHECKING:
    from walkeeper.config import Config
    from walkeeper.dcs.base import RecordStore

WAKE_SECONDS: Final = 0.5
WARM_SECONDS: Final = 1.0
"""Seconds until what only the end of a recovery needs is imported: not before the first segments are there."""
FIRST_SECONDS: Final = 10.0
"""Seconds for the first request to come."""


def main(config_path: Path) -> int:
    """Serve until it is no longer needed. 0, or 1 when it could not begin or a thread of it died."""
    events.to_stderr()
    try:
        agent = paths.socket_path(config_path, os.environ)
        socket = Path(paths.restore_socket_path(agent, os.environ))
        with AgentLock(Path(paths.lock_path(str(socket)))) as lock:
            clear_ended(socket)
            code = _serve(config_path, socket, lock)
            if code == 0 and lock.is_named:
                clear(socket)
            return code
    except (WalkeeperError, paths.RunDirectoryError) as problem:
        events.failure("restore_host_not_started", problem)
        return 1


def _serve(config_path: Path, socket: Path, lock: AgentLock) -> int:
    # Imported under the lock: of several that are started at once, one takes its time.
    from walkeeper.archive.open import open_all  # noqa: PLC0415
    from walkeeper.config import load  # noqa: PLC0415
    from walkeeper.restore.abandoned import DCS_SECONDS  # noqa: PLC0415
    from walkeeper.restore.connecting import connect_all  # noqa: PLC0415
    from walkeeper.restore.serving import Restoring  # noqa: PLC0415

    config = load(config_path, os.environ)
    before = _files(config)
    if load(config_path, os.environ) != config:
        raise ConfigError(f"{config_path}: it is being changed", hint="The next call starts it again.")

    def connect_records(key: str) -> RecordStore:
        return connect_all(config, key, DCS_SECONDS)

    restoring = Restoring(config, open_all(config), socket.parent, SystemClock(), connect_records)
    died = threading.Event()

    def answer(request: dict[str, Any]) -> Mapping[str, Any]:
        if _files(config) != before:
            raise CannotTell(f"{config_path}: it has changed", hint="The next call starts this process again.")
        return restoring.answer(request)

    def begin(name: str, work: Callable[[], None]) -> None:
        threading.Thread(target=work, name=name, daemon=True).start()

    def on_death(facts: threading.ExceptHookArgs) -> None:
        name = facts.thread.name if facts.thread else "?"
        events.failure("thread_died", facts.exc_value or facts.exc_type(), thread=name)
        died.set()

    threading.excepthook = on_death
    control = ControlServer(socket, lock, {"restore": answer})
    control.open()
    restoring.start(begin)
    begin("control", control.run)
    with suppress(OSError):
        os.close(spawn.KEPT)  # who started it may ask now
    events.info("restore_host_started", pid=os.getpid(), store=restoring.store_url)
    try:
        needed_at = time.monotonic() + FIRST_SECONDS
        died.wait(WARM_SECONDS)
        import walkeeper.dcs.patroni  # noqa: F401, PLC0415 - 80 ms, for which PostgreSQL would wait at its end

        while not died.wait(WAKE_SECONDS) and time.monotonic() < needed_at and _files(config) == before:
            if restoring.prefetcher.recoveries:
                needed_at = time.monotonic() + FIRST_SECONDS
    finally:
        control.close()
        restoring.stop()
    events.info("restore_host_ended", died=died.is_set())
    return int(died.is_set())


def _files(config: Config) -> tuple[bytes, ...]:
    """The content of what it goes by. Nothing where it cannot be read: then it is not what it was."""
    try:
        return config.source.read_bytes(), config.patroni_config.read_bytes()
    except OSError:
        return ()


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    os._exit(code)  # threads that hang inside a library must not hold up the end
