"""The command lines of what looks at the whole cluster, or decides for it: status, doctor, takeover, pre-promote."""

from __future__ import annotations

from collections.abc import Callable

from walkeeper.cli.values import add_json, add_store, flag, option, positive, wrong

TYPE_CHECKING = False  # as in main
if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from walkeeper.config import Config


def add(
    command: Callable[..., argparse.ArgumentParser],
    config: Callable[[argparse.Namespace], Config],
    config_path: Callable[[argparse.Namespace], Path],
) -> None:
    """As in ``restore``. ``config_path``: of the file itself."""

    def watch_or_show(options: argparse.Namespace) -> int:
        from walkeeper.status import command, watch  # noqa: PLC0415

        if options.watch:
            return watch.main(config(options), options.interval, json=options.json)
        return command.main(config(options), json=options.json)

    def examine(options: argparse.Namespace) -> int:
        from pathlib import Path  # noqa: PLC0415

        loaded = config(options)
        if options.restore is not None:
            from walkeeper.restore.directory import check  # noqa: PLC0415

            directory, system = Path(options.restore) if options.restore else None, options.system_identifier
            return check.main(loaded, directory, system_identifier=system, json=options.json)
        from walkeeper.doctor import run  # noqa: PLC0415
        from walkeeper.errors import ConfigError  # noqa: PLC0415

        if options.store is not None:
            raise ConfigError(
                "doctor --store: it belongs to --restore", hint="Without both, doctor looks at all stores."
            )
        if options.system_identifier is not None:
            raise ConfigError(
                "doctor --system-identifier: it belongs to --restore",
                hint="Without both, doctor looks at this cluster.",
            )
        return run.main(loaded, json=options.json, fix=options.fix, yes=options.yes, verbose=options.verbose)

    def take_over(options: argparse.Namespace) -> int:
        from walkeeper.control import takeover  # noqa: PLC0415

        store = None if options.store is None else config(options).store_name
        return takeover.main(config_path(options), accept=options.accept, store=store)

    def before_promotion(options: argparse.Namespace) -> int:
        from walkeeper.promote import command  # noqa: PLC0415

        return command.main(config(options), lose=options.lose, stalled=options.timeout)

    status = command("status", "The whole cluster at a glance, from any node.", watch_or_show)
    add_json(status)
    flag(status, "--watch", "again and again, and what moves")
    option(status, "--interval", "SECONDS", "between looks (default: 2)", _seconds, default=2.0)
    doctor = command("doctor", "Is this cluster set up so that the promises hold; how to fix what is not.", examine)
    add_json(doctor)
    flag(doctor, "--verbose", "what is good too, one line each")
    flag(doctor, "--fix", "fix what can be fixed safely, after showing it and asking")
    flag(doctor, "--yes", "with --fix: do not ask")
    option(
        doctor,
        "--restore",
        "DIRECTORY",
        "only: can this host restore the cluster, into that directory (default: postgresql.data_dir)",
        nargs="?",
        const="",
    )
    option(doctor, "--system-identifier", "N", "with --restore: another cluster's archive under this scope", positive)
    add_store(doctor, "all; only with --restore, the first that can")
    takeover = command(
        "takeover", "The takeover that this node's agent refuses. Exit 0: none; 1: one; 2: no agent.", take_over
    )
    flag(takeover, "--accept", "let the agent's next takeover pass that refusal, where bytes do not differ")
    add_store(takeover, "the first")
    promote = command(
        "pre-promote",
        "Patroni's pre_promote, with durability: store. Exit 0: what was acknowledged is here; else it is not promoted.",
        before_promotion,
    )
    flag(
        promote,
        "--lose",
        "let this member's next promotion, within 15 minutes, lose what was acknowledged and cannot be had",
    )
    option(
        promote,
        "--timeout",
        "SECONDS",
        "without progress, before the promotion is vetoed (default: 60)",
        _seconds,
        default=60.0,
    )


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0.1 <= found <= 3600:
        raise wrong(text, "seconds, from 0.1 to 3600")
    return found
