"""The whole page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from walkeeper.core import commit_words, job_words
from walkeeper.core.amounts import duration, rate, size
from walkeeper.core.room import DISK_SECONDS
from walkeeper.core.suspicion import RESERVE_SHARE
from walkeeper.page import charts, timelines
from walkeeper.page.charts import Chart, Line, Point
from walkeeper.page.facts import Facts, Sample
from walkeeper.page.picture import Picture, picture_of, window
from walkeeper.page.style import NO_SCRIPT_SECONDS, SCRIPT, STYLE
from walkeeper.page.text import count, esc, moment

WIDE: Final = 926
NARROW: Final = 330
WINDOW: Final = 64
"""Segments in the picture of the newest WAL."""
SAMPLE_SECONDS: Final = 10.0
RATE_SECONDS: Final = 62.0
"""A minute, and a little for samples that come late."""
STALE_SECONDS: Final = 30.0
"""The agent looks every few seconds; what is older is not the present."""

OVER_SECONDS: Final = 3600.0
"""Seconds after which a problem that is over is no longer shown."""

SOME_TIME: Final = 30 * 24 * 3600.0
"""Seconds beyond which it is not said when a disk is full."""

_SIGN: Final = {"well": "✓", "bad": "!", "unknown": "?"}


def render(facts: Facts) -> str:
    """One HTML document that needs nothing else. It is as large as its timelines and hours, and no larger."""
    picture = picture_of(facts)
    kind, words = verdict(facts, picture)
    agent = facts.report["agent"]
    parts = [
        ("cards", "At a glance", _cards(facts, picture)),
        ("problems", "What keeps it from its work", _problems(facts.report)),
        ("timelines", "The archive", _archive(facts, picture)),
        *([("stores", "The other stores", _stores(facts.report["stores"]))] if facts.report["stores"] else []),
        ("members", "Members", _members(facts)),
        ("lag", "Lag", _lag(facts)),
        ("throughput", "Throughput", _throughput(facts)),
    ]
    sections = "".join(_section(name, title, body) for name, title, body in parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{_SIGN[kind]} {esc(agent['scope'])} · {esc(agent['name'])} · walkeeper</title>"
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f'<noscript><meta http-equiv="refresh" content="{NO_SCRIPT_SECONDS}"></noscript>'
        f"<style>{STYLE}</style></head><body>"
        f"<header><h1>walkeeper · {esc(agent['scope'])}</h1>"
        f'<div id="verdict" role="status" data-live><p class="verdict {kind}">{_SIGN[kind]} {esc(words)}</p></div>'
        f'<p class="soft" id="when" data-live>As {esc(agent["name"])} sees it, at {esc(moment(facts.at))}'
        f"{'; Patroni is paused' if facts.paused else ''}</p></header>"
        f'<p id="stale" class="stale" role="alert" hidden></p><main>{sections}</main>'
        f'<footer><p class="soft">walkeeper {esc(agent["version"])} · <a href="metrics">metrics</a> · '
        f'<a href="health">health</a> · <a href="ready">ready</a></p></footer>'
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def verdict(facts: Facts, picture: Picture | None) -> tuple[str, str]:
    """``well``, ``bad`` or ``unknown``, and why."""
    report = facts.report
    bad = []
    if picture is not None and picture.gaps:
        bad.append(f"WAL is lost: {count(picture.gaps, 'gap')}")
    if picture is not None and picture.missing:
        bad.append(f"{count(picture.missing, 'segment')} gone from the store")
    beside = [problem for store in report["stores"] for problem in store["troubles"]]
    if report["troubles"] or beside:
        bad.append(f"{count(len(report['troubles']) + len(beside), 'thing')} to look at")
    elif report["gap_safe"] is False:
        bad.append("this node is not gap-safe")
    if bad:
        return "bad", "; ".join(bad)
    age = report["agent"]["looked_seconds_ago"]
    if age is None or age > STALE_SECONDS or report["server"] is None or not report["record_known"]:
        return "unknown", "not everything is known"
    if report["record"] is None:
        return "unknown", "nothing has been archived yet"
    return "well", "all well"


def _section(name: str, title: str, body: str) -> str:
    """What is inside is replaced while people read; the section, its place and what is unfolded in it stay."""
    return f'<section aria-labelledby="{name}-h"><h2 id="{name}-h">{title}</h2>{body}</section>'


def _live(name: str, body: str) -> str:
    return f'<div id="{name}" data-live>{body}</div>'


# --- at a glance ------------------------------------------------------------------------------------------------------


def _cards(facts: Facts, picture: Picture | None) -> str:
    items = [
        f"<div><dt>{esc(name)}</dt><dd{_class(kind)}>{esc(value)}<small>{esc(more)}</small></dd></div>"
        for name, value, more, kind in _glance(facts, picture)
    ]
    rows = "facts" if len(items) % 3 else "facts three"  # so that no row has a single one
    return _live("glance", f'<dl class="{rows}">{"".join(items)}</dl>')


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _glance(facts: Facts, picture: Picture | None) -> Iterator[tuple[str, str, str, str]]:
    """Name, value, more, class."""
    report = facts.report
    record, agent, slot = report["record"], report["agent"], report["hold_slot"]
    if record is None:
        yield "Frontier", "unknown", "no record" if report["record_known"] else "the DCS does not answer", "odd"
    else:
        yield "Frontier", record["frontier"], f"timeline {record['timeline']}, moved by {record['owner']}", ""
    if report["lag_bytes"] is None:
        yield "Not archived", "unknown", "", "odd"
    else:
        late = report["lag_seconds"] or 0
        waits = f"the oldest of it waits for {duration(late)}" if late else ""
        yield "Not archived", size(report["lag_bytes"]), waits, "odd" if late > 60 else ""
    yield from _commit_card(report)
    yield _gap_card(facts, picture)
    yield from _backup_card(report.get("backups"))
    yield from _job_cards(report)
    safe = report["gap_safe"]
    where = (
        f"hold slot at {slot['restart_lsn']}" if slot and slot["restart_lsn"] else "no hold slot" if not slot else ""
    )
    yield (
        "This node is gap-safe",
        "unknown" if safe is None else "yes" if safe else "no",
        where,
        "odd" if safe is None else "" if safe else "bad",
    )
    doing = f"archives timeline {agent['timeline']}" if agent["archiving"] else "watches"
    yield "This agent", doing, f"pid {agent['pid']}, since {moment(agent['started_at'])}", ""
    used = agent["spool_bytes"]
    full = used is not None and used >= 0.9 * agent["spool_limit"]
    yield "Spool", "unknown" if used is None else size(used), f"of {size(agent['spool_limit'])}", "odd" if full else ""
    yield _disk_card(report.get("disk"))
    yield _until_card(report, picture)


def _until_card(report: Any, picture: Picture | None) -> tuple[str, str, str, str]:
    last = report.get("last_commit")
    if last is None:
        return "Can be restored", "unknown", "walkeeper verify has the times", "odd"
    value, more = job_words.until(report.get("backups"), last, None if picture is None else picture.gaps)
    return "Can be restored", value, more, "" if value == job_words.TIMES else "odd"


def _commit_card(report: Any) -> Iterator[tuple[str, str, str, str]]:
    """Where commits wait for the store, by this agent's or the record's word."""
    found = report.get("durability") or {}
    if found.get("state") is not None:
        yield "Commits", commit_words.now(found), commit_words.more(found), commit_words.kind(found)
    elif (report["record"] or {}).get("durability") == "store":
        yield "Commits", "return when the store has them", f"as {report['record']['owner']} acknowledges", ""


def _disk_card(disk: Any) -> tuple[str, str, str, str]:
    if disk is None:
        return "Disk of pg_wal", "unknown", "", "odd"
    return "Disk of pg_wal", f"{size(disk['free'])} free", f"of {size(disk['total'])}{_lasts(disk)}", _disk_kind(disk)


def _lasts(disk: Any) -> str:
    left = disk["seconds_left"]
    return f"; full in {duration(left)}" if left is not None and left < SOME_TIME else ""


def _disk_kind(disk: Any) -> str:
    left = disk["seconds_left"]
    if left is not None and left < DISK_SECONDS:
        return "bad"
    return "odd" if disk["free"] < disk["total"] / RESERVE_SHARE else ""


def _gap_card(facts: Facts, picture: Picture | None) -> tuple[str, str, str, str]:
    if picture is None:
        return "Gaps", "unknown", "", "odd"
    if picture.missing:
        return "Gaps", str(picture.gaps), f"{count(picture.missing, 'segment')} gone from the store", "bad"
    looked = "and the store has the rest" if facts.listing and facts.listing.whole else "as the record says"
    return "Gaps", str(picture.gaps) if picture.gaps else "none", looked, "bad" if picture.gaps else ""


def _backup_card(found: Any) -> Iterator[tuple[str, str, str, str]]:
    """On the node that archives, where there are base backups of walkeeper's."""
    if found is None:
        return
    window = found["window"]
    if found["newest"] is None or window is None:
        yield "Base backups", "none complete", count(found["attempts"], "attempt"), "bad"
        return
    back = "" if window["seconds"] is None else f"; {duration(window['seconds'])} back"
    kind = "odd" if found["short"] or found["damaged"] else ""
    yield "Base backups", job_words.backups(found), f"restore from {window['start_lsn']} on{back}", kind


def _job_cards(report: Any) -> Iterator[tuple[str, str, str, str]]:
    """What the cluster does by itself; and when a restore was proved last, on the node that archives."""
    backups = report.get("backups") or {}
    for word, name in (("backup", "Scheduled backup"), ("proof", "Scheduled proof")):
        job, schedule = report.get(f"{word}_job"), report.get(f"{word}_schedule")
        if schedule is None:
            continue
        more = job_words.last(job) or f"schedule: {schedule['schedule']}"
        proved = backups.get("proved") if word == "proof" else None
        if proved is not None:
            more = f"last proven restore: {duration(proved['age_seconds'])} ago; {more}"
        overdue = backups.get("overdue" if word == "backup" else "proof_overdue")
        failed = job_words.failed(job, backups, word)
        yield name, job_words.now(job, schedule), more, "bad" if failed else "odd" if overdue else ""


# --- problems ---------------------------------------------------------------------------------------------------------


def _problems(report: Any) -> str:
    body = "".join(_problem(problem) for problem in report["troubles"]) or f"<p>Nothing.{_over(report)}</p>"
    counted = report["refused_total"]
    if counted:
        words = ", ".join(f"{reason} {number}" for reason, number in sorted(counted.items()))
        body += f'<p class="soft">Since the agent started: {esc(words)}.</p>'
    return _live("problem", body)


def _over(report: Any) -> str:
    """The last one, for a while; without its hint, because there is nothing to be done."""
    last = report.get("last_error")
    over = (last or {}).get("over_seconds_ago")
    if over is None or over > OVER_SECONDS:
        return ""
    return f' <span class="soft">The last one is over for {esc(duration(over))}: {esc(last["text"])}</span>'


def _problem(problem: Any) -> str:
    hint = f"<p><strong>Hint:</strong> {esc(problem['hint'])}</p>" if problem["hint"] else ""
    met = problem.get("seen_seconds_ago")
    ago = f", last met {duration(met)} ago" if met is not None and met > STALE_SECONDS else ""
    return (
        f'<div class="problem"><p>{esc(problem["text"])}</p>{hint}<p class="soft">{esc(problem["what"])}, '
        f"{esc(problem['reason'])}: since {esc(moment(problem['since']))}{esc(ago)}</p></div>"
    )


# --- the archive ------------------------------------------------------------------------------------------------------


def _archive(facts: Facts, picture: Picture | None) -> str:
    where = f'<p class="soft">{esc(facts.report["agent"]["store"])}</p>'
    if picture is None:
        return _live("archive", f"{where}<p>Without the record it is not known what belongs to the archive.</p>")
    times = "; times are of commits there, in UTC" if picture.times else ""
    figures = [_figure(picture, "all", f"Everything{times}")]
    near = window(picture, WINDOW)
    if near is not None:
        figures.insert(0, _figure(near, "near", f"The newest {WINDOW} segments{times}"))
    notice = f'<p class="odd">{esc(facts.listing_says)}</p>' if facts.listing_says else ""
    kinds = [
        ("stored", "stored"),
        ("aside", "stored, on a dead branch"),
        ("tail", "stored of the open segment: its tail"),
    ]
    kinds += [
        ("open", "not archived yet: held in pg_wal"),
        ("gap", "gap: lost for good"),
        ("missing", "missing in the store"),
    ]
    return (
        _live("archive", f"{where}{notice}{''.join(figures)}{timelines.key(kinds)}")
        + f'<details><summary>The same as a table</summary><div class="scroll" tabindex="0" role="region" '
        f'aria-label="Timelines">{_live("archive-table", timelines.table(picture))}</div></details>'
    )


def _figure(picture: Picture, name: str, caption: str) -> str:
    return (
        f"<figure><figcaption>{esc(caption)}</figcaption>"
        f'<div class="wide">{timelines.svg(picture, f"{name}-w", WIDE)}</div>'
        f'<div class="narrow">{timelines.svg(picture, f"{name}-n", NARROW)}</div></figure>'
    )


def _stores(stores: Any) -> str:
    """Each has an archive of its own."""
    rows = "".join(
        f'<tr><th scope="row">{esc(store["name"])}</th><td>{esc(store["url"])}</td>'
        f"<td>{_or_unknown((store['record'] or {}).get('frontier'))}</td><td>{_not_archived(store)}</td>"
        f"<td>{_or_unknown((store['record'] or {}).get('owner'))}</td></tr>"
        for store in stores
    )
    problems = "".join(
        f"<h3>{esc(store['name'])}</h3>{''.join(map(_problem, store['troubles']))}"
        for store in stores
        if store["troubles"]
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Stores">'
        + _live(
            "store",
            "<table><caption>Each has an archive and a record of its own.</caption><thead><tr>"
            '<th scope="col">Store</th><th scope="col">Where</th><th scope="col">Frontier</th>'
            f'<th scope="col">Not archived</th><th scope="col">Moved by</th></tr></thead><tbody>{rows}</tbody></table>'
            + problems,
        )
        + "</div>"
    )


def _not_archived(store: Any) -> str:
    if store["lag_bytes"] is None:
        return "?"
    late = store["lag_seconds"] or 0
    text = esc(size(store["lag_bytes"]) + (f", for {duration(late)}" if late else ""))
    return f'<span class="odd">{text}</span>' if late > 60 else text


# --- the members ------------------------------------------------------------------------------------------------------


def _members(facts: Facts) -> str:
    if facts.members is None:
        return _live("member", "<p>The DCS has not said who they are.</p>")
    rows = "".join(
        f'<tr><th scope="row">{esc(row.name)}</th><td>{"leader" if row.leads else esc(row.role)}</td>'
        f"<td>{esc(row.state)}</td><td>{_or_unknown(row.timeline)}</td>"
        f'<td class="less">{_or_unknown(row.lsn)}</td><td>{_behind(row.behind, leads=row.leads)}</td>'
        f"<td{_class('bad' if row.safe is False else '')}>{_YES_NO[row.safe]}</td>"
        f"<td>{_room(row.disk)}</td></tr>"
        for row in facts.members
    )
    return (
        '<div class="scroll members" tabindex="0" role="region" aria-label="Members">'
        + _live(
            "member",
            "<table><caption>As Patroni's keys and the members' own servers say.</caption><thead><tr>"
            '<th scope="col">Member</th><th scope="col">Role</th><th scope="col">State</th><th scope="col">Timeline</th>'
            '<th scope="col" class="less">WAL up to</th><th scope="col">Behind</th>'
            '<th scope="col">Gap-safe</th><th scope="col">Disk of pg_wal, free</th></tr></thead>'
            f"<tbody>{rows}</tbody></table>",
        )
        + "</div>"
    )


_YES_NO: Final = {True: "yes", False: "no", None: "?"}


def _room(disk: Any) -> str:
    if disk is None:
        return "?"
    kind = _disk_kind(disk)
    text = esc(f"{size(disk['free'])}{_lasts(disk)}")
    return f'<span class="{kind}">{text}</span>' if kind else text


def _or_unknown(value: object | None) -> str:
    return "?" if value is None else esc(value)


def _behind(lag: int | None, *, leads: bool) -> str:
    return "" if leads else "?" if lag is None else esc(size(lag))


# --- the last hours ---------------------------------------------------------------------------------------------------


def _lag(facts: Facts) -> str:
    volume = _points(facts.samples, lambda sample: sample.lag_bytes)
    waiting = _points(facts.samples, lambda sample: sample.lag_seconds)
    marks = takeovers(facts.samples)
    found = (
        Chart("lag-bytes", "WAL that is not archived", (Line("", "one", volume),), size,
              binary=True, now=facts.now, period=SAMPLE_SECONDS, marks=marks),
        Chart("lag-seconds", "How long the oldest of it has waited", (Line("", "one", waiting),),
              duration, binary=False, now=facts.now, period=SAMPLE_SECONDS, marks=marks),
    )  # fmt: skip
    return _live("lags", "".join(map(_drawn, found)))


def _throughput(facts: Facts) -> str:
    lines = (
        Line("WAL written", "one", _rates(facts.samples, lambda sample: sample.written)),
        Line("Frontier moved", "two", _rates(facts.samples, lambda sample: sample.archived)),
    )
    chart = Chart(
        "rates", "Bytes of WAL a second", lines, rate, binary=True, now=facts.now, period=SAMPLE_SECONDS,
        marks=takeovers(facts.samples),
    )  # fmt: skip
    kinds = [("one", "WAL written by this node's server"), ("two", "WAL that the frontier passed")]
    return _live("rates", _drawn(chart) + timelines.key(kinds))


def takeovers(samples: Iterable[Sample]) -> tuple[charts.Mark, ...]:
    """When another member began to own the record."""
    owner, found = None, []
    for sample in samples:
        if sample.owner and owner and sample.owner != owner:
            found.append((sample.at, f"{sample.owner} took over"))
        owner = sample.owner or owner
    return tuple(found)


def _drawn(chart: Chart) -> str:
    if all(value is None for line in chart.lines for _, value in line.points):
        return f"<figure><figcaption>{esc(chart.title)}: nothing is known yet.</figcaption></figure>"
    return (
        f"<figure><figcaption>{esc(chart.title)}. {esc(charts.summary(chart))}</figcaption>"
        f'<div class="wide">{charts.svg(chart, WIDE, "w")}</div>'
        f'<div class="narrow">{charts.svg(chart, NARROW, "n")}</div></figure>'
    )


def _points(samples: Iterable[Sample], read: Callable[[Sample], float | None]) -> list[Point]:
    return [(sample.at, read(sample)) for sample in samples]


def _rates(samples: Sequence[Sample], read: Callable[[Sample], int | None]) -> list[Point]:
    """Over the minute before each: the frontier moves in whole segments. A position that went back is not a negative rate."""
    found: list[Point] = []
    begins = 0
    for number, after in enumerate(samples):
        if number and after.at - samples[number - 1].at > 3 * SAMPLE_SECONDS:
            begins = number  # the agent did not look in between
        while after.at - samples[begins].at > RATE_SECONDS:
            begins += 1
        before = samples[begins]
        old, new = read(before), read(after)
        known = old is not None and new is not None and after.at > before.at
        found.append((after.at, max(0, (new or 0) - (old or 0)) / (after.at - before.at) if known else None))
    return found
