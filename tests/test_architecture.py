"""Who may import whom, as the table in ARCHITECTURE.md say, and who may make a receipt."""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "walkeeper"

# A library that is heavy, blocks, or patches others stays behind one door.
DOORS = {
    "boto3": {"store/s3/client.py"},
    "botocore": {"store/s3/driver.py", "store/s3/client.py", "store/s3/connection.py", "store/s3/documents.py"},
    "obstore": {"store/clouds/driver.py"},
    "psycopg": {"postgres/server.py", "postgres/walsender.py", "postgres/base_backup.py", "postgres/wal_stream.py"},
    "patroni": {"dcs/patroni.py"},
    "yaml": {"config/yaml_file.py", "dcs/patroni.py"},  # the second for Patroni: its errors, and a faster import
    "pyrage": {"archive/codec.py"},
    "prometheus_client": {"agent/http/metrics.py"},
    "rich": {"status/watch.py"},
}

CORE_MAY_USE = {
    "__future__",
    "array",
    "bisect",
    "collections",
    "dataclasses",
    "datetime",
    "enum",
    "functools",
    "heapq",
    "hashlib",
    "hmac",
    "itertools",
    "msgspec",
    "operator",
    "re",
    "struct",
    "sys",
    "typing",
    "zlib",
}

# What every room may import besides itself: the tree of errors, and the version.
EVERYBODYS = {"errors", "__init__"}


@cache
def modules() -> tuple[Path, ...]:
    return tuple(sorted(PACKAGE.rglob("*.py")))


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All that a module's text consists of."""
    return tuple(ast.walk(ast.parse(path.read_text())))


@cache
def imports(path: Path) -> tuple[str, ...]:
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in nodes(path):
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
    known = CORE_MAY_USE | {"base64", "html", "math"}
    for path in (PACKAGE / "page").glob("*.py"):
        for name in imports(path):
            ours = name.startswith(("walkeeper.core", "walkeeper.page"))
            assert ours or name.split(".")[0] in known, (path.name, name)


def table(heading: str) -> dict[str, set[str]]:
    """Of the table under that heading in ARCHITECTURE.md: from the name in the first cell to those in the last one."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    (rows,) = re.findall(rf"^\| {re.escape(heading)} \|\n\| [-| ]+ \|\n((?:\|.*\|\n)+)", text, re.MULTILINE)
    cells = [row.removeprefix("|").removesuffix("|").split("|") for row in rows.splitlines()]
    return {cell[0].strip(" `"): set(re.findall(r"`([^`]+)`", cell[-1])) for cell in cells}


ROOMS = table("room | what it is | may import")
"""What each room may import, the lowest room first."""


def room(path: Path) -> str:
    """The directory of a module, or the module itself where it lies at the root."""
    directory = path.relative_to(PACKAGE).parent.as_posix()
    return path.stem if directory == "." else directory


@cache
def imported(path: Path, *, for_types: bool = True) -> set[Path]:
    """The modules of walkeeper that a module imports, each as its file; without what only the type checker imports, if told."""
    typing = {id(part) for node in nodes(path) if _is_for_types(node) for part in ast.walk(node)}
    found = set()
    for node in nodes(path):
        if not for_types and id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            found |= {file_of(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {file_of(f"{node.module}.{alias.name}") or file_of(node.module) for alias in node.names}
    return {file for file in found if file is not None}


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def file_of(name: str) -> Path | None:
    """Of a module or a package of ours; None for what is neither."""
    place = ROOT.joinpath(*name.split("."))
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file in MODULES), None)


MODULES = set(modules())


def test_every_room_has_a_row_and_every_row_a_room() -> None:
    assert set(ROOMS) == {room(path) for path in MODULES} - {"__init__"}
    assert {path.stem for path in PACKAGE.glob("*.py")} == {"__init__", "__main__", "callback", "errors"}


def test_a_room_imports_only_rooms_that_stand_above_it_in_the_table() -> None:
    names = list(ROOMS)
    for name, others in ROOMS.items():
        assert others <= set(names[: names.index(name)]), name


@pytest.mark.parametrize("path", modules(), ids=place)
def test_a_module_imports_what_the_row_of_its_room_names(path: Path) -> None:
    here = room(path)
    outer = {parent.as_posix() for parent in Path(here).parents}
    may = {here} | outer | EVERYBODYS | ROOMS.get(here, set())
    assert {place(module) for module in imported(path) if room(module) not in may} == set()


def test_no_module_imports_itself_by_way_of_others() -> None:
    """A room inside another uses the outer one's modules, and some of those use it: that is in order only without a circle."""
    graphlib.TopologicalSorter({path: imported(path, for_types=False) for path in MODULES}).prepare()


def test_only_the_archive_makes_receipts() -> None:
    """An early acknowledgement would need one: this is what makes P1 hold by construction."""
    makers = {
        place(path)
        for path in modules()
        for node in nodes(path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Receipt"
    }
    assert makers == {"archive/write.py"}


def test_only_the_tail_makes_its_receipts_and_deletes_by_receipt_only() -> None:
    """A probe deletes its own object, ``tail.drop`` what a receipt covers, a restore the pin that it wrote, ``life`` its older
    signs, and ``expire`` what a recorded floor gives up (P15); ``limited``, ``guarded``, ``several`` and ``authentic`` pass that on. Nothing else
    deletes.
    """
    calls = {
        (place(path), node.func.id if isinstance(node.func, ast.Name) else f".{node.func.attr}")
        for path in modules()
        for node in nodes(path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute)
    }
    assert {where for where, what in calls if what == "TailReceipt"} == {"archive/tail.py"}
    assert {where for where, what in calls if what == ".delete"} == {
        "archive/life.py",
        "archive/tail.py",
        "archive/expiry.py",
        "expire/delete.py",
        "store/probe.py",
        "store/limited.py",
        "store/guarded.py",
        "archive/authentic.py",
        "store/several.py",
    }
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
            "store/directory/driver.py",
            "store/directory/files.py",
        }:  # the last tells people how old objects are
            continue
        assert not re.search(r"\btime\.time\(|datetime\.now\(|utcnow\(|st_mtime\b", path.read_text()), place(path)


def test_who_asks_the_wall_clock_is_listed_with_the_reason() -> None:
    """``timestamp`` is for people, and what is written with it is believed by nobody alone."""
    asks = {
        "agent/backup_job.py": "a schedule is of the wall clock",
        "agent/backups.py": "ages, for people",
        "agent/http/report.py": "when the next one is due, for people",
        "agent/remembering.py": "members that were seen before this agent was started, within a day",
        "archive/proofs.py": "what is proved tomorrow is not believed",
        "backup/command.py": "backup.full_every",
        "backup/list_command.py": "ages, for people",
        "doctor/here.py": "ages, for people",
        "doctor/servers.py": "compares clocks",
        "expire/command.py": "what may go, by the store's clock and by core/elapsed",
        "postgres/server.py": "compares clocks",
        "postgres/wal_stream.py": "the protocol's",
        "promote/lose.py": "a person's word, for some minutes",
        "restore/directory/check.py": "ages, for people",
        "status/gather.py": "ages, for people",
        "store/clock.py": "compares clocks",
        "store/directory/driver.py": "compares clocks",
        "store/s3/keys.py": "until when an object is locked",
    }
    assert {place(path) for path in modules() if re.search(r"\b(now_utc|wall_seconds)\(\)", path.read_text())} == {
        *asks,
        "lib/clock.py",
    }


def test_every_promise_has_a_test_that_is_named_after_it() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    promises = (ROOT / "docs" / "internals" / "promises.md").read_text()
    for number in range(1, 17):
        assert f"def test_p{number}_" in tests or f"_p{number}_" in tests, f"P{number} has no test"
        assert f"**P{number} " in promises, f"P{number} is missing in docs/internals/promises.md"
    for name in re.findall(r"`(test_\w+)`", promises):
        assert f"def {name}(" in tests, f"docs/internals/promises.md names {name}, which is not a test"


def test_what_decodes_a_type_is_made_when_its_module_is_imported() -> None:
    """Msgspec looks into a type when it meets it first, and crashes the process if two threads do so at once."""
    for path in modules():
        if place(path) == "config/load.py":  # before there are threads
            continue
        text = path.read_text()
        assert not re.search(r"msgspec\.(json\.)?(decode|convert)\(", text), place(path)
        assert not re.search(r"^ +.*msgspec\.json\.Decoder\(", text, re.MULTILINE), place(path)


def test_no_file_is_longer_than_a_person_reads_in_one_sitting() -> None:
    assert [place(path) for path in modules() if len(path.read_text().splitlines()) > 450] == []


def test_every_error_stands_in_the_one_tree_and_is_drawn_there() -> None:
    import walkeeper.errors as tree  # noqa: PLC0415

    errors = {name for name, found in vars(tree).items() if isinstance(found, type) and issubclass(found, Exception)}
    drawn = set(re.findall(r"(?:── |^ {4})(\w+)", tree.__doc__ or "", re.MULTILINE))
    assert drawn == errors
    elsewhere = {
        (place(path), node.name)
        for path in modules()
        for node in nodes(path)
        if isinstance(node, ast.ClassDef) and place(path) != "errors.py"
        if any(isinstance(base, ast.Name) and base.id in errors for base in node.bases)
    }
    assert elsewhere == set()
