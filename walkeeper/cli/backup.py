"""The command lines of ``walkeeper backup`` and ``walkeeper backups``."""

from __future__ import annotations

from collections.abc import Callable

from walkeeper.cli.values import add_json, add_store, add_system_identifier, flag, option, wrong

TYPE_CHECKING = False  # as in main
if TYPE_CHECKING:
    import argparse

    from walkeeper.config import Config


def add(command: Callable[..., argparse.ArgumentParser], config: Callable[[argparse.Namespace], Config]) -> None:
    """``command`` makes a subcommand of a name, a text and what runs it; ``config`` loads the configuration."""
    import argparse  # noqa: PLC0415

    def take(options: argparse.Namespace) -> int:
        from walkeeper.backup import command as backup  # noqa: PLC0415

        request = backup.Request(
            incremental=options.incremental,
            resume=options.resume,
            job=options.job,
            max_rate=options.max_rate,
            spread=options.checkpoint == "spread",
        )
        return backup.main(config(options), request)

    def list_them(options: argparse.Namespace) -> int:
        from walkeeper.backup import list_command  # noqa: PLC0415

        return list_command.main(config(options), system_identifier=options.system_identifier, json=options.json)

    backup = command("backup", "Take a base backup of this member's server into the store.", take)
    flag(
        backup,
        "--incremental",
        "only what has changed since the newest complete one (PostgreSQL 17 and newer); a full one where that cannot be",
    )
    option(backup, "--resume", "ID", "begin an attempt again, and send only what is not stored yet", _id)
    backup.add_argument("--job", metavar="ID", help=argparse.SUPPRESS)
    option(
        backup, "--max-rate", "SIZE", "a second, as the server sends it: 32kB to 1GB (default: backup.max_rate)", _rate
    )
    backup.add_argument(
        "--checkpoint", choices=("fast", "spread"), default="fast", help="how the server makes it first (default: fast)"
    )
    add_store(backup, "the first")
    backups = command("backups", "Which base backups there are, and what each restores.", list_them)
    add_json(backups)
    add_system_identifier(backups)
    add_store(backups, "all")


def _rate(text: str) -> int:
    from walkeeper.lib.units import Rate  # noqa: PLC0415

    try:
        return Rate.parse(text)
    except ValueError:
        raise wrong(text, "a size from 32kB to 1GB, such as 50MB, or off") from None


def _id(text: str) -> str:
    from walkeeper.core.backup import BackupId  # noqa: PLC0415
    from walkeeper.errors import BadBackup  # noqa: PLC0415

    try:
        return str(BackupId.parse(text))
    except BadBackup:
        raise wrong(text, "the id of an attempt, as walkeeper backups lists them") from None
