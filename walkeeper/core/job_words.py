"""Base backups, and the cluster's jobs, in words: for status and the page, which have what the agent reports. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from walkeeper.core import backup_job
from walkeeper.core.amounts import duration, size
from walkeeper.core.lsn import Lsn

_LONGEST: Final = 300
"""Characters of a reason."""
TIMES: Final = "to times before"
"""What ``until`` begins with where all is as it should be."""


def now(job: Mapping[str, Any] | None, schedule: Mapping[str, Any]) -> str:
    """What it does at this moment, or when it is due."""
    if job is None or job["state"] in ("done", "failed"):
        return f"next due {_moment(schedule['next'])}"
    if job.get("later"):  # not of an older agent
        return f"due since {_moment(job['due'])}, waits for the next base backup"
    if job["state"] == "wanted":
        return f"due since {_moment(job['due'])}, waits for a member"
    if job.get("silent"):  # not of an older agent
        return f"began on {job['node']}, which no longer says anything of it"
    far = f", {size(job['bytes'])} of about {size(job['of'])}" if job["of"] else ""
    again = f", attempt {job['attempt']}" if job["attempt"] > 1 else ""
    return f"runs on {job['node']}{far}{again}"


def last(job: Mapping[str, Any] | None) -> str:
    """How the last attempt ended; empty where none has."""
    if job is None or not job["node"]:
        return ""
    if job["state"] == "done":
        return f"the last was done on {job['node']}, {_moment(job['at'])}"
    if job["why"] and job.get("later"):
        return f"this one cannot be tried: {job['why'][:_LONGEST]}"
    return f"the last attempt failed: {job['why'][:_LONGEST]}" if job["why"] else ""


def backups(found: Mapping[str, Any]) -> str:
    """How many there are, and how old, as ``restorable.summary`` has them."""
    newest = found["newest"]
    if newest is None or newest["age_seconds"] is None:
        return f"{found['complete']} complete"
    full = newest.get("full_age_seconds")  # not of an older agent
    words = "" if full is None else f" (incremental, of a full one {duration(full)} old)"
    return f"{found['complete']} complete, the newest {duration(newest['age_seconds'])} old{words}"


def until(found: Mapping[str, Any] | None, last: Mapping[str, Any], gaps: int | None) -> tuple[str, str]:
    """Up to where can be restored, and more about that. ``last``: the last archived commit. ``found``: as ``restorable.summary``
    has it, None where it is not known, or another tool takes the base backups.
    """
    commit = f"{_moment(last['time'])}, the last commit"
    if found is None:
        return TIMES, f"{commit}, with a base backup{' from after the last gap' if gaps != 0 else ''}"
    window = found["window"]
    if window is None:
        return "nothing", "until a base backup is complete"
    if not window["to_frontier"]:
        return f"up to {window['end_lsn']}", "where a gap begins; a new base backup restores from behind it on"
    if Lsn.parse(last["lsn"]) < Lsn.parse(window["start_lsn"]):
        return f"up to {window['end_lsn']}", "without a transaction since the base backup"
    return TIMES, commit


def failed(job: Mapping[str, Any] | None, backups: Mapping[str, Any] | None, word: str) -> bool:
    """For good, and nothing by hand has made up for it; ``backups`` as ``restorable.summary`` has them, None for not known."""
    if job is None or job["state"] != "failed":
        return False
    return not backup_job.made_good(job["backup"], job["at"], backup_job.newest(backups, word))


def _moment(stamp: str) -> str:
    return stamp.replace("T", " ").replace("Z", " UTC")
