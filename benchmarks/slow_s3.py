"""An S3 server that is far away, or lets nobody write: a TCP proxy that holds up each PUT request, or refuses it."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from typing import Final, Self

from tests.parts.processes import free_port

_CHUNK: Final = 256 * 1024
_DENIED: Final = b"<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>"
_ANSWER: Final = (
    b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_DENIED), _DENIED)
)


class SlowS3:
    """Passes everything on to ``target_port`` of 127.0.0.1; a PUT only after ``put_delay`` seconds, and none while ``denies``.

    A request begins where the client speaks after the server has answered. What follows ``100 Continue`` is a body, and
    no body of ours begins with ``PUT``.
    """

    def __init__(self, target_port: int, put_delay: float) -> None:
        self.put_delay = put_delay
        self.denies = False
        self._target = ("127.0.0.1", target_port)
        self._port = free_port()
        self._ended = False
        self._listener = socket.create_server(("127.0.0.1", self._port), backlog=64)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while not self._ended:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(self._target, 5) as server:
            server.settimeout(None)
            self._pass_on(client, server)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        answered = True
        with selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ)
            selector.register(server, selectors.EVENT_READ)
            while not self._ended:
                for key, _ in selector.select(1.0):
                    from_client = key.fileobj is client
                    data = (client if from_client else server).recv(_CHUNK)
                    if not data:
                        return
                    if from_client and answered and data.startswith(b"PUT "):
                        if self.denies:
                            _refuse(client)
                            return
                        time.sleep(self.put_delay)
                    answered = not from_client
                    (server if from_client else client).sendall(data)


def _refuse(client: socket.socket) -> None:
    """The answer, and then the rest of the request: who closes before it has read that takes the answer back."""
    client.sendall(_ANSWER)
    client.settimeout(0.3)
    with contextlib.suppress(TimeoutError):
        while client.recv(_CHUNK):
            pass
