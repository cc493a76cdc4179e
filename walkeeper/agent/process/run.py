"""``walkeeper agent``: the process around the agent. Lock, log, signals, socket, metrics, systemd."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from walkeeper import __version__
from walkeeper.agent.agent import Agent
from walkeeper.agent.agents import Agents
from walkeeper.agent.archive_push import Pushing
from walkeeper.agent.archiver.spool import Spool
from walkeeper.agent.http.page_facts import StoreListing, facts
from walkeeper.agent.http.report import report
from walkeeper.agent.http.server import Pages, serve
from walkeeper.agent.members_look import MembersLook
from walkeeper.agent.process import background, connects
from walkeeper.agent.process.notify import Notifier
from walkeeper.agent.shared import Shared
from walkeeper.archive.open import open_all
from walkeeper.config import Config, load
from walkeeper.control import paths
from walkeeper.control.server import AgentLock, ControlServer, Handler
from walkeeper.core.about import About
from walkeeper.dcs.base import BACKUP_JOB, PROOF_JOB, RECORD, REMEMBERED
from walkeeper.dcs.patroni import connect, way
from walkeeper.errors import AgentError, ConfigError, SpoolError, WalkeeperError
from walkeeper.lib import events, heap
from walkeeper.lib.clock import SystemClock, timestamp
from walkeeper.page.document import render
from walkeeper.restore.serving import Restoring
from walkeeper.store.open import open_store

STUCK_SECONDS: Final = 120.0
"""Seconds without a completed look after which the watchdog is not fed: more than all time-outs of one look together."""
WAKE_SECONDS: Final = 0.2
SPOOL_RETRY_SECONDS: Final = 2.0
CONNECTS_SECONDS: Final = 10.0
"""Seconds from one look to the next at whether a configuration says otherwise how to connect, while no connection succeeds."""
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(config: Config, *, detach: bool = False, from_callback: bool = False) -> int:
    """Run until SIGTERM or SIGINT. 0 after a signal, 1 when a thread died or another agent runs.

    With ``detach``: start a daemon, and return when it works or cannot. Raises AgentError or ConfigError.
    """
    if from_callback and not config.agent.start_from_callback:
        return 0
    refuse_root()
    heap.return_large_blocks()
    heap.share_among_threads()
    background.open_standard_descriptors()
    if detach:
        return background.start(lambda start: _keep_detached(config, start))
    if from_callback:
        process = partial(_Process, config, background=True, waits_for_spool=True)
        return background.keep_running(lambda: process().run(), SystemClock(), refused=_refused, in_parent=lambda: None)
    return _Process(config, background=False).run()


def _served(agent: Agent, pages: Pages) -> Callable[[], None]:
    """What ends it."""
    listen = agent.config.agent.listen
    try:
        if listen is not None:
            return serve(*listen, pages)
    except AgentError as problem:
        agent.problems.report(About.METRICS_NOT_SERVED, problem)
    return lambda: None


def refuse_root() -> None:
    """Raises AgentError."""
    if os.geteuid() == 0:
        raise AgentError("agent: it does not run as root", hint="Run it as PostgreSQL's own user, as Patroni does.")


def _keep_detached(config: Config, start: background.Start) -> int:
    process = partial(_Process, config, background=True, started=start.done)
    return background.keep_running(
        lambda: process().run(), SystemClock(), refused=start.refused, in_parent=start.leave_it
    )


def _refused(problem: Exception) -> None:
    """Into the start log of the callback that wanted it."""
    events.to_stderr()
    events.failure("agent_not_started", problem)


@dataclass(frozen=True, slots=True)
class _Version:
    """A configuration and the files that it came from: Patroni's says more than what is in Config, as how the DCS is reached."""

    config: Config
    files: tuple[bytes, ...]
    dcs: tuple[str, Any] | None


def _read(config: Config) -> _Version:
    try:
        files = tuple(path.read_bytes() for path in (config.source, config.patroni_config))
        return _Version(config, files, way(config.patroni_config))
    except OSError as error:
        raise ConfigError(f"{error.filename}: it cannot be read: {error.strerror}") from None


def _say_what_is_exposed(config: Config) -> None:
    for each in config.exposed:
        events.warning("config_exposed", hint=each.hint, what=each.text)


class _Process:
    """Signals only set a flag; the main thread looks at it, at the supervisor and at the watchdog.

    ``background``: nobody sees its standard error and no service manager watches it. ``waits_for_spool``: nor is there
    anybody who starts it again, so that it waits for a spool that cannot be used yet.
    """

    def __init__(
        self,
        config: Config,
        *,
        background: bool,
        waits_for_spool: bool = False,
        started: Callable[[], None] = lambda: None,
    ) -> None:
        self._version = _read(config)
        self._background = background
        self._waits_for_spool = waits_for_spool
        self._started = started
        self._signalled: int | None = None
        self._callback = {"action": "it started this agent", "at": timestamp()} if waits_for_spool else None
        self._clock = SystemClock()
        # An agent that a callback started has Patroni's environment, and is none of the service's processes.
        self._notifier = Notifier({} if background else os.environ)

    def run(self) -> int:
        """Until the end of the process; raises only what keeps it from starting."""
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        socket = Path(paths.socket_path(self._version.config.source, os.environ))
        with AgentLock(Path(paths.lock_path(str(socket)))) as lock:
            self._spool_lock = self._lock_spool(self._version.config, wait=self._waits_for_spool)
            self._open_log(self._version.config)
            _say_what_is_exposed(self._version.config)
            agents: Agents | None = self._build(self._version.config)
            code = 0
            while agents is not None:
                code, agents = self._serve(agents, socket, lock)
        events.info("agent_stopped", code=code)
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        # Threads that hang inside a library must not hold up the end.
        os._exit(code)

    def _build(self, config: Config) -> Agents:
        shared = Shared(config, self._clock)
        return Agents(*(self._agent_of(config.of_store(name), shared) for name in config.stores))

    def _agent_of(self, config: Config, shared: Shared) -> Agent:
        scheduled = {BACKUP_JOB: config.backup_schedule, PROOF_JOB: config.backup_verify_schedule}
        jobs = {key for key, schedule in scheduled.items() if schedule}
        ways = {
            key: connect(config.patroni_config, config.name, config.agent.dcs_timeout, config.key(key))
            for key in (RECORD, REMEMBERED, *jobs)
        }
        own_jobs = {key: ways[key] for key in jobs}
        store = open_store(config.store)
        return Agent(config, store, ways[RECORD], self._clock, own_jobs, ways[REMEMBERED], shared)

    def _lock_spool(self, config: Config, *, wait: bool) -> AgentLock:
        """A second lock: two configurations may name one spool."""
        logged_at: float | None = None
        while True:
            try:
                Spool(config.spool_directory, config.spool_limit).open()
                return AgentLock(config.spool_directory / "lock")
            except (ConfigError, SpoolError) as problem:
                if not wait or self._signalled in (signal.SIGTERM, signal.SIGINT):
                    raise
                now = self._clock.monotonic()
                if logged_at is None or now - logged_at > 60:
                    events.to_stderr()
                    events.failure("spool_unusable", problem)
                    logged_at = now
                self._clock.sleep(SPOOL_RETRY_SECONDS)

    def _serve(self, agents: Agents, socket: Path, lock: AgentLock) -> tuple[int, Agents | None]:
        """Work until a signal or a death. The exit code, and the agents of a new configuration to go on with."""
        agent = agents.first

        def died(facts: threading.ExceptHookArgs) -> None:
            agent.supervisor.report_death(
                facts.thread.name if facts.thread else "?", facts.exc_value or facts.exc_type()
            )

        threading.excepthook = died
        config = self._version.config
        stores = open_all(config, agents.stores)
        restoring = Restoring(config, stores, socket.parent, self._clock, agents.connected)
        pushing = Pushing(agent, socket.parent, self._clock)
        verbs = {**self._verbs(agents), "restore": restoring.answer, "push": pushing.answer}
        control = ControlServer(socket, lock, verbs)
        control.open()
        events.info("agent_started", version=__version__, member=config.name, scope=config.scope, store=agent.store.url)
        for other in agent.beside:
            events.info("store_beside", name=other.config.store_name, store=other.store.url)
        store_listing = StoreListing(agent.archives, self._clock)
        members_look = MembersLook(agent.config, self._clock)
        pages = Pages(lambda: report(agent), lambda: render(facts(agent, store_listing, members_look)))
        end_web = _served(agent, pages)
        agents.start()
        agent.supervisor.start("control", control.run)
        restoring.start(agent.supervisor.start)
        agent.supervisor.start("ready", pushing.run)
        self._notifier.ready()
        self._started()
        following: Agents | None = None
        try:
            following = self._watch(agents)
        finally:
            if following is None:
                self._notifier.stopping()
            control.close()
            restoring.stop()
            pushing.stop()
            end_web()
            agents.stop()
        if following is not None:
            self._wait_for_the_end_of(agents)
        if agents.lost is not None:
            return 1, None
        return 0, following if self._signalled in (None, signal.SIGHUP) else None

    def _verbs(self, agents: Agents) -> dict[str, Handler]:
        """What is asked of the agent itself."""

        def status(_: dict[str, Any]) -> Mapping[str, Any]:
            read = self._read_again()
            older = None if read is None else connects.is_older(self._version.config, read.config)
            return {**report(agents.first), "last_callback": self._callback, "older_configuration": older}

        def poke(request: dict[str, Any]) -> Mapping[str, Any]:
            action = str(request.get("action"))[:40]
            events.info("poked", action=action, role=str(request.get("role"))[:40])
            self._callback = {"action": action, "at": timestamp()}
            agents.poke()
            return {}

        def takeover(request: dict[str, Any]) -> Mapping[str, Any]:
            return agents.of_store(request.get("store")).refusals.answer(request)

        return {
            "status": status,
            "poke": poke,
            "takeover": takeover,
            "stop": self._stop_by_order,
            "reload": self._reload_by_order,
        }

    def _stop_by_order(self, _: dict[str, Any]) -> Mapping[str, Any]:
        if not self._background:
            raise AgentError(
                f"agent: pid {os.getpid()} was not started by --detach or a callback",
                hint="What started it ends it, and starts it again: systemctl restart walkeeper.",
            )
        self._on_signal(signal.SIGTERM, None)
        return {}

    def _reload_by_order(self, _: dict[str, Any]) -> Mapping[str, Any]:
        self._on_signal(signal.SIGHUP, None)
        return {}

    def _watch(self, agents: Agents) -> Agents | None:
        """Until the process must end: None. Or until there is a new configuration: the agents that go by it."""
        fed_at = compared_at = 0.0
        while not agents.ended.wait(WAKE_SECONDS):
            if self._signalled == signal.SIGHUP:
                self._signalled = None
                self._notifier.reloading()
                if (following := self._reloaded()) is not None:
                    following.know_as(agents)
                    return following
                self._notifier.ready()
            elif self._signalled is not None:
                return None
            now = self._clock.monotonic()
            period = self._notifier.watchdog_seconds
            if period is not None and now - fed_at > period / 3 and now - agents.looked_at < STUCK_SECONDS:
                self._notifier.alive()
                fed_at = now
            if now - compared_at > CONNECTS_SECONDS:
                compared_at = now
                if connects.fails(agents.first) and self._connects_otherwise():
                    events.info("connects_otherwise", what="the configuration says otherwise how, and is read again")
                    self._on_signal(signal.SIGHUP, None)
        return None

    def _read_again(self) -> _Version | None:
        """None: it cannot be used at this moment."""
        try:
            return _read(load(self._version.config.source, os.environ, for_agent=True))
        except WalkeeperError:
            return None

    def _connects_otherwise(self) -> bool:
        """Whether the files have changed in how PostgreSQL and the DCS are reached or the member is called, and in nothing else
        of ours, and by them both can be reached.
        """
        read, present = self._read_again(), self._version
        if read is None or not connects.only_otherwise(present.config, read.config):
            return False
        return (read.config.node, read.dcs) != (present.config.node, present.dcs) and connects.works(
            present.config, read.config
        )

    def _reloaded(self) -> Agents | None:
        """The agents of a new configuration. None: it is the same, or it cannot be used, which is reported."""
        present = self._version
        try:
            version = _read(load(present.config.source, os.environ, for_agent=True))
            self._open_log(version.config)
            _say_what_is_exposed(version.config)
            if version == present:
                events.info("reloaded", changed=False)
                return None
            agents = self._build(version.config)
            if version.config.spool_directory != present.config.spool_directory:
                spool_lock, self._spool_lock = self._spool_lock, self._lock_spool(version.config, wait=False)
                spool_lock.release()
        except WalkeeperError as problem:
            events.failure("reload_failed", problem, goes_on="with the configuration as it was")
            return None
        events.info("reloaded", changed=True)
        self._version = version
        return agents

    def _wait_for_the_end_of(self, agents: Agents) -> None:
        """Two must not work on one spool. A thread may hang in the store for as long as the store's time-outs say."""
        until = self._clock.monotonic() + STUCK_SECONDS
        while agents.working and not agents.ended.is_set():
            if self._signalled in (signal.SIGTERM, signal.SIGINT):
                return
            if self._clock.monotonic() > until:
                agents.report_stuck()
                return
            self._notifier.alive()
            agents.stop()
            self._clock.sleep(WAKE_SECONDS)

    def _on_signal(self, number: int, _frame: object) -> None:
        if self._signalled is None or number != signal.SIGHUP:
            self._signalled = number

    def _open_log(self, config: Config) -> None:
        """Open it again at each SIGHUP, for those who rotate it themselves. Raises ConfigError."""
        unseen = self._background or sys.stderr is None
        path = config.agent.log_file or (config.spool_directory / "agent.log" if unseen else None)
        if path is None:
            events.to_stderr(config.agent.log_level)
            return
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise ConfigError(
                f"{path}: the log cannot be written: {error.strerror}", hint="agent.log_file says where it is."
            ) from None
        events.to_file(path, config.agent.log_level)
