"""The agent's report in Prometheus' text format, over HTTP at ``/metrics``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from walkeeper import events
from walkeeper.core.lsn import Lsn

Report = Callable[[], dict[str, Any]]

_GAUGES: Final = (
    ("archiving", "1 while this node's agent owns the record and archives.", lambda r: r["agent"]["archiving"]),
    ("server_up", "1 while the local PostgreSQL answers.", lambda r: r["server"] is not None),
    ("record_known", "1 while the DCS answers.", lambda r: r["record_known"]),
    ("server_lsn_bytes", "How far the local server's WAL is flushed.", lambda r: _lsn(r["server"], "lsn")),
    ("server_timeline", "The local server's timeline.", lambda r: r["server"] and r["server"]["timeline"]),
    ("frontier_lsn_bytes", "Everything below is in the store.", lambda r: _lsn(r["record"], "frontier")),
    ("frontier_timeline", "The record's timeline.", lambda r: r["record"] and r["record"]["timeline"]),
    (
        "stored_lsn_bytes",
        "How far this archiver has stored; the frontier follows it.",
        lambda r: _lsn(r["agent"], "stored_up_to"),
    ),
    ("lag_bytes", "The local server's WAL that is not below the frontier.", lambda r: r["lag_bytes"]),
    ("lag_seconds", "How long the oldest complete segment has waited for the frontier.", lambda r: r["lag_seconds"]),
    ("gap_safe", "1 while this node holds everything that is not archived.", lambda r: r["gap_safe"]),
    ("gaps", "Recorded gaps in the archive.", lambda r: r["record"] and r["record"]["gaps"]),
    ("spool_bytes", "Bytes in the spool.", lambda r: r["agent"]["spool_bytes"]),
    ("spool_limit_bytes", "The spool's limit.", lambda r: r["agent"]["spool_limit"]),
    ("troubles", "What keeps the agent from its work at this moment.", lambda r: len(r["troubles"])),
)
_COUNTERS: Final = (
    ("uploaded_segments", "Segments stored since the takeover.", lambda r: r["agent"]["uploaded_segments"]),
    ("uploaded_bytes", "Bytes stored since the takeover, packed.", lambda r: r["agent"]["uploaded_bytes"]),
)


class _Collector:
    def __init__(self, report: Report) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        report = self._report()
        for name, text, read in _GAUGES:
            value = read(report)
            if value is not None:
                yield GaugeMetricFamily(f"walkeeper_{name}", text, value=float(value))
        for name, text, read in _COUNTERS:
            yield CounterMetricFamily(f"walkeeper_{name}", text, value=float(read(report)))
        refused = CounterMetricFamily("walkeeper_refused", "Refusals and failures by reason.", labels=["reason"])
        for reason, count in sorted(report["refused_total"].items()):
            refused.add_metric([reason], count)
        yield refused
        open_now = GaugeMetricFamily("walkeeper_trouble", "1 for each trouble that lasts.", labels=["what", "reason"])
        for trouble in report["troubles"]:
            open_now.add_metric([trouble["what"], trouble["reason"]], 1)
        yield open_now
        about = GaugeMetricFamily("walkeeper_info", "Version and place.", labels=["version", "scope", "member"])
        agent = report["agent"]
        about.add_metric([agent["version"], agent["scope"], agent["name"]], 1)
        yield about


def serve(host: str, port: int, report: Report) -> Callable[[], None]:
    """Begin to serve; returns what ends it. A port that is taken is a warning: archiving goes on without metrics."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(report))
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        events.warning(
            "metrics_not_served",
            listen=f"{host}:{port}",
            error=error.strerror,
            hint="Set walkeeper.agent.listen to a free port.",
        )
        return lambda: None

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return end


def _lsn(part: dict[str, Any] | None, key: str) -> int | None:
    return None if part is None or part[key] is None else int(Lsn.parse(part[key]))
