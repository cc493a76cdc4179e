"""What the configuration says of a store in a directory, and what others must know of it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from walkeeper.errors import WrongSetting
from walkeeper.lib.section import Section

if TYPE_CHECKING:
    from walkeeper.store.base import Store


class DirectorySettings(Section, frozen=True, kw_only=False):
    """A directory, which all nodes mount."""

    remote: ClassVar[bool] = False
    locked_seconds: ClassVar[float] = 0.0

    path: Path

    @property
    def local_directory(self) -> Path | None:
        return self.path

    def checked(self) -> Self:
        return self

    def doubts(self) -> tuple[WrongSetting, ...]:
        return ()

    def with_timeout(self, seconds: float) -> Self:  # noqa: ARG002 - a system call knows no time-out
        return self

    def clock_ahead(self) -> float | None:
        from walkeeper.store.directory.driver import clock_ahead  # noqa: PLC0415 - only who asks needs it

        return clock_ahead(self.path)

    def kept_versions(self) -> str | None:
        return None

    def listing_command(self) -> str:
        path = shlex.quote(str(self.path))
        return f"ls -ld {path}; df {path}"

    def open(self) -> Store:
        from walkeeper.store.directory.driver import DirectoryStore  # noqa: PLC0415 - only who opens it needs it
        from walkeeper.store.limited import Limited  # noqa: PLC0415

        return Limited(DirectoryStore(self.path))
