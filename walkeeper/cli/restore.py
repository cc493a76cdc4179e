"""The command line of ``walkeeper restore``."""

from __future__ import annotations

import re
from collections.abc import Callable

from walkeeper.cli.values import add_json, add_store, add_system_identifier, flag, option, wrong

TYPE_CHECKING = False  # as in main
if TYPE_CHECKING:
    import argparse

    from walkeeper.config import Config


def add(command: Callable[..., argparse.ArgumentParser], config: Callable[[argparse.Namespace], Config]) -> None:
    """``command`` makes a subcommand of a name, a text and what runs it; ``config`` loads the configuration."""

    def run(options: argparse.Namespace) -> int:
        from pathlib import Path  # noqa: PLC0415

        from walkeeper.restore.directory import command as restore  # noqa: PLC0415
        from walkeeper.restore.directory.model import Request  # noqa: PLC0415

        request = Request(
            to=options.to, timeline=options.timeline, directory=Path(options.data_dir) if options.data_dir else None,
            delta=options.delta or options.use == "replica", tablespaces=tuple(options.tablespace), scope=options.scope,
            backup=options.backup, system_identifier=options.system_identifier, action=options.action,
            exclusive=options.exclusive, use=options.use,
        )  # fmt: skip
        return restore.main(config(options), request, dry_run=options.dry_run, json=options.json)

    restore = command(
        "restore", "A base backup from the archive, up to any point, into a data directory that starts.", run
    )
    option(
        restore,
        "--to",
        "TARGET",
        "latest (the default), immediate, a time like '2026-11-27 23:10' or with a zone, a position like 0/5000028, a "
        "transaction's number, or the name of a restore point; time:, lsn:, xid: or name: before it says which",
        default="latest",
    )
    flag(restore, "--exclusive", "end just before that time or transaction, and not just after")
    restore.add_argument(
        "--action",
        choices=("pause", "promote", "shutdown"),
        help="what the server does at the target (default: pause; with latest it becomes a primary)",
    )
    option(restore, "--timeline", "N", "the one to follow, or latest (default: the record's)", _timeline)
    use = restore.add_mutually_exclusive_group()
    use.add_argument(
        "--replica", dest="use", action="store_const", const="replica", help="for Patroni's create_replica_methods"
    )
    use.add_argument(
        "--bootstrap", dest="use", action="store_const", const="bootstrap", help="for Patroni's bootstrap.method"
    )
    restore.set_defaults(use="server")
    option(restore, "--data-dir", "DIRECTORY", "where to (default: postgresql.data_dir)")
    flag(restore, "--delta", "write over what is there, and fetch only what differs")
    option(
        restore,
        "--tablespace",
        "OLD=NEW",
        "where a tablespace goes; OLD is its OID, or where it lay (default: where it lay)",
        action="append",
        default=[],
    )
    option(restore, "--backup", "ID", "that backup (default: the newest complete one before the target)")
    option(restore, "--from", "SCOPE", "another cluster's archive in the same store", dest="scope")
    add_system_identifier(restore)
    add_store(restore, "the first that can restore the target")
    flag(restore, "--dry-run", "say what would be done, and write nothing")
    add_json(restore)


def _timeline(text: str) -> str:
    if text == "latest":
        return text
    if not re.fullmatch(r"[0-9]{1,20}", text) or int(text) < 1:
        raise wrong(text, "a timeline's number, or latest")
    return str(int(text))
