"""PostgreSQL's programs on this host: where they are, and of which version."""

from __future__ import annotations

import os
import re
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_PACKAGES: Final = ("/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin")
"""Where the programs of a major version are: Debian's, and PostgreSQL's own for Red Hat and its kin."""


_ANSWER_SECONDS: Final = 20.0
_ANSWER_BYTES: Final = 4096
"""What a program says of its version, and no more of it is read."""


def folders(bin_dir: Path | None, major: int) -> list[Path]:
    """Where to look: ``bin_dir``, which may be left from before an upgrade, the search path, where packages of that major are."""
    found = [
        *([bin_dir] if bin_dir is not None else []),
        *map(Path, os.get_exec_path()),
        *(Path(folder.format(major)) for folder in _PACKAGES),
    ]
    return list(dict.fromkeys(found))


def major_of(path: Path) -> tuple[int | None, str]:
    """The program's major version, None if it has none to say; and what is wrong with it if that is not the right one."""
    try:
        answer = _beginning([path, "--version"]).decode()
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError) as error:
        return None, f"does not run ({error})"
    version = re.search(r"\(PostgreSQL\) (\d+)", answer)
    return (int(version[1]), f"is of {version[1]}") if version else (None, "says no version")


def _beginning(command: Sequence[str | Path]) -> bytes:
    """Of what it says, after which it is ended. Raises OSError or TimeoutExpired."""
    until, said = time.monotonic() + _ANSWER_SECONDS, b""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    ) as program:
        assert program.stdout is not None  # noqa: S101 - it is a pipe
        poll = select.poll()
        poll.register(program.stdout, select.POLLIN)
        try:
            while len(said) < _ANSWER_BYTES:
                if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
                    raise subprocess.TimeoutExpired(command, _ANSWER_SECONDS)
                if not (part := program.stdout.read(_ANSWER_BYTES - len(said))):
                    break
                said += part
        finally:
            program.kill()
    return said


def server_folder(bin_dir: Path | None, major: int) -> tuple[Path | None, list[str]]:
    """The first folder with a server of exactly that major version; and what was found instead, in words."""
    unfit: list[str] = []
    for folder in folders(bin_dir, major):
        path = folder / "postgres"
        if os.access(path, os.X_OK):
            found, said = major_of(path)
            if found == major:
                return folder, unfit
            unfit.append(f"{path} {said}")
    return None, unfit


def control_data(folder: Path | None, data_directory: Path) -> str:
    """What pg_controldata says of a data directory, in English; empty where there is no such program, or it fails."""
    if folder is None:
        return ""
    try:
        told = subprocess.run(
            [folder / "pg_controldata", "-D", data_directory],
            capture_output=True, text=True, timeout=20, check=True, env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return told.stdout
