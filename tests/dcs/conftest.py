"""The server that tests of records share, file by file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.parts.etcd import HOW, Etcd, etcd_program


@pytest.fixture(scope="module")
def etcd() -> Iterator[Etcd]:
    """With both APIs. Every test leaves it as it was: up, without passwords."""
    if etcd_program() is None:
        pytest.skip(HOW)
    with Etcd(v2=True) as server:
        yield server
