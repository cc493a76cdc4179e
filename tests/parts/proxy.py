"""A TCP proxy in a thread, to cut one party off from a server, or to make the way between them slow."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Final, Self

from tests.parts.processes import free_port

CHUNK: Final = 64 * 1024
CONNECT_TIMEOUT: Final = 5


class Proxy:
    """Listens on ``port`` of 127.0.0.1 and passes everything on to ``target_port``.

    ``cut`` resets what is connected and refuses what comes; ``hold`` accepts and passes nothing on, as a network that
    drops packets does; ``fix`` ends both. ``delay`` is in seconds, for each chunk in each direction.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = free_port()
        self.delay = 0.0
        self._flows = threading.Event()
        self._flows.set()
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._listener: socket.socket | None = None
        self._ended = False
        self._threads: list[threading.Thread] = []
        self._listen()

    def cut(self) -> None:
        self._flows.set()
        with self._lock:
            listener, self._listener = self._listener, None
            pairs = list(self._pairs)
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for pair in pairs:
            _shut(*pair)

    def hold(self) -> None:
        self._flows.clear()

    def fix(self) -> None:
        self._flows.set()
        if self._listener is None:
            self._listen()

    def close(self) -> None:
        self._ended = True
        self.cut()
        for thread in self._threads:
            thread.join(timeout=CONNECT_TIMEOUT + 5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _listen(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port))
        self._listener = listener
        self._spawn(self._accept, listener)

    def _spawn(self, target: Callable[[socket.socket], None], connection: socket.socket) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=target, args=(connection,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self._spawn(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self.target_port), CONNECT_TIMEOUT)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        pair = (client, server)
        with client, server:
            with self._lock:
                if self._listener is None:
                    return
                self._pairs.add(pair)
            try:
                self._pump(client, server)
            finally:
                with self._lock:
                    self._pairs.discard(pair)

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        with selectors.DefaultSelector() as selector, contextlib.suppress(OSError):
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while not self._ended:
                for key, _ in selector.select():
                    self._flows.wait()
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    data = source.recv(CHUNK)
                    if not data:
                        return
                    time.sleep(self.delay)
                    key.data.sendall(data)


def _shut(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
