"""The command lines of ``walkeeper gap``, of which ``list`` and ``accept`` are commands, and of ``walkeeper member``, of which
``forget`` is: options may stand anywhere among them.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from walkeeper.cli.values import add_store, wrong

TYPE_CHECKING = False  # as in main
if TYPE_CHECKING:
    import argparse

    from walkeeper.config import Config


def add(
    command: Callable[..., argparse.ArgumentParser],
    shared: argparse.ArgumentParser,
    config: Callable[[argparse.Namespace], Config],
) -> None:
    """As in ``backup``. ``shared``: what every command takes."""
    import argparse  # noqa: PLC0415

    def run(options: argparse.Namespace) -> int:
        from walkeeper.gap import command as gap  # noqa: PLC0415

        return gap.main(config(options), accept=options.what == "accept", start=options.start, as_json=options.json)

    gap = command("gap", "WAL that is lost, or may be: list it, or accept the loss.", run)
    gap.set_defaults(start=None)
    gap.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    gap.add_argument("--store", help=argparse.SUPPRESS)
    each = gap.add_subparsers(dest="what", metavar="list|accept", required=True)

    def what(name: str, text: str, store: str) -> argparse.ArgumentParser:
        added = each.add_parser(name, help=text, description=text, parents=[shared], allow_abbrev=False)
        added.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="for programs")
        add_store(added, store, default=argparse.SUPPRESS)
        return added

    what("list", "All of it. Exit 0: none but what was accepted; 1: some; 2: cannot tell.", "all")
    accept = what("accept", "No member is waited for any longer, and status and doctor are content.", "the first")
    accept.add_argument(
        "start", metavar="FROM", nargs="?", type=_place, help="where it begins: a position, or a segment's name"
    )

    def forgets(options: argparse.Namespace) -> int:
        from walkeeper.gap import forget  # noqa: PLC0415

        return forget.main(config(options), options.name)

    member = command("member", "A member that is gone for good: forget it.", forgets)
    member.add_argument("--store", help=argparse.SUPPRESS)
    text = (
        "Nobody waits any longer for the WAL that it may have: for a member that is gone with its disk. Exit 0: the store has "
        "that word; 1: the member is there; 2: cannot tell."
    )
    forget = member.add_subparsers(dest="what", metavar="forget", required=True).add_parser(
        "forget", help=text, description=text, parents=[shared], allow_abbrev=False
    )
    add_store(forget, "all", default=argparse.SUPPRESS)
    forget.add_argument("name", metavar="NAME", help="as patronictl list had it")


def _place(text: str) -> str:
    if not re.fullmatch(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}|[0-9A-F]{24}", text):
        raise wrong(text, "a position such as 0/3000000, or a segment's name")
    return text
