"""Options of the command line and their values, which raise what argparse words: argparse.ArgumentTypeError."""

from __future__ import annotations

import re

TYPE_CHECKING = False  # as in main
if TYPE_CHECKING:
    import argparse
    from typing import Any, TypeAlias

    Options: TypeAlias = argparse._ActionsContainer  # noqa: SLF001 - a parser, or a group of one


def wrong(text: str, wanted: str) -> Exception:
    """To be raised."""
    from argparse import ArgumentTypeError  # noqa: PLC0415

    return ArgumentTypeError(f"expected {wanted}, not {text!r}")


def positive(text: str) -> int:
    """A whole number above 0."""
    if not re.fullmatch(r"[0-9]{1,20}", text) or int(text) < 1:
        raise wrong(text, "a whole number above 0")
    return int(text)


def flag(command: Options, name: str, text: str) -> None:
    command.add_argument(name, action="store_true", help=text)


def option(command: Options, name: str, metavar: str, text: str, type: Any = None, **more: Any) -> None:  # noqa: A002
    """As argparse has it."""
    command.add_argument(name, metavar=metavar, help=text, type=type, **more)


def add_store(command: argparse.ArgumentParser, meant: str, default: str | None = None) -> None:
    """``--store``, which ``main`` looks at where it loads the configuration. ``meant``: without it."""
    text = f"of several stores, that one (default: {meant})"
    option(command, "--store", "NAME", text, default=default)


def add_system_identifier(command: argparse.ArgumentParser) -> None:
    option(command, "--system-identifier", "N", "another cluster's archive under this scope", positive)


def add_json(command: argparse.ArgumentParser) -> None:
    flag(command, "--json", "for programs")
