"""The agent's report in Prometheus' text format.

docs/metrics.md is made from the tables here: ``python -m walkeeper.agent.http.metrics > docs/metrics.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from walkeeper.core.about import MEANS
from walkeeper.core.lsn import Lsn

Report = Callable[[], dict[str, Any]]
_Value = str | Callable[[dict[str, Any]], Any]
"""Where it stands in the report, or what is made of that; None is not known."""

_GAUGES: Final[tuple[tuple[str, str, _Value], ...]] = (
    ("archiving", "1 while this node's agent owns the record and archives.", "agent.archiving"),
    ("look_age_seconds", "Since the agent last looked at everything.", "agent.looked_seconds_ago"),
    ("server_up", "1 while the local PostgreSQL answers.", lambda r: r["server"] is not None),
    ("server_lsn_bytes", "How far the local server's WAL is flushed.", "server.lsn"),
    ("server_timeline", "The local server's timeline.", "server.timeline"),
    ("record_known", "1 while the DCS answers.", "record_known"),
    ("frontier_lsn_bytes", "The record's frontier: everything below is in the store.", "record.frontier"),
    ("frontier_timeline", "The frontier's timeline.", "record.timeline"),
    ("stored_lsn_bytes", "How far this node's archiver has stored; the frontier follows it.", "agent.stored_up_to"),
    ("last_commit_timestamp_seconds",
     "When the last commit was made that is archived: a restore may stop at any time before it. On nodes that know it.",
     "last_commit.time"),
    ("lag_bytes", "The local server's WAL that is not below the frontier.", "lag_bytes"),
    ("lag_seconds",
     "How long the oldest WAL that is not below the frontier has waited; without the tail, the oldest complete segment.",
     "lag_seconds"),
    ("pg_wal_disk_bytes", "The size of pg_wal's file system.", "disk.total"),
    ("pg_wal_disk_free_bytes", "What is free there, for who is not root.", "disk.free"),
    ("pg_wal_disk_growth_bytes", "By how many bytes a second that has shrunk in the last minutes; below 0 where it has grown.",
     "disk.growth"),
    ("pg_wal_disk_seconds_left", "Until it is full, if it goes on like that; left out where it does not shrink.",
     "disk.seconds_left"),
    ("gap_safe", "1 while this node holds everything that is not archived.", "gap_safe"),
    ("gaps", "Recorded gaps in the archive.", "record.gaps"),
    ("suspected_bytes", "WAL that is suspected lost: nobody who answered has it. 0 on nodes that do not archive.",
     lambda r: r["suspected"]["bytes"] if r["suspected"] else 0),
    ("archive_command_fails", "1 while PostgreSQL's last call of archive_command failed; on a server that runs it.",
     "archive_command.fails"),
    ("archive_command_failed_calls", "Calls of archive_command that failed, as pg_stat_archiver counts them.",
     "archive_command.failed_count"),
    ("backups_complete", "Base backups that restore; as the next ones, on the node that archives, once there was one.",
     "backups.complete"),
    ("backups_damaged", "Base backups that are damaged, and do not count.", "backups.damaged"),
    ("backup_attempts", "Base backups that run, or that ended early.", "backups.attempts"),
    ("backup_age_seconds", "Since the newest complete base backup stopped, by its server's clock.", "backups.newest.age_seconds"),
    ("backup_proved_age_seconds", "Since `walkeeper verify --restore` last restored one for real, and all was well.",
     "backups.proved.age_seconds"),
    ("backup_overdue", "1 where the newest two moments of `backup.schedule` have passed since the newest complete base backup.",
     "backups.overdue"),
    ("proof_overdue",
     "1 where those of `backup.verify_schedule` have passed since the last proof, or without one since the oldest backup.",
     "backups.proof_overdue"),
    ("window_start_lsn_bytes", "From which position on everything can be restored.", "backups.window.start_lsn"),
    ("window_end_lsn_bytes", "Up to which position.", "backups.window.end_lsn"),
    ("window_seconds", "How far back everything can be restored.", "backups.window.seconds"),
    ("window_short", "1 where that is less than `backup.keep`, although there are backups that are old enough.", "backups.short"),
    ("expire_waits_seconds",
     "For how long `walkeeper expire` has had something to do: a backup that `backup.keep` no longer needs, or what it gave up.",
     "backups.expire_waits_seconds"),
    ("commits_wait_seconds",
     "With `durability: store`, on the node that streams: how long the oldest WAL that commits wait for has waited.",
     lambda r: 0 if _found(r, "durability.state") == "degraded" else _found(r, "durability.waited_seconds")),
    ("commits_waiting",
     "Sessions whose commit waits for it; left out where the agent's role may not see that (`pg_read_all_stats`).",
     "durability.waiting_commits"),
    ("acknowledged_lsn_bytes",
     "Up to where commits return, because the store has it (or as `degrade_after` says); left out where nothing streams.",
     "durability.acknowledged"),
    ("durability_degraded", "1 while commits go on without the store.",
     lambda r: state == "degraded" if (state := _found(r, "durability.state")) else None),
    ("spool_bytes", "Bytes in the spool.", "agent.spool_bytes"),
    ("spool_limit_bytes", "The spool's limit.", "agent.spool_limit"),
    ("troubles", "How many things keep the agent from its work at this moment.", lambda r: len(r["troubles"])),
)  # fmt: skip
_OF_EACH_STORE: Final = frozenset(
    ["record_known", "frontier_lsn_bytes", "frontier_timeline", "lag_bytes", "lag_seconds", "gaps", "suspected_bytes", "troubles",
     "backups_complete", "backups_damaged", "backup_attempts", "backup_age_seconds", "backup_overdue", "window_start_lsn_bytes",
     "window_end_lsn_bytes", "window_seconds", "window_short", "expire_waits_seconds"]
)  # fmt: skip
"""Of those, what is known of every store; the first, which may be the only one, has no label."""
_COUNTERS: Final[tuple[tuple[str, str, str], ...]] = (
    ("uploaded_segments", "Segments stored since the takeover.", "agent.uploaded_segments"),
    ("uploaded_bytes", "Bytes stored since the takeover, packed.", "agent.uploaded_bytes"),
    ("tail_pieces", "Pieces of open segments stored since the takeover.", "agent.tail_pieces"),
    ("tail_bytes", "Bytes of such pieces stored since the takeover, packed.", "agent.tail_bytes"),
)
_REFUSED: Final = ("refused", "Refusals and failures by reason, since the agent started.")
_BEHIND: Final = ("member_behind_bytes", "How much of the leader's WAL a member lacks, as Patroni's keys say.")
_PROBLEM: Final = ("trouble", "1 for each problem that lasts.")
_INFO: Final = ("info", "Always 1; what the labels say.")


class Collector:
    def __init__(self, report: Report) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        report = self._report()
        beside = [({"store": store["name"]}, store) for store in report["stores"]]
        for name, text, read in _GAUGES:
            family = GaugeMetricFamily(f"walkeeper_{name}", text)
            for labels, part in (({}, report), *(beside if name in _OF_EACH_STORE else ())):
                value = read(part) if callable(read) else _found(part, read)
                if value is not None:
                    family.add_sample(family.name, labels, _number(value))
            if family.samples:
                yield family
        for name, text, read in _COUNTERS:
            yield CounterMetricFamily(f"walkeeper_{name}", text, value=float(_found(report, read)))
        refused = CounterMetricFamily(f"walkeeper_{_REFUSED[0]}", _REFUSED[1], labels=["reason"])
        for reason, count in sorted(report["refused_total"].items()):
            refused.add_metric([reason], count)
        yield refused
        lasting = GaugeMetricFamily(f"walkeeper_{_PROBLEM[0]}", _PROBLEM[1])
        for labels, part in (({}, report), *beside):
            for problem in part["troubles"]:
                about = {"what": problem["what"], "reason": problem["reason"]}
                lasting.add_sample(lasting.name, {**about, **labels}, 1)
        yield lasting
        behind = GaugeMetricFamily(f"walkeeper_{_BEHIND[0]}", _BEHIND[1], labels=["member"])
        for member, lacks in sorted(report["members_behind"].items()):
            if lacks is not None:
                behind.add_metric([member], lacks)
        yield behind
        info = GaugeMetricFamily(f"walkeeper_{_INFO[0]}", _INFO[1], labels=["version", "scope", "member", "archiver"])
        agent = report["agent"]
        info.add_metric([agent["version"], agent["scope"], agent["name"], agent["archiver"]], 1)
        yield info


def exposition(report: Report, accept: str) -> tuple[str, bytes]:
    """Of ``/metrics``: content type and body, in the format that the ``Accept`` header asks for."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(report))
    encode, content_type = choose_encoder(accept)
    return content_type, encode(registry)


def _found(report: dict[str, Any], path: str) -> Any:
    """None where any part of it is."""
    found: Any = report
    for name in path.split("."):
        found = None if found is None else found[name]
    return found


def _number(value: Any) -> float:
    """A position counts in bytes, a time since 1970."""
    if not isinstance(value, str):
        return float(value)
    return int(Lsn.parse(value)) if "/" in value else datetime.fromisoformat(value).timestamp()


# --- docs/metrics.md ------------------------------------------------------------------------------------------------

_HEAD: Final = """\
# Metrics

Each agent serves its own at `http://HOST:PORT/metrics` (`agent.listen`, by default `127.0.0.1:8018`), in Prometheus' text
format. What the agent does not know at that moment is left out, not guessed: alert on `absent()` too. Positions (LSNs) are
bytes from the beginning of WAL, as `pg_wal_lsn_diff(lsn, '0/0')` gives them.

`/health` answers 200 while nothing keeps the agent from its work, and 503 with the problems as JSON (`troubles`) otherwise.
`/ready` answers 200 while the agent looks at everything and PostgreSQL and the DCS answer it, and 503 with the reasons as JSON
otherwise. `/` is the status page.

What has a label `store` is there for every store of a cluster that has several ([stores.md](stores.md)): without the label for
the first, or the only one.

| name | kind | labels | |
| --- | --- | --- | --- |
"""
_TAIL: Final = """
## What to alert on

[examples/prometheus/alerts.yml](../examples/prometheus/alerts.yml) has these rules and more, each with a link to what to
do ([operations.md](operations.md)), and [examples/grafana/walkeeper.json](../examples/grafana/walkeeper.json) is a
dashboard. Each that is critical is here.

| | alerts |
| --- | --- |
| WAL is lost, or may be | `WalkeeperGap`, `WalkeeperWalMissing`, `WalkeeperStoredObject` |
| WAL is refused, or the record is, until a person has looked | `WalkeeperRefused`, `WalkeeperRecordUnreadable` |
| a server takes writes, and is not Patroni's leader | `WalkeeperTwoPrimaries` |
| commits wait for the store | `WalkeeperCommitsWait` |
| commits should wait for the store, and may return before | `WalkeeperDegraded`, `WalkeeperTwoAcknowledge` |
| WAL waits | `WalkeeperNoOwner`, `WalkeeperFrontierStands`, `WalkeeperLagSeconds`, `WalkeeperLagBytes`, `WalkeeperStoreTrouble` |
| WAL would be lost at the next failover | `WalkeeperNotGapSafe` |
| the disk of pg_wal fills, or has too little room | `WalkeeperDiskFills`, `WalkeeperDiskReserve`, `WalkeeperDiskShort` |
| a backup failed, or is late | `WalkeeperBackupFails`, `WalkeeperBackupOverdue`, `WalkeeperBackupTooOld`, `WalkeeperNoBackup` |
| a backup is not whole, or less can be restored than is promised | `WalkeeperBackupDamaged`, `WalkeeperWindowShort` |
| `expire` after a scheduled backup failed, or has not deleted what it should | `WalkeeperBackupFails`, `WalkeeperExpireLate` |
| a scheduled proof failed, or is late | `WalkeeperProofFails`, `WalkeeperProofOverdue` |

What a command that a timer runs has found is seen in the archive, whoever ran it and wherever:

- `expire`: what should have gone is still there (`walkeeper_expire_waits_seconds`), be it that it failed, was not run, or may
  not delete.
- `verify --deep` and `verify --restore`: a backup in which they found damage counts as damaged
  (`walkeeper_backups_damaged`), and the last proof grows old (`walkeeper_backup_proved_age_seconds`).
- `verify`: the agent that archives looks at the WAL in the store all the time (`agent.read_back`), and what it finds is a
  problem (`WalkeeperStoredObject`). That a timer's `verify` failed, or has not run, its unit tells: with node_exporter's
  `--collector.systemd`, `node_systemd_unit_state{name="walkeeper-verify.service", state="failed"} == 1` and
  `time() - node_systemd_timer_last_trigger_seconds{name="walkeeper-verify.timer"} > 2 * 86400`.

### Without Prometheus

walkeeper sends nothing to anybody. What tells somebody is what runs it, or looks at it:

- `walkeeper status` in a timer, on one node: exit 0 only if everything is known and well, a backup that failed or is late
  included. With systemd, `OnFailure=` of that unit sends the mail; with cron, a script that prints what it said where the
  exit is not 0.
- A command that a timer runs by itself (`walkeeper backup`, `verify`, `verify --restore`, `expire --apply`) says by its exit
  code that it failed, and so by its unit's `OnFailure=`.
- `/health` of each agent, for whatever asks URLs: 503 with the problems, a scheduled backup that failed among them.
- The agent's log: a problem is a line with `reason=` and a hint, once a minute while it lasts (`backup_job`, `proof_job`,
  `archiver_gap`).
"""

_WHAT: Final = """
## What problems are about

Each problem that lasts is in `walkeeper status`, on the page, in `/health`, in the log as the first word of a line (with `_over`
behind it when it has ended), and in `walkeeper_trouble` as the label `what`. Its `reason` says why.

| `what` | |
| --- | --- |
"""


def reference() -> str:
    """The document."""
    rows = [
        (f"walkeeper_{name}", "gauge", "`store`" if name in _OF_EACH_STORE else "", text) for name, text, _ in _GAUGES
    ]
    rows += [(f"walkeeper_{name}_total", "counter", "", text) for name, text, _ in _COUNTERS]
    rows += [
        (f"walkeeper_{_REFUSED[0]}_total", "counter", "`reason`", _REFUSED[1]),
        (f"walkeeper_{_PROBLEM[0]}", "gauge", "`what`, `reason`, `store`", _PROBLEM[1]),
        (f"walkeeper_{_BEHIND[0]}", "gauge", "`member`", _BEHIND[1]),
        (f"walkeeper_{_INFO[0]}", "gauge", "`version`, `scope`, `member`, `archiver`", _INFO[1]),
    ]
    table = "".join(f"| `{name}` | {kind} | {labels} | {text} |\n" for name, kind, labels, text in rows)
    words = "".join(f"| `{what}` | {text} |\n" for what, text in MEANS.items())
    return f"{_HEAD}{table}{_TAIL}{_WHAT}{words}"


if __name__ == "__main__":
    print(reference(), end="")  # noqa: T201
