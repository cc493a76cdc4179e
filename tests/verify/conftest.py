"""An archive, and verify."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.archives import Built, Verifier


@pytest.fixture
def built(tmp_path: Path) -> Built:
    return Built(tmp_path)


@pytest.fixture
def verify(built: Built, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Verifier:
    return Verifier(built, capsys, monkeypatch)
