"""The agents of one process: one for each of the cluster's stores, which begin and end together."""

from __future__ import annotations

import threading

from walkeeper.agent.agent import Agent
from walkeeper.dcs.base import RECORD, REMEMBERED, RecordStore
from walkeeper.dcs.furthest import read_together
from walkeeper.errors import AgentError, ConfigError


class Agents:
    """``first`` is the first store's: it answers archive-push, and does what the cluster does once."""

    def __init__(self, first: Agent, *others: Agent) -> None:
        self.first = first
        first.beside = others
        self._all = (first, *others)
        self.stores = [agent.store for agent in self._all]
        """As they are open."""
        self.ended = first.shared.ended
        """Set when the process must end."""

    def start(self) -> None:
        """Raises ConfigError where a spool cannot be used."""
        for agent in self._all:
            agent.start()

    def poke(self) -> None:
        """As ``Agent.poke``."""
        for agent in self._all:
            agent.poke()

    def stop(self) -> None:
        """All at the same time, each as ``Agent.stop``."""
        threads = [threading.Thread(target=agent.stop, daemon=True) for agent in self._all]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def of_store(self, name: object) -> Agent:
        """None is the first's. Raises AgentError."""
        for agent in self._all:
            if name in (None, agent.config.store_name):
                return agent
        there = ", ".join(agent.config.store_name for agent in self._all)
        raise AgentError(f"store {str(name)[:40]!r}: there is none of that name", hint=f"There are {there}.")

    def know_as(self, before: Agents) -> None:
        """Which signs of life are this cluster's, as the agents of the same stores did."""
        watchers = {agent.config.store_name: agent.watcher for agent in before._all}
        for agent in self._all:
            agent.watcher = watchers.get(agent.config.store_name, agent.watcher)

    def connected(self, key: str) -> RecordStore:
        """The way to the records, read as one, or to what is remembered beside the first's. Raises ConfigError."""
        if key == RECORD:
            return read_together([agent.records for agent in self._all])
        records = self.first.remembering.records
        if key != REMEMBERED or records is None:
            raise ConfigError(f"{key}: this agent has no way to that key in the DCS")
        return records

    @property
    def working(self) -> bool:
        """Whether any thread still runs."""
        return any(agent.supervisor.working for agent in self._all)

    @property
    def lost(self) -> str | None:
        """The thread that died, if one did."""
        return next((agent.supervisor.lost for agent in self._all if agent.supervisor.lost is not None), None)

    @property
    def looked_at(self) -> float:
        """The moment of the monotonic clock since when each has completed a look."""
        return min(agent.observer.observation.at for agent in self._all)

    def report_stuck(self) -> None:
        """Threads that were told to end did not: the process must end."""
        for agent in self._all:
            if agent.supervisor.working:
                agent.supervisor.report_stuck()
