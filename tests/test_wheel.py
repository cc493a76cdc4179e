"""The wheel: what stands in it, and that what PostgreSQL calls works from where pip puts it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from walkeeper import __version__

ROOT: Final = Path(__file__).parents[1]
SCRIPTS: Final = ("walkeeper-archive-push", "walkeeper-restore-wal")
NOTHING_FROM_HERE: Final = {"PATH": "/usr/bin:/bin", "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env=NOTHING_FROM_HERE, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without a network, by the build backend of the development environment."""
    place = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", place)
    built = run(*pip, ROOT, cwd=place)
    assert built.returncode == 0, built.stderr
    (wheel,) = place.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The directory of commands of an environment that has the wheel, and what it depends on from where the tests have it."""
    place = wheel.parent / "venv"
    made = run(sys.executable, "-m", "venv", "--without-pip", place, cwd=wheel.parent)
    assert made.returncode == 0, made.stderr
    pip = (sys.executable, "-m", "pip", "--python", place / "bin" / "python", "install", "--quiet", "--no-deps")
    done = run(*pip, wheel, cwd=wheel.parent)
    assert done.returncode == 0, done.stderr
    (packages,) = place.glob("lib/python3*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place / "bin"


def test_every_file_stands_in_the_wheel_once(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = [entry for entry in archive.infolist() if not entry.is_dir()]
        contents = Counter(hashlib.sha256(archive.read(entry)).hexdigest() for entry in files if entry.file_size)
    names = Counter(entry.filename for entry in files)
    assert [name for name, count in names.items() if count > 1] == []
    assert [sha for sha, count in contents.items() if count > 1] == []


def test_the_wheel_has_the_whole_package_and_its_version(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f"walkeeper-{__version__}.dist-info/METADATA").decode()
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "walkeeper").rglob("*.py")}
    assert package | {"walkeeper/py.typed"} == {name for name in names if name.startswith("walkeeper/")}
    assert f"\nVersion: {__version__}\n" in metadata


def test_the_documents_that_hints_name_are_installed(installed: Path) -> None:
    there = installed.parent / "share" / "doc" / "walkeeper"
    for document in (ROOT / "docs").glob("*.md"):
        assert (there / "docs" / document.name).read_bytes() == document.read_bytes()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_lies_beside_the_commands_as_it_is_in_the_checkout(installed: Path, script: str) -> None:
    assert (installed / script).read_bytes() == (ROOT / "walkeeper" / "shell" / script).read_bytes()
    assert os.access(installed / script, os.X_OK)


def test_the_command_says_its_version(installed: Path, tmp_path: Path) -> None:
    done = run(installed / "walkeeper", "--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"walkeeper {__version__}\n"), done.stderr


def test_the_scripts_say_how_they_are_called(installed: Path, tmp_path: Path) -> None:
    done = run(installed / "walkeeper-restore-wal", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "usage: walkeeper-restore-wal -c CONFIG %f %p\n")
    done = run(installed / "walkeeper-archive-push", cwd=tmp_path)
    assert done.returncode == 2
    assert "usage: walkeeper archive-push" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_scripts_find_the_package_and_its_python_from_where_pip_put_them(
    installed: Path, tmp_path: Path, script: str
) -> None:
    """Told by a line that only the package writes: the configuration that they name is not there."""
    arguments = (
        ("000000010000000000000001", "pg_wal/x") if script == SCRIPTS[1] else ("/pg_wal/000000010000000000000001",)
    )
    done = run(installed / script, "-c", tmp_path / "none.yml", *arguments, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert f"{tmp_path}/none.yml" in done.stderr, done.stderr


# --- what it is made and run with -------------------------------------------------------------------------------------

LOCKS: Final = sorted((ROOT / "locks").glob("*.txt"))


def locked(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==([^\s;\\]+)", lock.read_text(), re.MULTILINE))


def test_every_package_is_locked_by_hash_and_no_place_is_named() -> None:
    assert [lock.stem for lock in LOCKS] == ["build", "dev", "run"]
    for lock in LOCKS:
        text = lock.read_text()
        assert "://" not in text
        packages = re.split(r"\n(?=[\w])", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
        assert len(packages) == len(locked(lock))
        assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", package) for package in packages)


def test_what_pyproject_asks_for_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    wanted = {
        "build": project["build-system"]["requires"],
        "run": [*project["project"]["dependencies"], *extras["encryption"], *extras["rich"], *extras["clouds"]],
        "dev": [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]],
    }
    for lock in LOCKS:
        known = {name.lower().replace("_", "-").replace(".", "-") for name in locked(lock)}
        names = {
            re.split(r"[\[<>=; ]", each)[0].lower().replace("_", "-").replace(".", "-") for each in wanted[lock.stem]
        }
        assert names <= known, "make lock"


def test_the_sbom_names_every_package_and_is_the_same_each_time(wheel: Path) -> None:
    for _ in range(2):
        done = run(sys.executable, ROOT / "tools" / "sbom", wheel, cwd=wheel.parent)
        assert done.returncode == 0, done.stderr
    (made,) = wheel.parent.glob("*.cdx.json")
    found = json.loads(made.read_text())
    assert {part["name"]: part["version"] for part in found["components"]} == locked(ROOT / "locks" / "run.txt")
    assert found["metadata"]["component"]["hashes"][0]["content"] == hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert all(part["externalReferences"] for part in found["components"])
    assert "://" not in made.read_text()
