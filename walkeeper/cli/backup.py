"""The command lines of what makes base backups and gives them up: backup, backups, expire, pins."""

from __future__ import annotations

from collections.abc import Callable

from walkeeper.cli.values import add_json, add_store, add_system_identifier, flag, option, positive, wrong

TYPE_CHECKING = False  # as in main
if TYPE_CHECKING:
    import argparse
    from datetime import datetime, timedelta

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
    _add_expire(command, config)


def _add_expire(
    command: Callable[..., argparse.ArgumentParser], config: Callable[[argparse.Namespace], Config]
) -> None:
    import argparse  # noqa: PLC0415

    def run(options: argparse.Namespace) -> int:
        from walkeeper.errors import ConfigError  # noqa: PLC0415
        from walkeeper.expire import command as expire  # noqa: PLC0415
        from walkeeper.expire import words  # noqa: PLC0415

        if bool(options.retain) != (options.until is not None):
            raise ConfigError("expire: --retain and --until belong together", hint="--retain ID --until DATE")
        if options.retain:
            return words.retain(config(options), options.retain, options.until)
        if options.release:
            return words.retain(config(options), options.release, None)
        if options.revoke:
            return words.revoke(config(options))
        request = expire.Request(
            apply=options.apply, number=options.keep_number, grace=options.grace, json=options.json, job=options.job
        )
        return expire.main(config(options), request)

    def run_pins(options: argparse.Namespace) -> int:
        from walkeeper.expire import words  # noqa: PLC0415

        return words.pins(config(options), options.release, json=options.json)

    expire = command("expire", "What of backups and WAL may go, and what remains; with --apply let it go.", run)
    flag(expire, "--apply", "record the floor, and delete below those whose grace is over")
    option(expire, "--keep-number", "N", "so many full backups stay, whatever their age", positive)
    option(expire, "--grace", "AGE", "before anything is deleted (default: 1h, the least)", _grace, default="1h")
    expire.add_argument("--job", metavar="ID", help=argparse.SUPPRESS)
    add_json(expire)
    word = expire.add_mutually_exclusive_group()
    option(
        word,
        "--retain",
        "ID",
        "this backup, or newest for the newest full one, stays for longer, with its own WAL only: see --until",
    )
    option(word, "--release", "ID", "withdraw --retain: it stays no longer than others")
    flag(word, "--revoke", "take the newest floor back, while its grace lasts")
    option(expire, "--until", "DATE", "a day in UTC, like 2027-11-28; 365d from now; or forever", _until)
    add_store(expire, "the first")
    pins = command("pins", "Who restores or takes a backup at this moment, so that expire waits.", run_pins)
    option(pins, "--release", "ID", "let it go: its restore is over, or given up")
    add_json(pins)
    add_store(pins, "the first")


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


def _grace(text: str) -> float:
    from walkeeper.core.floor import LEAST_GRACE  # noqa: PLC0415
    from walkeeper.lib.units import Seconds  # noqa: PLC0415

    try:
        found = Seconds.parse(text)
    except ValueError:
        found = Seconds(0)
    if found < LEAST_GRACE:
        raise wrong(text, "a duration of 1h or more, such as 1d")
    return found


def _until(text: str) -> datetime | timedelta:
    from walkeeper.expire.words import parse_until  # noqa: PLC0415

    try:
        return parse_until(text)
    except ValueError:
        raise wrong(text, "a day such as 2027-11-28, a duration such as 365d, or forever") from None
