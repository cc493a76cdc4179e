"""``walkeeper doctor --restore``: can this host restore the cluster? Looks at all that a restore needs, and writes nothing.

Exit codes are doctor's: 0 it can, 1 it cannot, 2 cannot tell.
"""

from __future__ import annotations

import json as json_module
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from walkeeper.archive.open import open_archives
from walkeeper.config import Config
from walkeeper.core import amounts
from walkeeper.core.windows import stopped_at
from walkeeper.errors import CannotRestore, CannotTell, Locked, StoreError, WalkeeperError
from walkeeper.lib.clock import wall_seconds
from walkeeper.lib.retry import with_retries
from walkeeper.lib.terminal import answered, printable, tell, wrapped
from walkeeper.restore.directory import any_store, here
from walkeeper.restore.directory.command import restore_script
from walkeeper.restore.directory.model import Plan, Request

FORMAT: Final = 1
_NOWHERE: Final = Path("/dev/null/walkeeper")
"""Nothing can lie there: what lies where a restore would go is not looked at here."""


@dataclass(frozen=True, slots=True)
class Check:
    """``state`` is doctor's word; ``hint`` says what to do."""

    name: str
    state: Literal["ok", "error", "unknown"]
    text: str
    hint: str = ""


def main(config: Config, directory: Path | None, *, system_identifier: int | None = None, json: bool) -> int:
    """Print what was found; returns the exit code."""
    found = list(look(config, directory or config.node.data_dir, system_identifier))
    states = {each.state for each in found}
    code = 1 if "error" in states else 2 if "unknown" in states else 0
    tell(_document(found, code) if json else "\n".join(_lines(found, code)))
    return answered(code)


def _document(found: list[Check], code: int) -> str:
    return json_module.dumps(
        {"format": FORMAT, "exit_code": code, "checks": [asdict(each) for each in found]}, indent=2
    )


def _lines(found: list[Check], code: int) -> Iterator[str]:
    for each in found:
        yield from wrapped(
            each.name, printable(each.text if each.state == "ok" else f"{each.state.upper()}: {each.text}")
        )
        if each.hint:
            yield from wrapped("", printable(f"HINT: {each.hint}"))
    yield ("This host can restore.", "This host cannot restore.", "Whether this host can restore cannot be told.")[code]


def look(config: Config, directory: Path | None, system_identifier: int | None = None) -> Iterator[Check]:
    """One after the other; what is behind something that fails is not looked at where it needs that."""
    root = os.geteuid() == 0
    yield (
        _checked("User", lambda: f"uid {os.geteuid()}")
        if not root
        else Check(
            "User",
            "error",
            "this is root, and PostgreSQL does not start on what root owns",
            "Run it as PostgreSQL's user.",
        )
    )
    yield _checked("Script", restore_script)
    found: list[Plan] = []
    yield _checked("Backup", lambda: _backup(config, system_identifier, found))
    if not found:
        return
    plan = found[0]
    yield _checked("Programs", lambda: _programs(plan))
    yield _checked("Key", lambda: _key(plan))
    if directory is not None:
        yield _checked("Room", lambda: _room(plan, directory))


def _checked(name: str, work: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", work())
    except (StoreError, CannotTell) as problem:
        state: Literal["error", "unknown"] = "error" if isinstance(problem, Locked) else "unknown"
        return Check(name, state, str(problem), problem.hint)
    except WalkeeperError as problem:
        return Check(name, "error", str(problem), problem.hint)


def _backup(config: Config, system_identifier: int | None, found: list[Plan]) -> str:
    """Store, archive, backups and WAL, as a restore to latest looks at them; and the server's programs."""
    plan = any_store.make_of_any(config, Request(directory=_NOWHERE, system_identifier=system_identifier))
    found.append(plan)
    if plan.damage:
        raise CannotRestore(
            f"{plan.backup.id}, and each before it from which latest is reached: {plan.damage}",
            hint="walkeeper backup takes a new one.",
        )
    stopped = stopped_at(plan.backup)
    age = "" if stopped is None else f", {amounts.duration(max(0.0, wall_seconds() - stopped.timestamp()))} old"
    where = f"{plan.evidence.store.url}/{plan.evidence.layout.root}"
    newer = "".join(
        f"; not from {each}" for each in (plan.passed_over, plan.incomplete, *plan.stores_passed_over) if each
    )
    return (
        f"{where} has {plan.backup.id}{age}, {amounts.size(plan.bytes)}; with it "
        f"everything up to {plan.end} on timeline {plan.timeline} can be restored{newer}"
    )


def _programs(plan: Plan) -> str:
    if plan.folder is None:
        raise CannotTell(
            f"no server of PostgreSQL {plan.backup.major} is here",
            hint="Install it, or set postgresql.bin_dir to where it is; files can be restored without it.",
        )
    return f"{plan.folder}, PostgreSQL {plan.backup.major}"


def _key(plan: Plan) -> str:
    """The index of the backup, and the last whole segment of the WAL: each may have been encrypted for another key."""
    for backup in plan.chain:
        with_retries(lambda backup=backup: next(iter(plan.backups.index(backup)), None))  # type: ignore[misc]
    size, history = plan.evidence.size, plan.evidence.history(plan.timeline)
    if plan.end is not None and history is not None and plan.end >= size:
        name = history.segment(plan.end // size - 1, size).name
        with_retries(
            lambda: open_archives(plan.config, to_read=True).reader().deliver(plan.evidence.layout, name, size)
        )
    return "backup and WAL are encrypted, and open" if plan.backup.suffix.endswith(".age") else "not encrypted"


def _room(plan: Plan, directory: Path) -> str:
    """What lies in the directory counts as free: --delta writes over it."""
    places = {0: directory.absolute(), **plan.tablespaces}
    sizes = here.check_room_for(plan, places).sizes
    return f"{amounts.size(sum(sizes.values()))} fit into {', '.join(map(str, places.values()))}"
