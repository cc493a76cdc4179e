"""Values on the command line. Each raises what argparse words: argparse.ArgumentTypeError."""

from __future__ import annotations

import re

TYPE_CHECKING = False  # as in main
if TYPE_CHECKING:
    import argparse


def wrong(text: str, wanted: str) -> Exception:
    """To be raised."""
    from argparse import ArgumentTypeError  # noqa: PLC0415

    return ArgumentTypeError(f"expected {wanted}, not {text!r}")


def positive(text: str) -> int:
    """A whole number above 0."""
    if not re.fullmatch(r"[0-9]{1,20}", text) or int(text) < 1:
        raise wrong(text, "a whole number above 0")
    return int(text)


def add_store(command: argparse.ArgumentParser, meant: str, default: str | None = None) -> None:
    """``--store``, which ``main`` looks at where it loads the configuration. ``meant``: without it."""
    text = f"of several stores, that one (default: {meant})"
    command.add_argument("--store", metavar="NAME", default=default, help=text)


def add_system_identifier(command: argparse.ArgumentParser) -> None:
    text = "another cluster's archive under this scope"
    command.add_argument("--system-identifier", metavar="N", type=positive, help=text)


def add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="for programs")
