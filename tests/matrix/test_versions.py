"""A cluster on each version and size: under load, its leader killed, handed over, restored."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.matrix.cell import archived, outlives
from tests.matrix.patronis import patroni_python
from tests.matrix.versions import MAJORS, PATRONIS, SEGMENTS
from tests.parts.binaries import all_postgres, postgres_bin

pytestmark = [pytest.mark.cluster, pytest.mark.matrix, pytest.mark.slow]


@pytest.mark.parametrize("major", MAJORS)
def test_p4_each_major_version_loses_no_row_over_a_kill_and_a_switchover(short_path: Path, major: int) -> None:
    """Everything dies at the end, in the middle of the load: what the archive has is the tail's last row, too."""
    assert major in all_postgres(), f"PostgreSQL {major} is not here: tools/postgres-from-debian"
    it = archived(short_path, bin_dir=postgres_bin(major))
    assert it.cluster.major == major
    with it.cluster:
        outlives(it, short_path)


@pytest.mark.parametrize("version", PATRONIS)
def test_p4_each_version_of_patroni_loses_no_row_over_a_kill_and_a_switchover(short_path: Path, version: str) -> None:
    python = patroni_python(version)
    said = subprocess.run([python, "-m", "patroni", "--version"], capture_output=True, text=True, check=True).stdout
    assert said.split()[-1].startswith(f"{version}."), said
    it = archived(short_path, python=python)
    with it.cluster:
        outlives(it, short_path)
    print(said)


@pytest.mark.parametrize("size", SEGMENTS)
def test_p4_each_size_of_segments_loses_no_row_over_a_kill_and_a_switchover(short_path: Path, size: int) -> None:
    it = archived(short_path, nodes=2 if size == max(SEGMENTS) else 3, segment_size_mb=size)  # 8 GB of disk for each
    with it.cluster:
        outlives(it, short_path, whole=True)
