"""docs/commands.md, made from the command line: ``python -m walkeeper.cli.reference > docs/commands.md``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Final

from walkeeper.cli.main import PLACES, parser

_HEAD: Final = """\
# Commands

`walkeeper COMMAND --help` says the same. `-c FILE` may stand before or after the command; without it, the
configuration is the file that `$WALKEEPER_CONFIG` names, else the first that is there of {places}.

Every command says what is wrong in one line, `walkeeper: …`, with a `HINT:` line after it, and exits 2 where the
configuration or the call cannot be used, or no agent answers that it has to ask.
`restore-wal` has [exits of its own](../README.md#restore), made for PostgreSQL.
Where standard output is full or closed, a command that only answers exits with 2 in place of 0; what was done keeps
its exit code. A reader that leaves (`| head`) changes neither.
"""


def reference() -> str:
    """The document."""
    head = _HEAD.format(places=", ".join(f"`{place}`" for place in PLACES))
    return "\n".join([head, *_commands(parser(), "walkeeper")])


def _commands(parser: argparse.ArgumentParser, name: str) -> Iterator[str]:
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to ask
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for word, command in action.choices.items():
                yield from _command(command, f"{name} {word}")


def _command(parser: argparse.ArgumentParser, name: str) -> Iterator[str]:
    actions = [
        action
        for action in parser._actions  # noqa: SLF001
        if action.help != argparse.SUPPRESS and action.dest not in ("help", "config")
    ]
    own = [action for action in actions if not isinstance(action, argparse._SubParsersAction)]  # noqa: SLF001
    below = [str(action.metavar) for action in actions if action not in own]
    usage = " ".join([name, *(_usage(action) for action in sorted(own, key=_is_positional)), *below])
    yield f"## `{name}`\n"
    yield f"{_text(parser.description)}\n"
    yield f"```\n{usage}\n```\n"
    if own:
        rows = "\n".join(f"| `{_names(action)}` | {_text(action.help)} |" for action in own)
        yield f"| | |\n| --- | --- |\n{rows}\n"
    if parser.epilog:
        yield f"{_text(parser.epilog)}\n"
    yield from _commands(parser, name)


def _is_positional(action: argparse.Action) -> bool:
    return not action.option_strings


def _value(action: argparse.Action) -> str:
    """How its value is shown; "" for a flag."""
    if action.nargs == 0:
        return ""
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    if action.metavar:
        return action.metavar
    return "|".join(map(str, action.choices)) if action.choices else action.dest.upper()


def _names(action: argparse.Action) -> str:
    if _is_positional(action):
        return _value(action)
    value = _value(action)
    return ", ".join(f"{option} {value}".strip() for option in action.option_strings)


def _usage(action: argparse.Action) -> str:
    if _is_positional(action):
        word = _value(action)
        return (
            f"[{word} …]"
            if action.nargs == "*"
            else f"{word} …"
            if action.nargs == "+"
            else f"[{word}]"
            if action.nargs == "?"
            else word
        )
    written = f"{action.option_strings[-1]} {_value(action)}".strip()
    return written if action.required else f"[{written}]"


def _text(text: str | None) -> str:
    return (text or "").replace("%%", "%").replace("|", "\\|")


if __name__ == "__main__":
    print(reference(), end="")  # noqa: T201
