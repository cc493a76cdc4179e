"""How verify, list and fetch end: 0 sound, 1 a gap or damage, 2 cannot tell. Whatever goes wrong is never taken for a gap."""

from __future__ import annotations

import json as json_module
import os
import sys
from collections.abc import Callable
from typing import Any, Final

from walkeeper.errors import WalkeeperError
from walkeeper.lib.terminal import complain

SOUND: Final = 0
DAMAGED: Final = 1
CANNOT_TELL: Final = 2
VERDICT: Final = ("sound", "damaged", "cannot tell")
"""By exit code, in documents."""
FORMAT: Final = 1
"""Of the documents that --json prints."""


def say(work: Callable[[], tuple[str, int]], *, json: bool = False) -> int:
    """Print what ``work`` returns; its code, or 2 for whatever it raises: a traceback would exit with 1."""
    try:
        found, code = work()
    except WalkeeperError as problem:
        return _cannot_tell(str(problem), problem.hint, json=json)
    except Exception as problem:  # noqa: BLE001 - see above
        hint = "This is a mistake in walkeeper or in a library it uses. Please report it."
        return _cannot_tell(f"{type(problem).__name__}: {problem}", hint, json=json)
    _write(found)
    return code


def _cannot_tell(problem: str, hint: str, *, json: bool) -> int:
    if json:
        document: dict[str, Any] = {"format": FORMAT, "verdict": VERDICT[CANNOT_TELL], "exit_code": CANNOT_TELL}
        _write(json_module.dumps({**document, "problem": problem, "hint": hint or None}, indent=2))
    complain(problem, hint)
    return CANNOT_TELL


def _write(found: str) -> None:
    """A reader that has left changes nothing about what was found."""
    try:
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        sys.stdout.write(found.encode(encoding, "replace").decode(encoding) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains about it at its end
