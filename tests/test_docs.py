"""Documents that cannot rot: what can be generated is compared, links lead somewhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from walkeeper.cli import main as cli
from walkeeper.cli import reference

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *sorted(ROOT.glob("[A-Z]*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]


def block(name: str) -> str:
    match = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", (ROOT / "README.md").read_text(), re.DOTALL)
    assert match is not None, name
    return match[1]


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="argparse words its help otherwise from 3.13 on")
def test_the_readme_shows_the_command_line_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert block("help") == f"```console\n$ walkeeper --help\n{cli.parser().format_help()}```\n"


def anchors(document: Path) -> set[str]:
    """Those of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_the_reference_of_commands_is_made_from_the_code() -> None:
    written = (ROOT / "docs" / "commands.md").read_text()
    assert written == reference.reference(), "run: python -m walkeeper.cli.reference > docs/commands.md"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_headings_that_are_there(document: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", document.read_text()):
        assert anchor in anchors(document.parent / target if target else document), (target, anchor)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files_that_are_there(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


FAULTS = {"A": 19, "B": 12, "C": 19, "D": 12, "E": 21, "F": 15, "G": 18, "H": 9, "I": 6}
"""How many there are of each group."""


def test_every_fault_has_tests_that_there_are_or_a_reason() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    rows = re.findall(
        r"^\| ([A-I]\d+) \| .* \| (.*) \|$", (ROOT / "docs" / "internals" / "faults.md").read_text(), re.MULTILINE
    )
    assert [name for name, _ in rows] == [f"{group}{n}" for group, count in FAULTS.items() for n in range(1, count + 1)]
    for name, cell in rows:
        assert "`test_" in cell or "Not tried" in cell or "Not yet" in cell, name
        for test in re.findall(r"`(test_\w+)`", cell):
            assert f"def {test}(" in tests, f"{name} names {test}, which is no test"


def test_the_track_record_names_tests_and_deliberate_bugs_that_there_are() -> None:
    text = (ROOT / "docs" / "internals" / "track_record.md").read_text()
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    for name in re.findall(r"`(?:test_\w+|[a-z]+_[a-z_]+)`", text):
        assert f"def {name.strip('`')}(" in tests, name
