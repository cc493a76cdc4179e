"""argparse in walkeeper's words: a call that cannot be used is one line and a hint, as all else that is wrong."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any, Final, NoReturn

from walkeeper.lib.near import nearest
from walkeeper.lib.terminal import aside, tell

ELSEWHERE: Final = (
    ("info backup-list list-backups list-backup show-backup", ("status", "backups")),
    ("check replication-status", ("doctor", "status")),
    ("backup-push", ("backup",)),
    ("backup-fetch recover", ("restore",)),
    ("verify-backup check-backup", ("verify", "verify --restore")),
    ("delete", ("expire",)),
    ("keep backup-mark", ("expire --retain",)),
    ("wal-push", ("archive-push",)),
    ("archive-get wal-fetch get-wal", ("restore-wal",)),
    ("wal-show repo-ls", ("list",)),
    ("wal-verify", ("verify",)),
    ("stanza-create receive-wal wal-receive cron", ("agent",)),
)
"""Commands of pgBackRest, Barman and WAL-G, and what does that here. docs/coming-from.md has the same rows."""

_NO_OPTION: Final = re.compile(r"unrecognized arguments: (--[a-z-]+)")
_NO_COMMAND: Final = re.compile(r"argument COMMAND: invalid choice: '([a-z-]*)'")


class Parser(argparse.ArgumentParser):
    """The commands below it are of this class, too."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """A command complains of what it does not know itself: argparse leaves that to the one above all, and its usage."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        hint = f"{self.prog} --help says what it takes."
        if match := _NO_COMMAND.match(message):
            message, hint = f"there is no command {match[1]}", self._instead(match[1]) or hint
        elif match := _NO_OPTION.match(message):
            near = nearest(match[1], self._option_string_actions)
            hint = f"Did you mean {near[0]}? {hint}" if near else hint
        self.print_usage(sys.stderr)
        self.exit(2, f"walkeeper: {message}\nHINT: {hint}\n")

    def _print_message(self, message: str, file: object = None) -> None:
        """Whether or not it can be read: ``tell`` and ``aside`` raise nothing."""
        (aside if file is sys.stderr else tell)(message, end="")

    def _instead(self, word: str) -> str:
        for theirs, ours in ELSEWHERE:
            if word in theirs.split():
                return f"What others call {word}: {' and '.join(f'walkeeper {each}' for each in ours)}."
        commands = [name for action in self._actions for name in action.choices or ()]
        near = nearest(word, commands)
        return f"Did you mean {near[0]}?" if near else ""
