"""What hints say, as the code has it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent / "walkeeper"
OPEN: Final = "…"
"""What is only known when the hint is said."""


@cache
def whole() -> frozenset[str]:
    """Each hint of the code, with an OPEN for what is filled in."""
    return frozenset(_whole())


def every_test() -> set[str]:
    """The names of all tests."""
    paths = Path(__file__).parent.rglob("test_*.py")
    return {name for path in paths for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)}


def _whole() -> Iterator[str]:
    for path in sorted(ROOT.rglob("*.py")):
        tree = ast.parse(path.read_text())
        constants = {
            target.id: each.value
            for each in tree.body
            if isinstance(each, ast.Assign | ast.AnnAssign) and each.value is not None
            for target in (each.targets if isinstance(each, ast.Assign) else [each.target])
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            said: list[ast.expr] = []
            if isinstance(node, ast.keyword) and node.arg == "hint":
                said = [node.value]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "remark":
                said = node.args[1:]  # what status says to do
            for each in said:
                yield from _texts(each, constants)


def _texts(node: ast.expr, constants: Mapping[str, ast.expr]) -> Iterator[str]:
    """One for each branch."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else OPEN for part in parts)
        case ast.IfExp(body=one, orelse=other):
            yield from (*_texts(one, constants), *_texts(other, constants))
        case ast.BoolOp(values=ways):
            for way in ways:
                yield from _texts(way, constants)
        case ast.Name(id=name) if name in constants:
            yield from _texts(constants[name], {})
        case ast.Subscript(value=ast.Name(id=name)) if isinstance(constants.get(name), ast.Dict):
            found = constants[name]
            assert isinstance(found, ast.Dict)
            for value in found.values:
                yield from _texts(value, constants)
