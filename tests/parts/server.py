"""A server of the tests that is one process, on 127.0.0.1."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from tests.parts.processes import Host, Process, free_port, new_directory


class Server(ABC):
    """It keeps its port and its data over ``stop`` and ``start``. As a context manager: started, then killed."""

    def __init__(self, name: str, program: Path | None, how: str) -> None:
        """``how``: how one gets the program, where there is none."""
        if program is None:
            raise FileNotFoundError(how)
        self._program = program
        self.directory = new_directory(name)
        self.port = free_port()
        self._host = Host(name, self.directory)
        self._process: Process | None = None

    @property
    def host(self) -> str:
        """As Patroni's configuration wants it."""
        return f"127.0.0.1:{self.port}"

    @property
    def running(self) -> Process:
        assert self._process is not None
        return self._process

    @abstractmethod
    def start(self) -> None:
        """Start it, and wait until it answers."""

    def stop(self) -> None:
        """A clean shutdown: connections are refused, until ``start``."""
        if self._process is not None:
            self._process.resume()
            self._process.stop()

    def freeze(self) -> None:
        """SIGSTOP: it accepts connections and answers nothing, until ``thaw``."""
        self.running.pause()

    def thaw(self) -> None:
        self.running.resume()

    def close(self) -> None:
        self._host.kill9()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
