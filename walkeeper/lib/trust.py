"""Who else may change, or read, what a node goes by: its configuration, and the files with secrets that it names.

The one rule for that (P16). Who may write such a file decides where the archive goes and what is restored: it is refused.
Who may only read a secret is told of loudly and not refused, because Kubernetes mounts secrets as root's with mode 0644, and
because an archive that works must not end with an update. A group that may read is one that somebody has chosen.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAX_SECRET_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Exposure:
    """What others may do and should not, the file first, and what ends it."""

    text: str
    hint: str


@dataclass(frozen=True, slots=True)
class Us:
    """Whose files are ours: root's are, too."""

    uid: int
    gid: int

    @classmethod
    def here(cls) -> Us:
        return cls(os.geteuid(), os.getegid())

    def owns(self, status: os.stat_result) -> bool:
        """Root may read what belongs to the user for whom it looks."""
        return status.st_uid in (0, self.uid) or self.uid == 0

    def shares(self, status: os.stat_result) -> bool:
        """Whether its group is the one that files of this user have anyway, so that a umask of 002 opens it to nobody."""
        return status.st_gid in (0, self.gid) or self.uid == 0


def refusal(path: Path, status: os.stat_result, us: Us) -> Exposure | None:
    """Why a file must not be believed, or None."""
    mode = stat.S_IMODE(status.st_mode)
    if not us.owns(status):
        return Exposure(
            f"it belongs to uid {status.st_uid}, who can change it, and this is uid {us.uid}",
            f"chown it to uid {us.uid}, or to root: {path}",
        )
    if mode & stat.S_IWOTH or (mode & stat.S_IWGRP and not us.shares(status)):
        who = "every user" if mode & stat.S_IWOTH else f"group {status.st_gid}"
        return Exposure(f"{who} may write it: mode {mode:04o}", f"chmod go-w {path}")
    return None


def exposures(path: Path, status: os.stat_result, us: Us, *, secret: bool) -> Iterator[Exposure]:
    """What is said loudly of a file that is believed. ``secret``: there is one in it."""
    mode = stat.S_IMODE(status.st_mode)
    if secret and mode & stat.S_IROTH:
        yield Exposure(f"{path}: every user may read the secret in it: mode {mode:04o}", f"chmod o-rwx {path}")
    if mode & stat.S_IWGRP:
        yield Exposure(f"{path}: group {status.st_gid} may write it: mode {mode:04o}", f"chmod g-w {path}")
    for directory in sorted({*path.parents, *Path(os.path.realpath(path)).parents}):
        try:
            above = directory.stat()
        except OSError:
            continue
        if not us.owns(above) or (above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX):
            yield Exposure(
                f"{path}: others may replace it, because they may write {directory}: "
                f"uid {above.st_uid}, mode {stat.S_IMODE(above.st_mode):04o}",
                f"Let only root or uid {us.uid} write {directory}.",
            )


_ONE_LINE: Final = "It has to hold one line of text: the secret, and nothing else."


class UnusableSecret(ValueError):
    """A file that is not there, that others may change, or that holds no secret; with what ends that."""

    def __init__(self, text: str, *, hint: str) -> None:
        super().__init__(text)
        self.hint = hint


def read_secret(path: Path, us: Us) -> tuple[str, os.stat_result]:
    """The one line that a file holds, and what the file is. Raises UnusableSecret."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if refused := refusal(path, status, us):
                raise UnusableSecret(f"{path}: {refused.text}", hint=refused.hint)
            data = os.read(descriptor, MAX_SECRET_BYTES + 1)
        finally:
            os.close(descriptor)
        text = data.decode().rstrip("\r\n")
    except OSError as error:
        raise UnusableSecret(
            f"{path} cannot be read: {error.strerror}", hint=f"It must be there, and readable by uid {os.geteuid()}."
        ) from None
    except UnicodeDecodeError:
        raise UnusableSecret(f"{path} is not text", hint=_ONE_LINE) from None
    if not text or len(data) > MAX_SECRET_BYTES or not text.isprintable():
        raise UnusableSecret(f"{path} does not hold one line with a secret", hint=_ONE_LINE)
    return text, status
