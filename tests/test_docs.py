"""Documents that cannot rot: what can be generated is compared, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.matrix.versions import MAJORS, PATRONIS, SEGMENTS, TRIED
from walkeeper.cli import reference
from walkeeper.core.wal_page import MAGIC

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *sorted(ROOT.glob("[A-Z]*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]


def test_the_table_of_versions_is_what_the_matrix_tries() -> None:
    table = re.search(r"^\| PostgreSQL \|.*?\n\n", (ROOT / "docs" / "limits.md").read_text(), re.MULTILINE | re.DOTALL)
    assert table is not None
    head, _, *rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table[0].strip().splitlines()]
    assert tuple(head[1:]) == TRIED
    assert [int(major) for major, *cells in rows if cells == ["tried"] * len(TRIED)] == list(MAJORS)
    assert all(not any(cells) for major, *cells in rows if int(major) not in MAJORS)
    assert {int(major) for major, *_ in rows} == set(MAGIC.values())


def test_what_else_was_tried_names_each_cell_and_what_it_tries() -> None:
    text = (ROOT / "docs" / "limits.md").read_text()
    rows = re.findall(r"^\| (.+) \| (.+) \| (20\d\d-\d\d-\d\d|`make test`) \| `(test_\w+)` \|$", text, re.MULTILINE)
    sources = {path: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    cells = {
        name
        for path, source in sources.items()
        if path.parent.name == "matrix"
        for name in re.findall(r"^def (test_\w+)", source, re.MULTILINE)
    }
    named = {name: (when, which) for _, which, when, name in rows}
    assert {name for name, (when, _) in named.items() if when != "`make test`"} == cells - {"test_p4_" + MAJORS_CELL}
    assert [name for name in named if not any(f"def {name}(" in source for source in sources.values())] == []
    which = {what: which for what, which, *_ in rows}
    assert re.findall(r"\d\.\d", which["Patroni"]) == list(PATRONIS)
    assert [int(size) for size in re.findall(r"\d+", which["Segments"])] == list(SEGMENTS)


MAJORS_CELL = "each_major_version_loses_no_row_over_a_kill_and_a_switchover"
"""It has a table of its own."""


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


GENERATED = {f"docs/{name}.md" for name in ("commands", "configuration", "doctor", "metrics")}
WRITTEN = [path for path in DOCUMENTS if path.relative_to(ROOT).as_posix() not in GENERATED]


@pytest.mark.parametrize("document", WRITTEN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_line_is_longer_than_a_screen(document: Path) -> None:
    """But for rows of tables, which Markdown cannot break, and what programs printed."""
    prose = re.sub(r"^( *)```.*?^\1```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert [line for line in prose.splitlines() if len(line) > 160 and not line.startswith("|")] == []


def test_a_decision_has_a_title_a_date_and_few_words_and_the_newest_is_last() -> None:
    _, *decisions = re.split(r"^## ", (ROOT / "docs" / "internals" / "decisions.md").read_text(), flags=re.MULTILINE)
    dates = []
    for decision in decisions:
        title, _, text = decision.partition("\n\n")
        (date,) = re.findall(r"^\*(20\d\d-\d\d-\d\d)\.\* ", text) or [""]
        assert date, f"{title}: the text begins with its date"
        assert len(text.split()) <= 200, title
        dates.append(date)
    assert dates == sorted(dates)


FAULTS = {"A": 19, "B": 12, "C": 19, "D": 12, "E": 22, "F": 15, "G": 19, "H": 10, "I": 6, "J": 13}
"""How many there are of each group."""


def test_every_fault_has_tests_that_there_are_or_a_reason() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    rows = re.findall(
        r"^\| ([A-J]\d+) \| .* \| (.*) \|$", (ROOT / "docs" / "internals" / "faults.md").read_text(), re.MULTILINE
    )
    assert [name for name, _ in rows] == [f"{group}{n}" for group, count in FAULTS.items() for n in range(1, count + 1)]
    for name, cell in rows:
        assert "`test_" in cell or "Not tried" in cell or "Not yet" in cell, name
        for test in re.findall(r"`(test_\w+)`", cell):
            assert f"def {test}(" in tests, f"{name} names {test}, which is not a test"


def test_every_case_of_what_was_believed_has_tests_and_deliberate_bugs_that_there_are() -> None:
    text = (ROOT / "docs" / "internals" / "beliefs.md").read_text()
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    rows = re.findall(r"^\| (\d+) \| [^|]+ \| [^|]+ \| [^|]+ \| (.*) \|$", text, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 49))
    assert all("`test_" in cell for _, cell in rows)
    for name in re.findall(r"`(test_\w+|[a-z]+_[a-z]+_[a-z_]+)`", text):
        assert f"def {name}(" in tests, name


@pytest.mark.parametrize(
    ("document", "names"), [("track_record.md", r"`(?:test_\w+|[a-z]+_[a-z_]+)`"), ("incidents.md", r"`test_\w+`")]
)
def test_the_records_name_tests_and_deliberate_bugs_that_there_are(document: str, names: str) -> None:
    text = (ROOT / "docs" / "internals" / document).read_text()
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    for name in re.findall(names, text):
        assert f"def {name.strip('`')}(" in tests, name


def test_removing_walkeeper_names_all_that_it_leaves_behind() -> None:
    operations = (ROOT / "docs" / "operations.md").read_text()
    section = operations[operations.index("### Removing walkeeper") :]
    left = [
        "archive_command",
        "restore_command",
        "pre_promote",
        "create_replica_methods",
        "callbacks",
        "`walkeeper:` section",
        "patronictl reload",
        "systemctl disable",
    ]
    left += [
        "slots.walkeeper=null",
        "etcdctl del /service/SCOPE/walkeeper",
        "spool.directory",
        "restore.directory",
        "/run/walkeeper",
    ]
    assert [name for name in left if name not in section] == []
    assert section.index("durability: store") < section.index("1. "), "or commits wait for an agent that is gone"
    assert section.index("archive_command") < section.index("Stop the agents"), (
        "or it fails, and PostgreSQL keeps all WAL"
    )
