"""What the process that prefetches leaves in the run directory: its own files at its end, and those of others that were killed,
for another configuration or environment. Whose lock is taken lives.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from walkeeper.control import paths
from walkeeper.control.server import AgentLock
from walkeeper.errors import AgentError

_NAME: Final = re.compile(r"(restore-[0-9a-f]{8})\.(?:lock|sock|sock\.new|start\.log)\Z")


def clear(socket: Path) -> None:
    """Remove the files of the one that listened there. Its lock must be held, and goes last."""
    of_it = paths.start_log_path(str(socket)), paths.lock_path(str(socket))
    for path in (socket, socket.with_name(f"{socket.name}.new"), *map(Path, of_it)):
        with suppress(OSError):
            path.unlink()


def clear_ended(own: Path) -> None:
    """The same for all beside ``own`` that have ended. One that is just being started has its log, and not its lock yet."""
    for socket in _sockets(own.parent):
        if socket != own and not _starts(socket):
            with suppress(AgentError, OSError), AgentLock(Path(paths.lock_path(str(socket)))):
                clear(socket)


def _starts(socket: Path) -> bool:
    """Whether somebody holds its start log, as ``spawn`` does for whom it starts."""
    try:
        with Path(paths.start_log_path(str(socket))).open("rb") as log:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _sockets(run: Path) -> Iterator[Path]:
    with suppress(OSError):
        names = {match[1] for each in run.iterdir() if (match := _NAME.match(each.name))}
        yield from (run / f"{name}.sock" for name in sorted(names))
