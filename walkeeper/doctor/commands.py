"""Commands as they stand in settings, recognised by their names."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Job: TypeAlias = Literal["callback", "restore-wal", "archive-push", "pre-promote"]
_JOBS: Final[tuple[Job, ...]] = ("callback", "restore-wal", "archive-push", "pre-promote")
_CALLBACK_MODULES: Final = ("walkeeper.control.callback", "walkeeper.callback")
"""The second is the name of walkeeper 0.1."""
_EVENTS: Final = frozenset({"on_start", "on_stop", "on_restart", "on_role_change", "on_reload"})
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_]\w*=")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command line. ``job`` is walkeeper's that it does, None for somebody else's; ``config`` the file that it names.

    ``runs`` and ``same_config`` say what was found of the two on this node; None: nobody looked, or nothing is named.
    """

    text: str
    program: str
    job: Job | None
    config: str | None
    runs: bool | None = None
    same_config: bool | None = None


def parse(text: str) -> Command:
    """Never fails: what is not understood is somebody else's command."""
    try:
        words = shlex.split(text)
    except ValueError:
        return Command(text=text, program="", job=None, config=None)
    at = 1 if words and _base(words[0]) == "env" else 0
    program = next((word for word in words[at:] if not _ASSIGNMENT.match(word)), "")
    job = _job(words)
    return Command(text=text, program=program, job=job, config=_config(words, job) if job else None)


def _job(words: list[str]) -> Job | None:
    """``…/walkeeper JOB``, ``python -m walkeeper JOB``, ``…/walkeeper-JOB``, or a script of patroni_callbacks/."""
    for index, word in enumerate(words):
        base = _base(word)
        for job in _JOBS:
            if base in (f"walkeeper-{job}", f"walkeeper-{job}.sh"):
                return job
        if base == "walkeeper" or word in _CALLBACK_MODULES:
            later = words[index + 1 :]
            named = next((job for job in _JOBS if job in later), None)
            return named or ("callback" if word in _CALLBACK_MODULES else None)
        if base == "callback.py" or (base in _EVENTS and _base(word.rpartition("/")[0]) == "patroni_callbacks"):
            return "callback"
    return None


def _config(words: list[str], job: Job) -> str | None:
    for index, word in enumerate(words):
        if word in ("-c", "--config") and index + 1 < len(words):
            return words[index + 1]
        if word.startswith(("--config=", "WALKEEPER_CONFIG=")):
            return word.partition("=")[2]
    last = words[-1]
    scripts = job == "callback" and len(words) > 1 and job not in words
    return last if scripts and not last.startswith("-") else None


def _base(word: str) -> str:
    return word.rpartition("/")[2]
