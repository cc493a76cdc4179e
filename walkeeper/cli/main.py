"""The command line. Nothing is imported before it is known which command needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

TYPE_CHECKING = False  # typing's own costs more than the rest of what restore-wal loads
if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from walkeeper.config import Config

PLACES = ("/etc/walkeeper.yml", "/etc/patroni.yml", "/etc/patroni/patroni.yml", "/etc/patroni/config.yml")
"""Where the configuration is looked for when neither --config nor WALKEEPER_CONFIG names it."""

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code. No traceback for anything that a user can bring about."""
    code = _main(sys.argv[1:] if arguments is None else arguments)
    try:
        from walkeeper.restore import exits  # noqa: PLC0415

        exits.hold()
    except BaseException:  # noqa: BLE001 - half an installation: the code is there
        return code
    return code


def _main(arguments: list[str]) -> int:
    if "restore-wal" in arguments:
        return _restore_wal(arguments)
    if "archive-push" in arguments:
        return _archive_push(arguments)
    try:
        if called := _plain(arguments, "callback", 3):
            from walkeeper.control import callback  # noqa: PLC0415

            return callback.main(called)
        return _run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED


def _plain(arguments: list[str], command: str, count: int) -> list[str] | None:
    """Configuration and words of a command as it is usually written, without argparse, which takes longer than all the rest."""
    match arguments:
        case [name, "-c" | "--config", config, *words] | ["-c" | "--config", config, name, *words] if name == command:
            pass
        case [name, *words] if name == command and os.environ.get("WALKEEPER_CONFIG"):
            config = os.environ["WALKEEPER_CONFIG"]
        case _:
            return None
    return [config, *words] if len(words) == count and not words[0].startswith("-") else None


def _run(arguments: list[str]) -> int:
    from walkeeper.control.paths import RunDirectoryError  # noqa: PLC0415
    from walkeeper.errors import WalkeeperError  # noqa: PLC0415
    from walkeeper.lib.terminal import answered  # noqa: PLC0415

    try:
        options = parser().parse_args(arguments)
    except SystemExit as ended:
        return cannot_tell() if ended.code else answered(0)  # a misspelt restore-wal ends here
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except WalkeeperError as error:
        _complain(str(error), error.hint)
        return error.exit_code
    except RunDirectoryError as error:
        _complain(str(error), "Set WALKEEPER_RUN_DIR to a directory that is the agent's alone.")
        return 1


def parser() -> argparse.ArgumentParser:
    """The whole command line; docs and shell completion are made from it too."""
    import argparse  # noqa: PLC0415

    from walkeeper import __version__  # noqa: PLC0415
    from walkeeper.cli import archive as archive_arguments  # noqa: PLC0415
    from walkeeper.cli import backup as backup_arguments  # noqa: PLC0415
    from walkeeper.cli import cluster as cluster_arguments  # noqa: PLC0415
    from walkeeper.cli import gap as gap_arguments  # noqa: PLC0415
    from walkeeper.cli import restore as restore_arguments  # noqa: PLC0415
    from walkeeper.cli.arguments import Parser  # noqa: PLC0415

    shared = Parser(add_help=False)
    shared.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help=f"patroni.yml with a walkeeper: section, or a file of walkeeper's own (default: $WALKEEPER_CONFIG, else the "
        f"first of {', '.join(PLACES)})",
    )
    top = Parser(
        prog="walkeeper",
        description="Gapless WAL archiving for Patroni clusters.",
        parents=[shared],
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"walkeeper {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, text: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=text, description=text.replace("%%", "%"), parents=[shared], allow_abbrev=False
        )
        added.set_defaults(run=run)
        return added

    agent = command("agent", "The daemon: one on each node, as PostgreSQL's user.", _agent)
    what = agent.add_mutually_exclusive_group()
    what.add_argument("--detach", action="store_true", help="go to the background, where there is no service manager")
    what.add_argument("--stop", action="store_true", help="end the one that --detach or a callback has started")
    what.add_argument("--reload", action="store_true", help="let the one that runs read its configuration again")
    what.add_argument("--restart", action="store_true", help="--stop, and --detach")
    agent.add_argument("--from-callback", action="store_true", help=argparse.SUPPRESS)
    callback = command("callback", "What Patroni runs; it pokes the agent, or starts one.", _callback)
    for name in ("action", "role", "scope"):
        callback.add_argument(name, metavar=name.upper())
    push = command("archive-push", "PostgreSQL's archive_command: walkeeper archive-push %%p", _push)
    push.add_argument("--without-agent", action="store_true", help=argparse.SUPPRESS)
    push.add_argument("path", metavar="PATH", help="%%p")
    restore = command("restore-wal", "PostgreSQL's restore_command: walkeeper restore-wal %%f %%p", _restore)
    restore.add_argument("name", metavar="FILE", help="%%f")
    restore.add_argument("destination", metavar="DEST", help="%%p")
    cluster_arguments.add(command, _config, config_path)
    archive_arguments.add(command, _config)
    backup_arguments.add(command, _config)
    restore_arguments.add(command, _config)
    gap_arguments.add(command, shared, _config)
    return top


def config_path(options: argparse.Namespace) -> Path:
    """--config, else $WALKEEPER_CONFIG, else the first of the usual places that is there. Raises ConfigError."""
    from pathlib import Path  # noqa: PLC0415

    from walkeeper.errors import ConfigError  # noqa: PLC0415

    named = getattr(options, "config", "") or os.environ.get("WALKEEPER_CONFIG", "")
    if named:
        return Path(named)
    for place in PLACES:
        if Path(place).exists():
            return Path(place)
    raise ConfigError(
        f"no configuration: none of {', '.join(PLACES)} is there",
        hint="Name the file with --config or WALKEEPER_CONFIG.",
    )


def _config(options: argparse.Namespace) -> Config:
    from walkeeper.config import load  # noqa: PLC0415

    config = load(config_path(options), os.environ)
    store: str | None = getattr(options, "store", None)
    return config if store is None else config.of_only(store)


def _agent(options: argparse.Namespace) -> int:
    from walkeeper.agent.process import orders, run  # noqa: PLC0415
    from walkeeper.config import load  # noqa: PLC0415

    if options.stop:
        return orders.stop(config_path(options))
    config = load(config_path(options), os.environ, for_agent=True)
    if options.reload or options.restart:
        return orders.reload(config) if options.reload else orders.restart(config)
    return run.main(config, detach=options.detach, from_callback=options.from_callback)


def _callback(options: argparse.Namespace) -> int:
    from walkeeper.control import callback  # noqa: PLC0415

    return callback.main([str(config_path(options)), options.action, options.role, options.scope])


def _restore_wal(arguments: list[str]) -> int:
    """To PostgreSQL, exit 1 means that the WAL ends here, and in recovery so does every other one up to 125: neither a
    wrong call nor a broken installation may end that way (promise P6)."""
    try:
        if asked := _plain(arguments, "restore-wal", 2):
            from walkeeper.restore import client  # noqa: PLC0415

            code = client.restore(*asked)
            if code is not None:
                return code
        options = parser().parse_args(arguments)
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except SystemExit as ended:
        return cannot_tell() if ended.code else 0
    except BaseException as problem:  # noqa: BLE001 - see above
        _complain(f"{type(problem).__name__}: {problem}", getattr(problem, "hint", ""))
        return cannot_tell()


def _restore(options: argparse.Namespace) -> int:
    from walkeeper.restore import command  # noqa: PLC0415

    return command.main(config_path(options), options.name, options.destination)


def _archive_push(arguments: list[str]) -> int:
    """0, or 1 to 125: PostgreSQL's archiver dies of every other exit, and counts no failure."""
    from walkeeper.push import client  # noqa: PLC0415

    try:
        asked = _plain(arguments, "archive-push", 1)
        if asked is None:
            options = parser().parse_args(arguments)
            run: Callable[[argparse.Namespace], int] = options.run
            return run(options)
        code = client.push(*asked)
        return _push_alone(*asked) if code is None else code
    except SystemExit as ended:
        return 2 if ended.code else 0
    except BaseException as problem:  # noqa: BLE001 - see above
        client.ignore_interrupts()
        known = hasattr(problem, "hint")
        client.complain(
            str(problem) if known else f"{type(problem).__name__}: {problem}",
            getattr(problem, "hint", "") or "PostgreSQL keeps the file and asks again.",
        )
        return 1


def _push(options: argparse.Namespace) -> int:
    from walkeeper.push import client  # noqa: PLC0415

    config = str(config_path(options))
    code = None if options.without_agent else client.push(config, options.path)
    return _push_alone(config, options.path) if code is None else code


def _push_alone(config: str, path: str) -> int:
    from pathlib import Path  # noqa: PLC0415

    from walkeeper.push import command  # noqa: PLC0415

    return command.main(Path(config), path)


def cannot_tell() -> int:
    """The exit after which PostgreSQL, whose data directory is the working directory, waits and believes nothing."""
    try:
        from walkeeper.restore import exits  # noqa: PLC0415
    except BaseException:  # noqa: BLE001 - half an installation: a server that stops is better than one that opens too early
        return 255
    return exits.cannot_tell(".")


def _complain(text: str, hint: str) -> None:
    """Where it cannot be written the exit code still says it: a traceback's 1 is the end of the WAL to PostgreSQL."""
    try:
        if sys.stderr is not None:
            sys.stderr.write(f"walkeeper: {text}\n" + (f"HINT: {hint}\n" if hint else ""))
    except OSError:
        pass
