"""The command: ``python -m examples.demo``, which is what ``make demo`` runs."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from types import FrameType
from typing import Final, NoReturn, cast

from examples.demo.ending import Ending
from examples.demo.play import play
from examples.demo.screen import Screen, open_screen
from examples.demo.stage import Stage, StoreKind
from examples.demo.story import SHORT, Plan, Story
from tests.parts.processes import end_run

PROVEN: Final = 0
NOT_PROVEN: Final = 1
INTERRUPTED: Final = 130

ROOT: Final = """demo: PostgreSQL does not run as root.
HINT: make demo runs it as another user; so does tools/as-user COMMAND."""


def main(arguments: list[str] | None = None) -> int:
    """0 proven, 1 not, 130 interrupted. Nothing is left running in any case, nor any file."""
    options = parser().parse_args(arguments)
    if os.geteuid() == 0:
        print(ROOT, file=sys.stderr)
        return NOT_PROVEN
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    screen = open_screen(plain=options.plain)
    try:
        return perform(options, screen)
    except KeyboardInterrupt:
        _ignore_signals()
        screen.say("Interrupted: everything is being ended.", "alarm")
        return INTERRUPTED
    finally:
        _ignore_signals()
        end_run()


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m examples.demo",
        description="A three-node Patroni cluster loses its primary while the WAL archive is behind; the archive loses nothing.",
    )
    made.add_argument("--keep", action="store_true", help="leave the cluster up afterwards, for playing")
    made.add_argument("--store", choices=("directory", "s3"), default="directory", help="s3: a SeaweedFS of its own")
    made.add_argument("--plain", action="store_true", help="no colour and no live line, as when it is not a terminal")
    made.add_argument("--short", action="store_true", help="less load: for a first try, and for the tests")
    return made


def perform(options: argparse.Namespace, screen: Screen) -> int:
    stage = Stage(cast(StoreKind, options.store))
    story = Story(stage, screen, SHORT if options.short else Plan())
    ending = Ending(story, keep=options.keep)
    try:
        story.tell()
        ending.tell()
    except TimeoutError as problem:
        screen.say(f"NOT PROVEN. This did not come about: {str(problem).partition(chr(10))[0]}", "bad")
        screen.copyable(stage.last_words())
        return NOT_PROVEN
    proven = ending.verdict()
    if options.keep:
        play(stage, screen)
    return PROVEN if proven else NOT_PROVEN


def _ignore_signals() -> None:
    """The end itself is not interrupted; if this process is killed, its guard does the rest."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
