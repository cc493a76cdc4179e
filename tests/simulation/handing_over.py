"""``archiver: command``: PostgreSQL's archiver, which hands over one file after the other, and the archive_command that it runs.

The command asks the agent, as the light client does, and does the work itself where none answers: both with walkeeper's code.
The shell script's markers are left out; tests with real processes have them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.simulation.seams import NodeProcess, StoreView, config_for
from tests.simulation.threads import Killed
from walkeeper.archive.codec import open_codec
from walkeeper.archive.open import Archives
from walkeeper.errors import AtIt, WalkeeperError
from walkeeper.push.client import ANSWER_SECONDS, LONGEST
from walkeeper.push.command import check_archive
from walkeeper.push.place import Place
from walkeeper.push.storing import Pusher

if TYPE_CHECKING:
    from tests.simulation.nodes import Node

LOOK: Final = 0.1


def hand_over(node: Node) -> None:
    """PostgreSQL's archiver, from its start on until it has nothing to do, or its command fails."""
    run = node.server_started
    for name in node.pg_wal.ready():
        if not (node.primary and node.answers and node.server_started == run):
            return
        command = Command(node, name)
        node.commands = [*(before for before in node.commands if before.done is None), command]
        while command.done is None and not command.dead and node.server_started == run:
            node.world.loop.wait(LOOK)
        if node.server_started != run:  # the archiver has died; what it ran goes on
            return
        if not command.done:
            return
        node.pg_wal.mark_done(name)


class Command(NodeProcess):
    """One run of archive_command. ``done``: whether it ended with 0; None before."""

    def __init__(self, node: Node, name: str) -> None:
        super().__init__(node.world, node, f"command {node.name}")
        self.done: bool | None = None
        self._name = name
        self._given = node.pg_wal.content(name)
        self.run(self._main)

    def _main(self) -> None:
        self.step("archives", self._name)
        try:
            if not self._asked_the_agent():
                archives = Archives(StoreView(self.world, self), "demo", None, open_codec(config_for(self.node)))
                place = Place(self.node.data, self._name)
                check_archive(archives, self.node.directory / "spool", place)
                Pusher(archives).push(place)
        except WalkeeperError as problem:
            self.loop.note(self.name, "fails", problem)
            self.done = False
            return
        self.world.invariants.acknowledged(self.node, self._name, self._given)
        self.loop.note(self.name, "has archived", self._name)
        self.done = True

    def _asked_the_agent(self) -> bool:
        """False where none answers."""
        end = self.loop.now + LONGEST
        while True:
            answered = self._ask()
            if not isinstance(answered, AtIt):
                break
            if self.loop.now > end:
                raise answered
        if isinstance(answered, WalkeeperError):
            raise answered
        return answered

    def _ask(self) -> bool | WalkeeperError:
        """One request: a yes, what the agent says instead, or False for no answer."""
        agent, answer = self.node.agent, self.node.push
        if agent is None or agent.dead or answer is None:
            return False
        replies: list[bool | WalkeeperError] = []

        def serve() -> None:
            """In the agent's process."""
            try:
                answer({"path": f"pg_wal/{self._name}", "cwd": str(self.node.data)})
                replies.append(True)
            except WalkeeperError as problem:
                replies.append(problem)
            except Killed:
                raise
            except Exception as problem:  # noqa: BLE001 - a bug
                self.world.invariants.thread_died(agent, "push", problem)

        self.step("asks the agent", self._name)
        agent.run(serve)
        until = self.loop.now + ANSWER_SECONDS
        while not replies and not agent.dead and self.loop.now < until:
            self.loop.wait(LOOK)
        return replies[0] if replies else False
