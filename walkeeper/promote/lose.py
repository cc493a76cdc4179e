"""A person's word that what was acknowledged and cannot be had may be lost: for one promotion, and for a quarter of an hour."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from walkeeper.errors import ConfigError
from walkeeper.lib import durable, events
from walkeeper.lib.clock import wall_seconds
from walkeeper.lib.trust import Us, refusal

GOOD_FOR: Final = 900.0
"""Seconds."""
_NAME: Final = "promote-with-loss"
_LONGEST: Final = 64


class Word:
    """A file in the agent's own directory, which is the spool's. It counts only if nobody else can have written it (P16)."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / _NAME

    def give(self) -> None:
        """Raises ConfigError where it cannot be written, or could not be read by whom it is for."""
        problem = "it belongs to another user"
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.path.parent.stat().st_uid == os.geteuid():
                durable.keep(self.path, f"{wall_seconds():.0f}\n".encode())
                return
        except OSError as error:
            problem = str(error.strerror)
        raise ConfigError(
            f"{self.path.parent}: {problem}",
            hint="Run it as the agent's user: sudo -u postgres walkeeper pre-promote --lose",
        )

    def given(self) -> bool:
        """Whether it counts now; it stays. Never raises."""
        return self._counts(remove=False)

    def take(self) -> bool:
        """Whether it was given and still counts; it is gone then, and counts for nobody else. Never raises."""
        return self._counts(remove=True)

    def _counts(self, *, remove: bool) -> bool:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            status, us = os.fstat(descriptor), Us.here()
            refused = refusal(self.path, status, us) or refusal(self.path.parent, self.path.parent.stat(), us)
            given = os.read(descriptor, _LONGEST)
            if remove:
                self.path.unlink()  # before it is acted upon: what cannot be removed could be used again
                durable.fsync_dir(self.path.parent)
        except OSError as problem:
            events.failure("loss_not_accepted", problem, file=self.path)
            return False
        finally:
            os.close(descriptor)
        if refused is not None:
            events.warning("loss_not_accepted", file=self.path, why=refused.text, hint=refused.hint)
            return False
        with suppress(ValueError):
            return abs(wall_seconds() - float(given)) <= GOOD_FOR
        return False
