"""Bounds that the SDK does not know: a total time for each call, and a size for each answer that is read as a whole.

Reaches into botocore, which lets nobody choose its connections; the tests of a dripping server notice when that no longer works.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)
from urllib3.exceptions import HTTPError

from walkeeper.lib.cutoff import Cutoff, Limit
from walkeeper.store.base import SLOWEST

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MAX_ANSWER: Final = 4 * 1024**2
"""Bytes of an answer that is not an object: a page of a thousand names, or an error. Parsed it takes some thirty times that."""

_cutoff: Final = Cutoff("s3")
_here: Final = threading.local()


@contextlib.contextmanager
def total_time(seconds: float) -> Iterator[Limit]:
    """For the calls of this thread: each connection that they use is shut down when that time is over, and what the bytes of
    objects that came or went meanwhile may take at the slowest."""
    with _cutoff.within(seconds) as limit:
        _here.limit = limit
        try:
            yield limit
        finally:
            _here.limit = None


def moved(count: int) -> None:
    """So many bytes of an object came or went in this thread's call: it has earned the time for them."""
    limit: Limit | None = getattr(_here, "limit", None)
    if limit is not None:
        limit.extend(count / SLOWEST)


def bound(client: S3Client) -> S3Client:
    """The client, with connections and answers that are held to these bounds."""
    endpoint: Any = client._endpoint  # type: ignore[attr-defined]  # noqa: SLF001 - see above
    session = endpoint.http_session
    # The dictionary that all of its pools look into, those to a proxy, too.
    session._pool_classes_by_scheme.update({"http": _Pool, "https": _TlsPool})  # noqa: SLF001
    endpoint.http_session = _Session(session)
    return client


class _Watched:
    """Tells the limit of the call which sockets it waits on: one that connects, perhaps to a proxy, or that was kept."""

    sock: Any

    def _new_conn(self) -> Any:
        return _watched(super()._new_conn())  # type: ignore[misc]

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        _watched(self.sock)

    def send(self, data: Any) -> None:
        """A block of the body, or what comes before it."""
        super().send(data)  # type: ignore[misc]
        moved(len(data))

    def request(self, *args: Any, **kwargs: Any) -> Any:
        _watched(self.sock)
        return super().request(*args, **kwargs)  # type: ignore[misc]


def _watched(connection: Any) -> Any:
    limit: Limit | None = getattr(_here, "limit", None)
    if limit is not None and connection is not None:
        limit.watch(connection)
    return connection


class _Connection(_Watched, AWSHTTPConnection):  # type: ignore[misc] # as botocore itself mixes it
    """In the clear."""


class _TlsConnection(_Watched, AWSHTTPSConnection):  # type: ignore[misc]
    """With TLS."""


class _Pool(AWSHTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(AWSHTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _Session:
    """In place of botocore's own, which reads an answer of any size into memory before it looks at it."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def send(self, request: Any) -> Any:
        streams, request.stream_output = request.stream_output, True
        answer = self._session.send(request)
        answer.raw = _Raw(answer.raw)
        if not streams:
            _ = answer.content  # read to its end, so that the connection can be used again
        return answer

    def close(self) -> None:
        self._session.close()


class _Raw:
    """urllib3's answer. Who streams an object reads it piece by piece, and counts; ``stream`` is for what is read whole."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[bytes]:
        length = 0
        for piece in self._raw.stream(*args, **kwargs):
            length += len(piece)
            if length > MAX_ANSWER:
                self._raw.close()
                raise HTTPError(f"an answer of more than {MAX_ANSWER} bytes, which no listing has")
            yield piece
