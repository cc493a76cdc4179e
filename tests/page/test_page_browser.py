"""The page in a real browser: it runs under its own policy, renews itself, and says when the agent has gone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.agent.test_metrics import Served
from tests.fixtures import pages
from tests.parts.chromium import Chromium, find_chromium
from walkeeper.agent.http import server as web
from walkeeper.page.document import render

PROGRAM = find_chromium()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Chromium:
    assert PROGRAM is not None
    return Chromium(PROGRAM)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(web, "PAGE_SECONDS", -1.0)  # a browser's own time may run faster than ours
    serving = Served()
    serving.page = render(pages.well())
    yield serving
    serving.end()


def test_it_renews_itself_without_being_loaded_again(
    served: Served, browser: Chromium, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def page(self: Served) -> str:
        asked.append("")
        facts = pages.well() if len(asked) == 1 else replace(pages.unwell(), at=f"look {len(asked)}")
        return render(facts)

    monkeypatch.setattr(type(served), "get_page", page)
    text, complaints = browser.text(f"http://127.0.0.1:{served.port}/", 13)
    assert len(asked) >= 3
    assert f"look {len(asked)}" in text
    assert "1 thing to look at" in text
    assert "<title>! demo" in text
    assert re.search(r'<p id="stale"[^>]* hidden', text)
    assert complaints == []


def test_it_says_when_the_agent_has_gone(served: Served, browser: Chromium, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def page(_: Served) -> str:
        asked.append("")
        if len(asked) > 1:
            raise OSError("gone")
        return render(pages.well())

    monkeypatch.setattr(type(served), "get_page", page)
    text, _ = browser.text(f"http://127.0.0.1:{served.port}/", 8)
    assert "The agent has not answered since" in text
    assert not re.search(r'<p id="stale"[^>]* hidden', text)
    assert str(pages.FRONTIER) in text, "what was known stays"


@pytest.mark.parametrize(("name", "width"), [("wide", 1000), ("narrow", 375)])
def test_it_can_be_drawn(served: Served, browser: Chromium, short_path: Path, name: str, width: int) -> None:
    target = short_path / f"{name}.png"
    browser.screenshot(f"http://127.0.0.1:{served.port}/", target, width, 1200)
    head = target.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(head[16:20]), int.from_bytes(head[20:24])) == (width, 1200)
    assert target.stat().st_size > 20_000, "an empty page is smaller"
