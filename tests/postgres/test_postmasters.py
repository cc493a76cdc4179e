"""The servers that run on this host are found by what lies in processes' working directories, which may be anything."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from walkeeper.postgres.postmasters import postmasters


def test_what_is_no_file_in_a_working_directory_is_no_server(tmp_path: Path) -> None:
    """A pipe that nobody writes to would be waited for, and a link leads anywhere."""
    (pipe, link) = (tmp_path / "pipe", tmp_path / "link")
    for directory in (pipe, link):
        directory.mkdir()
    os.mkfifo(pipe / "postmaster.pid")
    sleepers = [subprocess.Popen(["sleep", "60"], cwd=directory) for directory in (pipe, link)]
    try:
        (tmp_path / "elsewhere").write_text(f"{sleepers[1].pid}\n")
        (link / "postmaster.pid").symlink_to(tmp_path / "elsewhere")
        assert not {found.pid for found in postmasters()} & {each.pid for each in sleepers}
    finally:
        for each in sleepers:
            each.kill()
            each.wait()
