"""restore-wal: the light client, what it does by itself (``command``), and what works ahead of it (``serving``, ``host``).

Nothing is imported here, because PostgreSQL waits for the client; the command's names are looked up when they are used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from walkeeper.restore.command import cannot_tell_code, main

__all__ = ["cannot_tell_code", "main"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(name)
    from walkeeper.restore import command  # noqa: PLC0415

    return getattr(command, name)
