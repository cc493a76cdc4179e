"""Makes the dashboard: python -m examples.grafana > examples/grafana/walkeeper.json"""

# ruff: noqa: E501 - a query a line

from __future__ import annotations

import json
from itertools import count
from typing import Any, Final

SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
INFO: Final = 'on (job, instance) group_left (scope, member) walkeeper_info{scope=~"$scope"}'
# Every agent says it of every member, so the label is the member it speaks of.
BEHIND: Final = 'max by (member) (walkeeper_member_behind_bytes and on (job, instance) walkeeper_info{scope=~"$scope"})'


TAKEOVERS: Final = {
    "name": "Takeovers", "datasource": SOURCE, "enable": True, "iconColor": "purple", "step": "60s", "titleFormat": "{{member}} took over",
    "expr": f"(walkeeper_archiving == 1 unless walkeeper_archiving offset 1m == 1) * {INFO}",
}  # fmt: skip


def of_scope(expression: str) -> str:
    """With the labels that walkeeper_info has, and only those of the chosen clusters."""
    return f"({expression}) * {INFO}"


_ids = count(1)


def panel(
    kind: str, title: str, at: tuple[int, int, int, int], unit: str, *targets: tuple[str, str], **options: Any
) -> dict[str, Any]:
    """``at``: x, y, width, height in Grafana's grid of 24. ``targets``: expression and legend."""
    x, y, width, height = at
    return {
        "id": next(_ids),
        "type": kind,
        "title": title,
        "description": options.pop("description", ""),
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": width, "h": height},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, **options.pop("defaults", {})}, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + n), "expr": expr, "legendFormat": legend, "datasource": SOURCE}
            for n, (expr, legend) in enumerate(targets)
        ],
    }


def limits(*steps: tuple[float | None, str]) -> dict[str, Any]:
    return {"thresholds": {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]}}


def yes_no(yes: str, no: str) -> dict[str, Any]:
    shown = {"1": {"text": yes, "color": "green"}, "0": {"text": no, "color": "red"}}
    return {"mappings": [{"type": "value", "options": shown}], "max": 1}


def dashboard() -> dict[str, Any]:
    late = limits((None, "green"), (60, "orange"), (300, "red"))
    none = limits((None, "green"), (1, "red"))
    last = {"reduceOptions": {"calcs": ["lastNotNull"]}}
    panels = [
        panel("stat", "Archives", (0, 0, 4, 4), "none", (f'{of_scope("walkeeper_archiving")} == 1', "{{scope}}: {{member}}"),
              description="The node whose agent owns the record.", textMode="name", **last),
        panel("stat", "Behind", (4, 0, 4, 4), "s", (f'max by (scope, store) ({of_scope("walkeeper_lag_seconds")})', "{{scope}} {{store}}"),
              description="How long the oldest WAL has waited for the frontier.", defaults=late, **last),
        panel("stat", "Not archived", (8, 0, 4, 4), "bytes", (f'max by (scope, store) ({of_scope("walkeeper_lag_bytes")})', "{{scope}} {{store}}"),
              (f'max by (scope) ({of_scope("walkeeper_suspected_bytes")}) > 0', "{{scope}}: suspected lost"),
              description="It lies in pg_wal on every node.", **last),
        panel("stat", "Gaps", (12, 0, 4, 4), "none", (f'max by (scope) ({of_scope("walkeeper_gaps")})', "{{scope}}"),
              description="That were ever recorded; walkeeper status says which are still open.", defaults=none, **last),
        panel("stat", "Nodes that are not gap-safe", (16, 0, 4, 4), "none",
              (f'count by (scope) ({of_scope("walkeeper_gap_safe")} == 0) or 0 * max by (scope) ({of_scope("walkeeper_troubles")})', "{{scope}}"),
              defaults=none, **last),
        panel("stat", "Problems", (20, 0, 4, 4), "none", (f'sum by (scope) ({of_scope("walkeeper_troubles")})', "{{scope}}"),
              defaults=none, **last),
        panel("timeseries", "WAL written and archived", (0, 4, 12, 8), "Bps",
              (f"clamp_min(deriv(walkeeper_server_lsn_bytes[5m]), 0) * {INFO} and on (job, instance) walkeeper_archiving == 1", "{{member}} wrote"),
              (f"max by (scope, store) (clamp_min(deriv(walkeeper_frontier_lsn_bytes[5m]), 0) * {INFO})", "{{scope}} {{store}}: frontier moved")),
        panel("timeseries", "Uploaded, packed", (12, 4, 12, 8), "Bps",
              (of_scope("rate(walkeeper_uploaded_bytes_total[5m])"), "{{member}}"),
              (of_scope("rate(walkeeper_tail_bytes_total[5m])"), "{{member}}: tail")),
        panel("timeseries", "Lag, bytes", (0, 12, 12, 8), "bytes", (of_scope("walkeeper_lag_bytes"), "{{member}} {{store}}"),
              (BEHIND, "{{member}}: behind the leader")),
        panel("timeseries", "Lag, time", (12, 12, 12, 8), "s", (of_scope("walkeeper_lag_seconds"), "{{member}} {{store}}"), defaults=late),
        panel("timeseries", "Segments and pieces stored", (0, 20, 8, 8), "ops",
              (of_scope("rate(walkeeper_uploaded_segments_total[5m])"), "{{member}}"),
              (of_scope("rate(walkeeper_tail_pieces_total[5m])"), "{{member}}: tail")),
        panel("timeseries", "Spool", (8, 20, 8, 8), "bytes", (of_scope("walkeeper_spool_bytes"), "{{member}}"),
              (of_scope("walkeeper_spool_limit_bytes"), "{{member}}: limit")),
        panel("timeseries", "Timelines", (16, 20, 8, 8), "none", (of_scope("walkeeper_server_timeline"), "{{member}}"),
              (f'max by (scope, store) ({of_scope("walkeeper_frontier_timeline")})', "{{scope}} {{store}}: frontier")),
        panel("state-timeline", "Gap-safe", (0, 28, 12, 6), "none", (of_scope("walkeeper_gap_safe"), "{{member}}"), defaults=yes_no("yes", "no")),
        panel("state-timeline", "Owns the record", (12, 28, 12, 6), "none", (of_scope("walkeeper_archiving"), "{{member}}"),
              defaults=yes_no("archives", "")),
        panel("timeseries", "Stored ahead of the frontier", (0, 34, 8, 8), "bytes",
              (of_scope("walkeeper_stored_lsn_bytes - walkeeper_frontier_lsn_bytes"), "{{member}}"),
              description="Grows while the DCS does not take the record."),
        panel("timeseries", "Refusals and failures", (8, 34, 8, 8), "ops",
              (of_scope("rate(walkeeper_refused_total[5m])"), "{{member}}: {{reason}}")),
        panel("timeseries", "Age of the last look", (16, 34, 8, 8), "s", (of_scope("walkeeper_look_age_seconds"), "{{member}}")),
        panel("state-timeline", "PostgreSQL and the DCS answer", (0, 42, 12, 6), "none", (of_scope("walkeeper_server_up"), "{{member}}: PostgreSQL"),
              (of_scope("walkeeper_record_known"), "{{member}}: DCS"), defaults=yes_no("yes", "no")),
        panel("state-timeline", "archive_command succeeds", (0, 48, 12, 6), "none", (of_scope("1 - walkeeper_archive_command_fails"), "{{member}}"),
              defaults=yes_no("yes", "no")),
        panel("timeseries", "Calls of archive_command that failed", (12, 48, 12, 6), "none",
              (of_scope("increase(walkeeper_archive_command_failed_calls[5m])"), "{{member}}")),
        panel("timeseries", "Age of base backups, and how far back a restore gets", (0, 54, 8, 6), "s",
              (of_scope("walkeeper_backup_age_seconds"), "{{scope}} {{store}}: the newest"), (of_scope("walkeeper_window_seconds"), "{{scope}} {{store}}: restores"),
              (of_scope("walkeeper_backup_proved_age_seconds"), "{{scope}}: proved by a restore"),
              (f'{of_scope("walkeeper_expire_waits_seconds")} > 0', "{{scope}} {{store}}: expire has something to do")),
        panel("timeseries", "Base backups", (8, 54, 8, 6), "none", (of_scope("walkeeper_backups_complete"), "{{scope}} {{store}}: complete"),
              (of_scope("walkeeper_backups_damaged"), "{{scope}} {{store}}: damaged"), (of_scope("walkeeper_backup_attempts"), "{{scope}} {{store}}: attempts"),
              (f'{of_scope("walkeeper_window_short")} > 0', "{{scope}} {{store}}: less restores than is promised"),
              (f'{of_scope("walkeeper_backup_overdue")} > 0', "{{scope}} {{store}}: a backup is overdue"),
              (f'{of_scope("walkeeper_proof_overdue")} > 0', "{{scope}}: a proof is overdue")),
        panel("timeseries", "WAL that restores replay", (16, 54, 8, 6), "bytes",
              (of_scope("walkeeper_window_end_lsn_bytes - walkeeper_window_start_lsn_bytes"), "{{scope}} {{store}}")),
        panel("timeseries", "Disk of pg_wal, free", (0, 60, 8, 8), "bytes", (of_scope("walkeeper_pg_wal_disk_free_bytes"), "{{member}}"),
              (of_scope("walkeeper_pg_wal_disk_bytes"), "{{member}}: size")),
        panel("timeseries", "Disk of pg_wal, growth", (8, 60, 8, 8), "Bps", (of_scope("walkeeper_pg_wal_disk_growth_bytes"), "{{member}}"),
              description="By how much its free space has shrunk over the last minutes.", defaults={"min": None}),
        panel("timeseries", "Disk of pg_wal, time left", (16, 60, 8, 8), "s", (of_scope("walkeeper_pg_wal_disk_seconds_left"), "{{member}}"),
              description="If it goes on filling as in the last minutes.", defaults=limits((None, "red"), (6 * 3600, "green"))),
        panel("stat", "Last commit that is archived", (0, 68, 8, 4), "dateTimeFromNow",
              (f'1000 * max by (scope) ({of_scope("walkeeper_last_commit_timestamp_seconds")})', "{{scope}}"),
              description="A restore can be told to stop at any time before it.", **last),
        panel("timeseries", "How long commits wait for the store", (8, 68, 8, 8), "s", (of_scope("walkeeper_commits_wait_seconds"), "{{member}}"),
              (f'{of_scope("walkeeper_durability_degraded")} > 0', "{{member}}: they go on without it"),
              description="With durability: store.", defaults=limits((None, "green"), (1, "orange"), (60, "red"))),
        panel("timeseries", "Commits that wait, and how fast they are acknowledged", (16, 68, 8, 8), "none",
              (of_scope("walkeeper_commits_waiting"), "{{member}}: wait now"),
              (f"clamp_min(deriv(walkeeper_acknowledged_lsn_bytes[5m]), 0) * {INFO}", "{{member}}: bytes a second"),
              description="With durability: store. How many wait is known where the agent's role has pg_read_all_stats."),
        panel("table", "What lasts", (12, 42, 12, 6), "none", (of_scope("walkeeper_trouble"), "{{member}}: {{what}} {{reason}} {{store}}"),
              description="The status page of that node has the text and the hint."),
    ]  # fmt: skip
    for target in panels[-1]["targets"]:
        target |= {"instant": True, "format": "table"}
    variables = [
        {"name": "source", "type": "datasource", "query": "prometheus", "label": "Data source"},
        {"name": "scope", "type": "query", "datasource": SOURCE, "query": "label_values(walkeeper_info, scope)", "label": "Cluster",
         "multi": True, "includeAll": True, "refresh": 2, "current": {"text": "All", "value": "$__all"}},
    ]  # fmt: skip
    return {
        "uid": "walkeeper",
        "title": "walkeeper",
        "tags": ["postgresql", "patroni", "walkeeper"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": variables},
        "annotations": {"list": [TAKEOVERS]},
        "panels": panels,
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=1))
