"""The command line of what looks at the archive without an agent, and may look at one of another system identifier."""

from __future__ import annotations

from collections.abc import Callable

from walkeeper.cli.values import add_json, add_store, add_system_identifier, flag, option, positive

TYPE_CHECKING = False  # as in main
if TYPE_CHECKING:
    import argparse

    from walkeeper.config import Config


def add(command: Callable[..., argparse.ArgumentParser], config: Callable[[argparse.Namespace], Config]) -> None:
    """As in ``restore``."""

    def look(options: argparse.Namespace) -> int:
        if options.restore is not None:
            return _prove(options, config)
        return _verify(options, config)

    def show(options: argparse.Namespace) -> int:
        from walkeeper.verify import list_command  # noqa: PLC0415

        return list_command.main(
            config(options), timeline=options.timeline, system_identifier=options.system_identifier, json=options.json
        )

    import argparse  # noqa: PLC0415

    verify = command("verify", "Is the archive whole? Exit 0: sound; 1: a gap or damage; 2: cannot tell.", look)
    listed = command("list", "What is in the archive.", show)
    fetch = command(
        "fetch", "Get WAL files out of the archive into a directory.", lambda options: _fetch(options, config)
    )
    for each in (verify, listed):
        option(each, "--timeline", "N", "another timeline than the record's", positive)
        add_json(each)
    for each in (verify, listed, fetch):
        add_system_identifier(each)
    add_store(verify, "all; --restore: the first")
    add_store(listed, "all")
    add_store(fetch, "the first")
    option(
        verify,
        "--from",
        "START",
        "begin there and not at the archive's start: a segment, a position, a .backup file, a backup_label, or the "
        "directory of a base backup",
        dest="begin",
    )
    kind = verify.add_mutually_exclusive_group()
    flag(kind, "--deep", "download all objects too: checksums and every page's header")
    flag(kind, "--rebuild", "write a lost record again from what the store has")
    option(
        kind,
        "--restore",
        "DIRECTORY",
        "only: restore the newest complete backup, into a directory of its own below that one (default: /var/tmp), start "
        "it, check it, remove it again, and remember that it went well",
        nargs="?",
        const="",
    )
    verify.add_argument("--job", metavar="ID", help=argparse.SUPPRESS)
    verify.add_argument("--clear", action="store_true", help=argparse.SUPPRESS)
    option(verify, "--to", "TARGET", "with --restore: up to where, as walkeeper restore has it")
    fetch.add_argument("what", metavar="FIRST[..LAST]", help="a WAL file's name, or two segments' and all between them")
    fetch.add_argument("directory", metavar="DIRECTORY", help="it is made if it is not there")


def _verify(options: argparse.Namespace, config: Callable[[argparse.Namespace], Config]) -> int:
    from walkeeper.verify import command  # noqa: PLC0415

    if options.to is not None:
        _refuse("--to", "It belongs to --restore.")
    request = command.Request(
        begin=options.begin, timeline=options.timeline, system_identifier=options.system_identifier,
        deep=options.deep, rebuild=options.rebuild, json=options.json,
    )  # fmt: skip
    return command.main(config(options), request)


def _prove(options: argparse.Namespace, config: Callable[[argparse.Namespace], Config]) -> int:
    from pathlib import Path  # noqa: PLC0415

    from walkeeper.proof import command  # noqa: PLC0415

    if options.begin is not None:
        _refuse("--from", "A restore begins with the newest complete backup before --to.")
    request = command.Request(
        below=Path(options.restore) if options.restore else None, to=options.to or "latest",
        timeline=options.timeline, system_identifier=options.system_identifier, json=options.json,
        job=options.job is not None, clear=options.clear,
    )  # fmt: skip
    return command.main(config(options), request)


def _fetch(options: argparse.Namespace, config: Callable[[argparse.Namespace], Config]) -> int:
    from pathlib import Path  # noqa: PLC0415

    from walkeeper.verify import fetch_command  # noqa: PLC0415

    return fetch_command.main(
        config(options), options.what, Path(options.directory), system_identifier=options.system_identifier
    )


def _refuse(option: str, hint: str) -> None:
    from walkeeper.errors import ConfigError  # noqa: PLC0415

    raise ConfigError(f"verify {option}: not with these other options", hint=hint)
