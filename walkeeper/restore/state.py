"""What a data directory says of the restore that is under way in it, from the first byte on: so that the same command goes on
with the same backup, whenever it was killed, and another one is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from walkeeper.errors import CannotRestore

NAME: Final = "walkeeper_restore.json"
SCHEMA: Final = 1
LIMIT: Final = 64 * 1024


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the command was told that decides what comes of it."""

    to: str
    scope: str
    group: int | None
    system_identifier: int
    backup: str | None
    timeline: str | None
    exclusive: bool
    action: str | None
    tablespaces: tuple[str, ...]
    use: str = "server"


class State(msgspec.Struct, frozen=True, kw_only=True):
    """``recovery`` are the settings that were decided on. ``placing``: all is written, and pg_control makes it a whole directory.

    ``inode`` is that of the data directory: pg_rewind and base backups copy this file into others.
    """

    schema: Annotated[int, Meta(ge=SCHEMA, le=SCHEMA)] = SCHEMA
    asked: Asked
    backup: str
    timeline: int
    recovery: dict[str, str]
    pin: str
    began: str
    inode: int
    phase: Literal["writing", "placing"] = "writing"


def is_whole(directory: Path, found: State) -> bool:
    """Whether the restore that says so of itself has ended."""
    return found.phase == "placing" and (directory / "global" / "pg_control").exists()


_DECODER: Final = msgspec.json.Decoder(State)


def encode(state: State) -> bytes:
    return msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n"


def read(directory: Path) -> State | None:
    """None where there is none, or one that came from another directory. Raises CannotRestore for one that cannot be read."""
    path = directory / NAME
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise CannotRestore(f"{path}: {problem.strerror}", hint="It says how far a restore has come.") from None
    try:
        with open(fd, "rb") as file:
            found = _DECODER.decode(file.read(LIMIT))
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
        raise CannotRestore(
            f"{path}: it cannot be used: {problem}",
            hint="Remove it, and restore with --delta or into an empty directory.",
        ) from None
    return found if found.inode == directory.stat().st_ino else None
