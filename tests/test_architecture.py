"""Who may import whom, and who may make a receipt. ARCHITECTURE.md says why."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "walkeeper"

# A library that is heavy, blocks, or patches others stays behind one door.
DOORS = {
    "boto3": {"store/s3.py"},
    "botocore": {"store/s3.py"},
    "psycopg": {"postgres/server.py"},
    "patroni": {"dcs/patroni.py"},
    "yaml": {"config/yaml_file.py", "dcs/patroni.py"},  # the second only names the error that Patroni lets out
    "pyrage": {"archive/codec.py"},
    "prometheus_client": {"agent/http/metrics.py"},
    "rich": {"status/watch.py"},
}

CORE_MAY_USE = {
    "__future__",
    "bisect",
    "collections",
    "dataclasses",
    "enum",
    "itertools",
    "msgspec",
    "re",
    "struct",
    "typing",
}

# Each layer may use those to its right.
LAYERS = ["cli", "agent", "push", "restore", "archive", "store", "core"]


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def place(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("library", DOORS)
def test_a_library_is_imported_through_its_one_door(library: str) -> None:
    users = {place(path) for path in modules() if any(name.split(".")[0] == library for name in imports(path))}
    assert users <= DOORS[library]


def test_the_core_does_no_io() -> None:
    for path in (PACKAGE / "core").glob("*.py"):
        for name in imports(path):
            assert name.split(".")[0] in CORE_MAY_USE or name.startswith(("walkeeper.core", "walkeeper.errors")), (
                path.name,
                name,
            )


def test_the_page_is_a_pure_function_of_its_facts() -> None:
    known = CORE_MAY_USE | {"base64", "hashlib", "html", "itertools", "math"}
    for path in (PACKAGE / "page").glob("*.py"):
        for name in imports(path):
            ours = name.startswith(("walkeeper.core", "walkeeper.page"))
            assert ours or name.split(".")[0] in known, (path.name, name)


def test_the_layers_are_used_from_the_top_down() -> None:
    for path in modules():
        layer = place(path).split("/")[0].removesuffix(".py")
        if layer not in LAYERS:
            continue
        above = LAYERS[: LAYERS.index(layer)]
        used = {name.split(".")[1] for name in imports(path) if name.startswith("walkeeper.")}
        assert not used & set(above), f"{place(path)} reaches up to {used & set(above)}"


def test_only_the_archive_makes_receipts() -> None:
    """An early acknowledgement would need one: this is what makes P1 hold by construction."""
    makers = {
        place(path)
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Receipt"
    }
    assert makers == {"archive/write.py"}


def test_only_the_tail_makes_its_receipts_and_deletes_by_receipt_only() -> None:
    """A probe deletes its own object, and ``tail.drop`` what a receipt covers: nothing else deletes."""
    calls = {
        (place(path), node.func.id if isinstance(node.func, ast.Name) else f".{node.func.attr}")
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute)
    }
    assert {where for where, what in calls if what == "TailReceipt"} == {"archive/tail.py"}
    assert {where for where, what in calls if what == ".delete"} == {"archive/tail.py", "store/proof.py"}
    assert (
        "def drop(archive: Archive, key: str, cover: Receipt | TailReceipt)"
        in (PACKAGE / "archive" / "tail.py").read_text()
    )


def test_spool_files_of_segments_are_removed_by_receipt_only() -> None:
    """``Spool.remove`` takes a receipt; what else unlinks there concerns partials, histories and the quarantine."""
    assert "def remove(self, receipt: Receipt)" in (PACKAGE / "agent" / "archiver" / "spool.py").read_text()


def test_nothing_decides_by_the_wall_clock() -> None:
    for path in modules():
        if place(path) in {
            "lib/clock.py",
            "status/gather.py",
            "store/directory.py",
        }:  # the last tells people how old objects are
            continue
        assert not re.search(r"\btime\.time\(|datetime\.now\(|utcnow\(|st_mtime\b", path.read_text()), place(path)


def test_every_promise_has_a_test_that_is_named_after_it() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    promises = (ROOT / "docs" / "promises.md").read_text()
    for number in range(1, 13):
        assert f"def test_p{number}_" in tests or f"_p{number}_" in tests, f"P{number} has no test"
        assert f"**P{number} " in promises, f"P{number} is missing in docs/promises.md"
    for name in re.findall(r"`(test_\w+)`", promises):
        assert f"def {name}(" in tests, f"docs/promises.md names {name}, which is no test"


def test_no_file_is_longer_than_a_person_reads_in_one_sitting() -> None:
    assert [place(path) for path in modules() if len(path.read_text().splitlines()) > 450] == []
