"""``--keep``: the cluster stays up, and a small prompt breaks and fixes it."""

from __future__ import annotations

import cmd
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from examples.demo.screen import Screen
from examples.demo.stage import Stage, agent_log_path, lose_disk, walkeeper_command
from tests.parts.cluster import Node

HELP: Final = "kill NODE | lose NODE (disk too) | start NODE | switchover [NODE] | slow SECONDS | status | list | quit"


def play(stage: Stage, screen: Screen) -> None:
    """Until the user has had enough: quit, Ctrl-C, or SIGTERM to this process."""
    screen.act("The cluster is yours")
    screen.say(
        f"It lives as long as this process does. To end it all, from anywhere: kill {os.getpid()}. Here: Ctrl-C."
    )
    leader = stage.cluster.wait_leader()
    screen.copyable(
        "\n".join(
            [
                f"{patronictl()} -c {leader.config} list",
                f"WALKEEPER_RUN_DIR={leader.env['WALKEEPER_RUN_DIR']} {walkeeper_command()} status -c {leader.config}",
                f"curl -s http://127.0.0.1:{leader.metrics_port}/metrics | grep ^walkeeper",
                f"{stage.cluster.bin_dir}/psql '{stage.cluster.conninfo()}'",
                f"{stage.cluster.bin_dir}/pgbench -i -s 10 '{stage.cluster.conninfo()}'   # then -T 60 in place of -i -s 10",
                f"tail -f {agent_log_path(leader)}",
                f"kill -9 {' '.join(map(str, sorted(leader.host.pids())))}   # all of {leader.name}, as it is now",
            ]
        )
    )
    with contextlib.suppress(KeyboardInterrupt):
        if sys.stdin.isatty():
            screen.also(f"Here: {HELP}")
            Prompt(stage).cmdloop()
            return
        while True:
            signal.pause()


def patronictl() -> str:
    """The program beside this Python, else the one on the path."""
    ours = Path(sys.executable).with_name("patronictl")
    return str(ours) if ours.exists() else "patronictl"


class Prompt(cmd.Cmd):
    """What is too long for a shell's line."""

    prompt = "demo> "

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage
        self._cluster = stage.cluster

    def onecmd(self, line: str) -> bool:
        """A command that fails is not a reason to end."""
        try:
            return super().onecmd(line)
        except (TimeoutError, StopIteration, ValueError, RuntimeError) as problem:
            print(
                f"that did not work: {str(problem) or 'there are ' + ', '.join(node.name for node in self._cluster.nodes)}"
            )
            return False

    def emptyline(self) -> bool:
        return False

    def default(self, line: str) -> None:
        print(f"{line.split(maxsplit=1)[0]!r} is nothing that is known here. {HELP}")

    def do_help(self, _: str) -> None:
        print(HELP)

    def do_kill(self, name: str) -> None:
        node = self._cluster.node(name)
        print(f"{len(self._cluster.kill_host(node))} processes died. Patroni promotes when the ttl of 20 s is over.")

    def do_lose(self, name: str) -> None:
        self.do_kill(name)
        lose_disk(self._cluster.node(name))

    def do_start(self, name: str) -> None:
        node = self._cluster.node(name)
        if not node.running:
            node.start()

    def do_switchover(self, name: str) -> None:
        print(f"{self._cluster.switchover(name or None).name} leads")

    def do_slow(self, seconds: str) -> None:
        self._stage.slow(float(seconds))

    def do_status(self, _: str) -> None:
        self._run(lambda node: [*walkeeper_command().split(), "status", "-c", str(node.config)])

    def do_list(self, _: str) -> None:
        self._run(lambda node: [patronictl(), "-c", str(node.config), "list"])

    def do_quit(self, _: str) -> bool:
        return True

    do_EOF = do_quit  # noqa: N815 - cmd.Cmd's name for Ctrl-D

    def _run(self, command: Callable[[Node], list[str]]) -> None:
        node = next(node for node in self._cluster.nodes if node.running)
        subprocess.run(command(node), check=False, env=node.host.environment(node.env))
