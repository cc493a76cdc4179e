"""A server that is far away: a TCP proxy behind which everything arrives later, in both directions, and nothing is slower."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from typing import Final, Self

from tests.parts.processes import free_port

_CHUNK: Final = 64 * 1024
_WINDOW: Final = 64
"""Chunks on their way in one direction of a connection: 4 MiB, 400 MB/s at 10 ms."""


class Far:
    """Passes everything on to ``target_port`` of 127.0.0.1, ``one_way`` seconds after it came. Connecting takes no time."""

    def __init__(self, target_port: int, one_way: float) -> None:
        self.port = free_port()
        self._target = ("127.0.0.1", target_port)
        self._one_way = one_way
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
            except OSError:
                return
            self._pass_on(client, server)
            self._pass_on(server, client)

    def _pass_on(self, source: socket.socket, to: socket.socket) -> None:
        for end in (source, to):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        on_its_way: queue.Queue[tuple[float, bytes]] = queue.Queue(_WINDOW)
        threading.Thread(target=self._take, args=(source, on_its_way), daemon=True).start()
        threading.Thread(target=self._deliver, args=(on_its_way, to), daemon=True).start()

    def _take(self, source: socket.socket, on_its_way: queue.Queue[tuple[float, bytes]]) -> None:
        data = b"-"
        while data:
            try:
                data = source.recv(_CHUNK)
            except OSError:
                data = b""
            on_its_way.put((time.monotonic() + self._one_way, data))

    @staticmethod
    def _deliver(on_its_way: queue.Queue[tuple[float, bytes]], to: socket.socket) -> None:
        data = b"-"
        while data:
            due, data = on_its_way.get()
            time.sleep(max(0.0, due - time.monotonic()))
            with contextlib.suppress(OSError):  # who is gone no longer takes any; the rest is still taken off the queue
                to.sendall(data) if data else to.shutdown(socket.SHUT_WR)
