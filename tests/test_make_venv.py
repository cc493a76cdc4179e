"""tools/make-venv makes an environment once, and again when it is to be made of something else."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "make-venv"
PYTHON = """#!/bin/bash
if [[ $1 == -c && $2 == *sys.executable* ]]; then echo "$0"; fi
if [[ $2 == venv ]]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
echo "$*" >>"$(dirname "$CALLS")/calls"
"""


class Project:
    """With a Python that only notes what it is called with."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("tools", "locks", "bin"):
            (directory / name).mkdir()
        shutil.copy(TOOL, directory / "tools")
        (directory / "pyproject.toml").write_text("")
        self.lock("one")
        python = directory / "bin" / "python3.11"
        python.write_text(PYTHON)
        python.chmod(0o755)

    def lock(self, text: str) -> None:
        (self.directory / "locks" / "dev.txt").write_text(text)

    def made(self, locked: str) -> str:
        """How the environment was made by this call; "" where it was ready."""
        calls = self.directory / "calls"
        calls.unlink(missing_ok=True)
        path = f"{self.directory / 'bin'}:{os.environ['PATH']}"
        environment = {"PATH": path, "CALLS": str(calls), "WALKEEPER_TEST_LOCKED": locked}
        subprocess.run(
            [self.directory / "tools" / "make-venv", "venv"], env=environment, check=True, stdout=subprocess.DEVNULL
        )
        said = calls.read_text() if calls.exists() else ""
        kind = "locked" if "locks/dev.txt" in said else "newest" if "--group dev" in said else ""
        return f"{kind}, from nothing" if "-m venv" in said else kind


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_an_environment_of_another_lock_or_of_none_is_made_again(project: Project) -> None:
    assert project.made("") == "newest, from nothing"
    assert project.made("") == ""
    for _ in ("first", "changed"):
        assert project.made("yes") == "locked, from nothing"
        assert project.made("yes") == ""
        project.lock("two")
    assert project.made("") == "newest, from nothing"
    os.utime(project.directory / "pyproject.toml", (2**31, 2**31))
    assert project.made("") == "newest"
