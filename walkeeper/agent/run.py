"""``walkeeper agent``: the process around the agent. Lock, log, signals, socket, metrics, systemd."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from walkeeper import __version__, events, rundir
from walkeeper.agent import metrics
from walkeeper.agent.agent import Agent
from walkeeper.agent.notify import Notifier
from walkeeper.agent.report import report
from walkeeper.clock import SystemClock
from walkeeper.config import Config, load
from walkeeper.control import AgentLock, ControlServer
from walkeeper.errors import AgentError, WalkeeperError
from walkeeper.record.base import RecordStore
from walkeeper.record.patroni import connect
from walkeeper.spool import Spool
from walkeeper.store.open import open_store

STUCK_SECONDS: Final = 120.0
"""Without a completed look for this long the watchdog is not fed: longer than every time-out of one look together."""
_WAKE: Final = 0.2


def main(config: Config, *, detach: bool = False, from_callback: bool = False) -> int:
    """Run until SIGTERM or SIGINT. 0 after a signal, 1 when a thread died or another agent runs."""
    environ = dict(os.environ)
    if from_callback and not config.agent.start_from_callback:
        return 0
    if os.geteuid() == 0:
        raise AgentError("agent: it does not run as root", hint="Run it as PostgreSQL's own user, as Patroni does.")
    spool = Spool(config.spool_directory, config.spool_limit)
    spool.open()
    if detach:
        _detach()
    _open_log(config, to_file=detach or from_callback)
    socket = Path(rundir.socket_path(config.source, os.environ))
    with AgentLock(Path(rundir.lock_path(str(socket)))) as lock, AgentLock(config.spool_directory / "lock"):
        return _Process(config, socket, lock, environ).run()


class _Process:
    """Signals only set a flag; the main thread looks at it, at the crew and at the watchdog."""

    def __init__(self, config: Config, socket: Path, lock: AgentLock, environ: Mapping[str, str]) -> None:
        self._config = config
        self._socket = socket
        self._lock = lock
        self._environ = environ
        self._signalled: int | None = None
        self._clock = SystemClock()
        self._notifier = Notifier()

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        code = 0
        while True:
            agent = Agent(self._config, open_store(self._config.store), self._connect(), self._clock)
            code = self._serve(agent)
            if self._signalled != signal.SIGHUP or code:
                break
            self._signalled = None
        events.info("agent_stopped", code=code)
        sys.stdout.flush()
        sys.stderr.flush()
        # Threads that hang inside a library must not hold up the end.
        os._exit(code)

    def _connect(self) -> RecordStore:
        os.environ.update(self._environ)  # Patroni's Config takes its PATRONI_… variables away each time
        return connect(self._config.patroni_config, self._config.name, timeout=self._config.agent.dcs_timeout)

    def _serve(self, agent: Agent) -> int:
        def answer(_: dict[str, Any]) -> Mapping[str, Any]:
            return report(agent)

        def poke(request: dict[str, Any]) -> Mapping[str, Any]:
            events.info("poked", action=str(request.get("action"))[:40], role=str(request.get("role"))[:40])
            agent.poke()
            return {}

        def died(facts: threading.ExceptHookArgs) -> None:
            agent.crew.report_death(facts.thread.name if facts.thread else "?", facts.exc_value or facts.exc_type())

        threading.excepthook = died
        control = ControlServer(self._socket, self._lock, {"status": answer, "poke": poke})
        control.open()
        events.info(
            "agent_started",
            version=__version__,
            member=self._config.name,
            scope=self._config.scope,
            store=agent.store.url,
        )
        end_metrics: Callable[[], None] = lambda: None  # noqa: E731
        if self._config.agent.listen is not None:
            end_metrics = metrics.serve(*self._config.agent.listen, lambda: report(agent))
        agent.start()
        agent.crew.start("control", control.run)
        self._notifier.ready()
        try:
            self._watch(agent)
        finally:
            self._notifier.stopping()
            control.close()
            agent.stop()
            end_metrics()
        return 1 if agent.crew.lost is not None else 0

    def _watch(self, agent: Agent) -> None:
        fed_at = 0.0
        while not agent.crew.ended.wait(_WAKE):
            if self._signalled is not None and (self._signalled != signal.SIGHUP or self._reloaded()):
                return
            now = self._clock.monotonic()
            period = self._notifier.watchdog_seconds
            if period is not None and now - fed_at > period / 3 and now - agent.seen.at < STUCK_SECONDS:
                self._notifier.alive()
                fed_at = now

    def _reloaded(self) -> bool:
        """Whether there is a new configuration to go on with; a broken one is reported and the old one kept."""
        self._signalled = None
        try:
            config = load(self._config.source, self._environ, for_agent=True)
        except WalkeeperError as problem:
            events.failure("reload_failed", problem)
            return False
        if config == self._config:
            events.info("reloaded", changed=False)
            return False
        events.info("reloaded", changed=True)
        self._config = config
        self._signalled = signal.SIGHUP
        return True

    def _on_signal(self, number: int, _frame: object) -> None:
        if self._signalled is None or number != signal.SIGHUP:
            self._signalled = number


def _open_log(config: Config, *, to_file: bool) -> None:
    path = config.agent.log_file or (config.spool_directory / "agent.log" if to_file else None)
    if path is None:
        events.to_stderr(config.agent.log_level)
        return
    events.to_file(path, config.agent.log_level)


def _detach() -> None:
    """Become a daemon: a double fork, so that no terminal and no caller is left. Returns in the daemon only."""
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)
