"""What hints say. Errors of shared rooms are printed by commands too, where nobody tries again."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHARED = ("config", "core", "dcs", "postgres", "store", "verify", "status", "doctor")
"""Rooms whose errors end commands: verify, list, fetch, status, doctor."""
PROMISES = re.compile(r"tried again|try again|walkeeper asks again|looked for again|is retried|read again[,.:]")


def texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def hints(path: Path) -> Iterator[str]:
    """What is given as a hint, and the constants of the module, which hints are made of."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "hint":
            yield from texts(node.value)
    for statement in tree.body:
        if isinstance(statement, ast.AnnAssign) and statement.value is not None:
            yield from texts(statement.value)


@pytest.mark.parametrize("room", SHARED)
def test_a_hint_that_a_command_prints_does_not_promise_another_try(room: str) -> None:
    paths = (ROOT / "walkeeper" / room).rglob("*.py")
    assert [(path.name, hint) for path in paths for hint in hints(path) if PROMISES.search(hint)] == []
