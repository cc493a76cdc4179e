"""Which pg_receivewal is taken: the first that is not older than the server."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from walkeeper.errors import ConfigError
from walkeeper.postgres import programs
from walkeeper.postgres.pg_receivewal import find_program

Install = Callable[[str, str], Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts one that says so into a folder: ``path`` is the search path, ``lib/N`` packages, all else a bin_dir."""
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(programs, "_PACKAGES", (f"{tmp_path}/lib/{{}}",))

    def put(folder: str, says: str) -> Path:
        path = tmp_path / folder / "pg_receivewal"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{says}\n")
        path.chmod(0o755)
        return path

    return put


def version(number: str) -> str:
    return f"echo 'pg_receivewal (PostgreSQL) {number}'"


def test_the_configured_one_comes_first_then_the_search_path_then_the_servers_packages(
    install: Install, tmp_path: Path
) -> None:
    package = install("lib/16", version("16.4"))
    assert find_program(None, 16) == package
    on_path = install("path", version("18.1"))
    assert find_program(None, 16) == on_path
    configured = install("bin", version("16.1"))
    assert find_program(tmp_path / "bin", 16) == configured


@pytest.mark.parametrize("old", [version("15.9"), "exit 1", "kill -9 $$", "printf '\\377'"])
def test_one_that_is_older_or_does_not_run_is_passed_over(install: Install, tmp_path: Path, old: str) -> None:
    install("bin", old)
    install("path", old)
    package = install("lib/16", version("16rc1"))
    assert find_program(tmp_path / "bin", 16) == package
    assert find_program(tmp_path / "nowhere", 16) == package


def test_no_more_is_read_of_what_one_says_than_a_version_takes(install: Install, tmp_path: Path) -> None:
    install("path", "while :; do echo never a version; done")
    endless = install("bin", f"{version('16.4')}; while :; do echo and more; done")
    assert find_program(tmp_path / "bin", 16) == endless
    with pytest.raises(ConfigError, match="says no version"):
        find_program(tmp_path / "path", 16)


def test_a_process_with_more_than_a_thousand_open_files_can_ask_for_a_version(install: Install, tmp_path: Path) -> None:
    package = install("lib/16", version("16.4"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as closing:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        closing.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1024):
            closing.callback(os.close, os.open(tmp_path, os.O_RDONLY))
        assert find_program(None, 16) == package


def test_where_only_older_ones_are_the_error_names_them_and_the_servers_version(
    install: Install, tmp_path: Path
) -> None:
    configured, on_path = install("bin", version("13.22")), install("path", "exit 1")
    with pytest.raises(ConfigError) as said:
        find_program(tmp_path / "bin", 19)
    assert str(said.value) == (
        f"pg_receivewal: the server is of PostgreSQL 19, and {configured} is of 13, {on_path} says no version"
    )
    assert said.value.hint == (
        "Install the client programs of PostgreSQL 19, which an agent finds by itself. Or set postgresql.bin_dir to "
        "where they are; an agent that runs is told by walkeeper agent --reload."
    )


def test_where_none_is_the_error_says_where_was_looked(install: Install, tmp_path: Path) -> None:
    del install
    with pytest.raises(ConfigError, match=f"not found in {tmp_path}/bin:{tmp_path}/path:{tmp_path}/lib/19"):
        find_program(tmp_path / "bin", 19)
