"""What operators read: one line an event, a fixed word first, then key=value facts, then what to do about it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import MappingProxyType
from typing import Final

from walkeeper.errors import WalkeeperError

MAX_VALUE: Final = 2000
LOG_FILE_BYTES: Final = 10 * 1024 * 1024
LOG_FILES_KEPT: Final = 3

_always: ContextVar[Mapping[str, object]] = ContextVar("facts", default=MappingProxyType({}))
_log: Final = logging.getLogger("walkeeper")


def always_say(**facts: object) -> None:
    """In each line of this thread, after its word."""
    _always.set(facts)


def info(word: str, **facts: object) -> None:
    _log.info(line(word, facts))


def warning(word: str, *, hint: str = "", **facts: object) -> None:
    _log.warning(line(word, facts, hint))


def error(word: str, *, hint: str = "", **facts: object) -> None:
    _log.error(line(word, facts, hint))


def failure(word: str, problem: BaseException, **facts: object) -> None:
    """An ERROR line for an exception: walkeeper's own carry a hint, others their type."""
    if isinstance(problem, WalkeeperError):
        _log.error(line(word, {**facts, "reason": problem.reason, "error": problem}, problem.hint))
    else:
        _log.error(line(word, {**facts, "reason": type(problem).__name__, "error": problem}))


def line(word: str, facts: Mapping[str, object], hint: str = "") -> str:
    """``word key=value … HINT: …`` on one line, whatever the values contain."""
    facts = {**_always.get(), **facts}
    parts = [word, *(f"{key}={_value(value)}" for key, value in facts.items() if value is not None)]
    if hint:
        parts.append(f"HINT: {_value_text(hint)}")
    return " ".join(parts)


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = _value_text(str(value))
    return f'"{text}"' if not text or any(character in text for character in ' "=') else text


def _value_text(text: str) -> str:
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return text if len(text) <= MAX_VALUE else text[:MAX_VALUE] + "…"


def to_stderr(level: int = logging.INFO) -> None:
    """Log to standard error: under systemd, and for commands."""
    _set_up(logging.StreamHandler(sys.stderr), level)


def to_file(path: Path, level: int = logging.INFO) -> None:
    """Log to a file that is rotated by size."""
    _set_up(_Rotated(path, maxBytes=LOG_FILE_BYTES, backupCount=LOG_FILES_KEPT, delay=True), level)


class _Rotated(RotatingFileHandler):
    """Each file that it makes is its user's alone, whatever the umask."""

    def _open(self) -> TextIOWrapper:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return open(os.open(self.baseFilename, flags, 0o600), "a", encoding=self.encoding, errors=self.errors)


def _set_up(handler: logging.Handler, level: int) -> None:
    handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    _log.handlers[:] = [handler]
    _log.propagate = False
    _log.setLevel(level)
