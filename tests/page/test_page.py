"""The status page as a pure function: what it shows, in words and in pictures, and that nothing in it can hurt."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any, Final

import pytest

from tests.fixtures import pages
from walkeeper.core import amounts
from walkeeper.core.coverage import Range
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn
from walkeeper.page import charts, style, timelines
from walkeeper.page.charts import Chart, Line
from walkeeper.page.document import RATE_SECONDS, _rates, render, takeovers, verdict
from walkeeper.page.facts import Facts, Row, Sample
from walkeeper.page.picture import picture_of, window
from walkeeper.page.text import count

VOID: Final = {"meta", "link", "br", "path", "rect", "circle"}
HOSTILE: Final = "</p><script>alert(1)</script>\"'&\x1b[31m\u202e\u0000"


class Reader(HTMLParser):
    """Collects what a browser would make of it; complains about what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def nothing_known() -> Facts:
    report = pages.report(
        server=None, leader=None, record_known=False, record=None, lag_bytes=None, lag_seconds=None, gap_safe=None,
        hold_slot=None, last_error=None, refused_total={},
    )  # fmt: skip
    agent = {**report["agent"], "looked_seconds_ago": None, "archiving": False, "timeline": None, "spool_bytes": None}
    return Facts(at="2026-11-23T08:51:09Z", report={**report, "agent": agent}, now=pages.NOW)


@pytest.mark.parametrize("facts", [pages.well(), pages.unwell(), nothing_known()], ids=["well", "unwell", "nothing"])
def test_it_is_whole_and_loads_nothing_from_anywhere(facts: Facts) -> None:
    reader = Reader(render(facts))
    assert [tag for tag, _ in reader.tags if tag in ("img", "iframe", "object", "form", "input")] == []
    links = [
        value or "" for _, attributes in reader.tags for name, value in attributes.items() if name in ("href", "src")
    ]
    assert sorted(set(links)) == ["data:,", "health", "metrics", "ready"]
    assert "url(" not in style.STYLE
    assert "@import" not in style.STYLE
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert not any("style" in attributes for _, attributes in reader.tags), "the policy would refuse it"


@pytest.mark.parametrize("facts", [pages.well(), pages.unwell(), nothing_known()], ids=["well", "unwell", "nothing"])
def test_who_does_not_see_can_read_it(facts: Facts) -> None:
    reader = Reader(render(facts))
    assert reader.all("html")[0]["lang"] == "en"
    ids = {attributes.get("id") for _, attributes in reader.tags}
    for picture in reader.all("svg"):
        assert picture["role"] == "img"
        assert set((picture["aria-labelledby"] or "").split()) <= ids
    for section in reader.all("section"):
        assert section["aria-labelledby"] in ids
    assert all("scope" in heading for heading in reader.all("th"))
    assert len(reader.all("table")) == len(reader.all("caption"))
    assert len(reader.all("h1")) == 1


def test_it_works_without_javascript() -> None:
    text = render(pages.well())
    assert f'<noscript><meta http-equiv="refresh" content="{style.NO_SCRIPT_SECONDS}"></noscript>' in text
    for said in ("0/93000000", "node3", "TL 4", "all well"):
        assert said in Reader(text).text


def test_the_verdict_and_why() -> None:
    def said(facts: Facts) -> tuple[str, str]:
        return verdict(facts, picture_of(facts))

    well = pages.well()
    assert said(well) == ("well", "all well")
    assert said(pages.unwell()) == ("bad", "WAL is lost: 1 gap; 1 thing to look at")
    assert said(replace(pages.unwell(), report=pages.report())) == ("bad", "WAL is lost: 1 gap")
    assert said(replace(well, report=pages.report(gap_safe=False))) == ("bad", "this node is not gap-safe")
    assert said(nothing_known()) == ("unknown", "not everything is known")
    assert said(replace(well, report=pages.report(record=None), claim=None)) == (
        "unknown",
        "nothing has been archived yet",
    )
    old = pages.report()
    old["agent"]["looked_seconds_ago"] = 31.0
    assert said(replace(well, report=old))[0] == "unknown"


def test_a_problem_comes_with_its_hint_and_when_it_was_met_last() -> None:
    text = Reader(render(pages.unwell())).text
    assert pages.PROBLEM["text"] in text
    assert pages.PROBLEM["hint"] in text
    assert "since 2026-11-23 08:40:11 UTC" in text
    assert "last met" not in text
    late = pages.report(troubles=[{**pages.PROBLEM, "seen_seconds_ago": 95.0}])
    assert "08:40:11 UTC, last met 95 s ago" in Reader(render(replace(pages.unwell(), report=late))).text


def test_a_problem_that_is_over_says_since_when_without_a_hint_and_goes_after_an_hour() -> None:
    def shown(over: float | None) -> str:
        last = {**pages.PROBLEM, "over_seconds_ago": over}
        return Reader(render(replace(pages.well(), report=pages.report(last_error=last)))).text

    assert "Nothing. The last one is over for 4 min 10 s: s3://our-wal" in shown(250.0)
    assert pages.PROBLEM["hint"] not in shown(250.0)
    assert "s3://our-wal/demo" not in shown(3601.0)
    assert "s3://our-wal/demo" not in shown(None)


def test_names_from_other_machines_are_only_text() -> None:
    report = pages.report(
        troubles=[dict.fromkeys(("what", "reason", "text", "hint", "since"), HOSTILE)],
        refused_total={HOSTILE: 1}, record={**pages.report()["record"], "owner": HOSTILE},
    )  # fmt: skip
    report["agent"] |= {"scope": HOSTILE, "name": HOSTILE, "store": HOSTILE, "version": HOSTILE}
    rows = (Row(HOSTILE, HOSTILE, HOSTILE, 1, Lsn(0), 0, leads=False),)
    text = render(replace(pages.unwell(), report=report, members=rows, listing_says=HOSTILE, at=HOSTILE))
    reader = Reader(text)
    assert len(reader.all("script")) == 1
    assert text.count("<script>") == 1
    assert not set("\x1b\u202e\x00") & set(text)
    assert "<script>alert(1)</script>" in reader.text


# ------------------------------------------------------------------------------------------------------- the picture


def test_the_picture_knows_forks_dead_branches_and_the_frontier() -> None:
    picture = picture_of(pages.well())
    assert picture is not None
    lanes = {lane.timeline: lane for lane in picture.lanes}
    assert [(t, lane.parent, lane.on_chain) for t, lane in lanes.items()] == [
        (1, None, True), (2, 1, False), (3, 1, True), (4, 3, True),
    ]  # fmt: skip
    assert lanes[3].begins == pages.FORK_3
    assert lanes[4].stored[-1].end == pages.FRONTIER // pages.SIZE, "what came since the listing, the frontier tells"
    assert (picture.gaps, picture.missing) == (0, 0)
    said = timelines.description(picture)
    assert "Timeline 4 leaves timeline 3 at 0/5E1234A0." in said
    assert "No gap." in said


def test_a_gap_is_shown_until_the_store_has_it() -> None:
    picture = picture_of(pages.unwell())
    assert picture is not None
    assert picture.gaps == 1
    assert picture.missing == 0
    closed = picture_of(replace(pages.unwell(), listing=pages.listing()))
    assert closed is not None
    assert closed.gaps == 0
    unlisted = picture_of(replace(pages.unwell(), listing=None, histories=pages.HISTORIES))
    assert unlisted is not None
    assert unlisted.gaps == 1
    assert {lane.timeline: lane.stored for lane in unlisted.lanes}[3] == (Range(0x26, 0x3C), Range(0x3F, 0x5E))


def test_a_segment_that_is_gone_from_the_store_is_seen() -> None:
    whole = pages.listing()
    stored = {**whole.stored, 4: (Range(0x5E, 0x70), Range(0x72, 0x8F))}
    facts = replace(pages.well(), listing=replace(whole, stored=stored))
    picture = picture_of(facts)
    assert picture is not None
    assert picture.missing == 2
    assert verdict(facts, picture) == ("bad", "2 segments gone from the store")
    cut = picture_of(replace(facts, listing=replace(whole, stored=stored, whole=False)))
    assert cut is not None
    assert cut.missing == 0, "what was not looked at is not missing"
    shortened = replace(whole, stored={4: (Range(0x60, 0x8F),)}, start=Lsn(0x60 * pages.SIZE))
    kept = picture_of(replace(pages.well(), listing=shortened))
    assert kept is not None
    assert kept.missing == 0, "what lies before the archive's beginning is not missing"


def test_without_its_history_a_new_timeline_claims_nothing() -> None:
    facts = replace(pages.well(), claim=replace(pages.claim(), timeline=9))
    picture = picture_of(facts)
    assert picture is not None
    assert picture.missing == 0
    assert {lane.timeline: lane.stored for lane in picture.lanes}[9] == ()
    assert render(facts)


def test_the_newest_part_is_drawn_by_itself_where_the_archive_is_long() -> None:
    picture = picture_of(pages.well())
    assert picture is not None
    near = window(picture, 64)
    assert near is not None
    assert [lane.timeline for lane in near.lanes] == [3, 4]
    assert window(picture, 100) is None


def test_what_is_stored_of_the_open_segment_is_drawn_as_its_tail() -> None:
    picture = picture_of(pages.well())
    assert picture is not None
    assert picture.tail == (pages.FRONTIER.floor(pages.SIZE), pages.FRONTIER)
    assert "5.25 MiB of the open segment are stored as its tail." in timelines.description(picture)
    assert f"to {pages.FRONTIER} (5.25 MiB), the tail" in timelines.table(picture)
    near = window(picture, 64)
    assert near is not None
    bars = Reader(timelines.svg(near, "x", 926)).all("rect")
    assert len([bar for bar in bars if bar.get("class") == "tail"]) == 1
    whole = picture_of(replace(pages.well(), claim=replace(pages.claim(), frontier=pages.FRONTIER.floor(pages.SIZE))))
    assert whole is not None
    assert whole.tail is None


@pytest.mark.parametrize("width", [926, 330])
def test_everything_is_drawn_inside_the_picture(width: int) -> None:
    picture = picture_of(pages.unwell())
    assert picture is not None
    for drawn in filter(None, (picture, window(picture, 64))):
        reader = Reader(timelines.svg(drawn, "x", width))
        bars = [bar for bar in reader.all("rect") if bar.get("x")]
        assert bars
        for bar in bars:
            assert float(bar["x"] or -1) >= 0
            assert float(bar["x"] or 0) + float(bar["width"] or 0) <= width
        assert len([bar for bar in bars if bar["class"] == "gap"]) == (1 if drawn is picture else 0)


def test_many_timelines_make_no_endless_page() -> None:
    histories = {n: History(n, (Switch(n - 1, Lsn(n * pages.SIZE)),)) for n in range(2, 400)}
    stored = {number: tuple(Range(n, n + 1) for n in range(0, 2000, 2)) for number in (1, 399)}
    facts = replace(pages.well(), listing=replace(pages.listing(), stored=stored, histories=histories))
    text = render(facts)
    assert "older timelines are not drawn" in text
    assert len(text) < 600_000


# -------------------------------------------------------------------------------------------------------- the charts


def chart(points: list[tuple[float, float | None]], **changes: Any) -> Chart:
    return Chart(
        "c", "Chart", (Line("", "one", points),), amounts.size, binary=True, now=pages.NOW, period=10.0, **changes
    )


def test_a_takeover_is_marked_in_every_chart() -> None:
    shown = render(pages.well())
    assert shown.count('class="event"') == 3 * 2  # three charts, wide and narrow
    assert "node2 took over, 2 h 29 min ago." in shown
    again = [
        Sample(float(at), None, None, None, None, owner)
        for at, owner in enumerate([None, "a", "a", None, "a", "b", "a"])
    ]
    assert takeovers(again) == ((5.0, "b took over"), (6.0, "a took over"))


def test_the_times_of_commits_stand_under_the_positions_where_they_fit() -> None:
    facts = pages.well()
    picture = picture_of(facts)
    assert picture is not None
    for width, shown in ((926, 5), (330, 3)):
        drawn = timelines.svg(picture, "t", width)
        assert len(re.findall(r">11-\d\d \d\d:\d\d</text>", drawn)) == shown
        assert ">11-23 08:51<" in drawn
    said = timelines.description(picture)
    assert "The commit at 0/A000028 was made at 2026-11-19 22:14:03.118342 UTC." in said
    without = replace(facts, listing=None, report={**facts.report, "last_commit": None})
    assert "times are of commits" not in render(without)
    assert "walkeeper verify has the times" in render(without)


def test_members_show_whether_they_are_gap_safe_and_how_long_their_disks_last() -> None:
    text = Reader(render(pages.well())).text
    assert "yes 19 GiB; full in 4 h 43 min" in " ".join(text.split())
    disk = {**pages.DISK.described(), "seconds_left": None}
    assert "of 500 GiB; full in" not in render(replace(pages.well(), report=pages.report(disk=disk)))
    assert "unknown" in render(replace(pages.well(), report=pages.report(disk=None)))


def test_a_peak_is_drawn_however_short_and_what_is_not_known_breaks_the_line() -> None:
    points: list[tuple[float, float | None]] = [(pages.NOW - at, 1.0) for at in range(21_000, 0, -10)]
    points[1000] = (points[1000][0], 64.0 * MIB)
    text = charts.svg(chart(points), 926, "w")
    assert "64 MiB" in text
    line = next(p["d"] or "" for p in Reader(text).all("path") if (p.get("class") or "") == "line one")
    assert " 12.0" in line, "the peak touches the top"
    assert line.count("M") == 1
    assert "now 1 B, at most 64 MiB" in charts.summary(chart(points)).lower().replace("mib", "MiB").replace(
        " b,", " B,"
    )
    points[500:600] = [(at, None) for at, _ in points[500:600]]
    broken = charts.svg(chart(points), 926, "w")
    assert next(p["d"] or "" for p in Reader(broken).all("path") if p.get("class") == "line one").count("M") == 2


def test_a_chart_of_nothing_and_of_one_point() -> None:
    assert "Not known yet." in charts.summary(chart([]))
    assert "M" in charts.svg(chart([(pages.NOW, 5.0)]), 330, "n")
    assert "M" in charts.svg(chart([(pages.NOW, 0.0)]), 330, "n")


def test_rates_are_over_a_minute_and_never_negative() -> None:
    samples = [Sample(10.0 * n, 100 * n, None, None, None) for n in range(20)]
    samples += [Sample(200.0 + 10 * n, 50 + 100 * n, None, None, None) for n in range(3)]
    found = _rates(samples, lambda sample: sample.written)
    assert found[0][1] is None
    assert [value for _, value in found[1:20]] == [10.0] * 19
    assert found[20][1] == 0.0
    apart = [Sample(0.0, 0, None, None, None), Sample(1000.0, 10_000, None, None, None)]
    assert [value for _, value in _rates(apart, lambda sample: sample.written)] == [None, None]
    assert RATE_SECONDS > 60


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (count(1, "gap"), "1 gap"), (count(2000, "gap"), "2,000 gaps"),
    ],
)  # fmt: skip
def test_numbers_are_for_people(said: str, text: str) -> None:
    assert said == text


# ------------------------------------------------------------------------------------------------------- its colours


def luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    full = "".join(c * 2 for c in digits) if len(digits) == 3 else digits
    parts = [int(full[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("block", [0, 1], ids=["light", "dark"])
def test_text_and_pictures_have_the_contrast_that_wcag_asks_for(block: int) -> None:
    root = re.findall(r":root\{(.*?)\}", style.STYLE, re.DOTALL)[block]
    colour = dict(re.findall(r"--([a-z-]+):(#[0-9a-f]+)", root))
    for ground in ("paper", "card"):
        for text in ("ink", "soft", "good", "bad", "odd", "one"):
            assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground)
    for drawn in ("stored", "aside", "gap", "open", "one", "two"):
        assert contrast(colour[drawn], colour["card"]) >= 3.0, drawn


def test_commits_are_a_card_where_they_wait_for_the_store() -> None:
    facts = pages.well()
    assert "<dt>Commits</dt>" not in render(facts)
    durability = {
        "state": "waiting", "acknowledged": "0/93540D18", "waited_seconds": 34.0, "waiting_commits": 12,
        "standby_name": "walkeeper_00000007", "waited_for": True,
    }  # fmt: skip
    shown = render(replace(facts, report=pages.report(durability=durability)))
    assert (
        '<dt>Commits</dt><dd class="bad">wait: nothing was acknowledged for 34 s<small>acknowledged up to 0/93540D18; 12 wait now'
        in shown
    )
    of_record = {**pages.report()["record"], "durability": "store", "owner": "<b>"}
    shown = render(replace(facts, report=pages.report(durability={**durability, "state": None}, record=of_record)))
    assert "<dt>Commits</dt><dd>return when the store has them<small>as &lt;b&gt; acknowledges" in shown


def test_base_backups_are_a_card_where_there_are_any() -> None:
    facts = pages.well()
    assert "Base backups" not in render(facts)
    backups = {
        "complete": 14, "damaged": 0, "attempts": 1, "newest": {"age_seconds": 25200.0}, "short": False,
        "window": {"start_lsn": "0/1A00190", "end_lsn": "0/2000000", "to_frontier": True, "seconds": 86400.0 * 14},
    }  # fmt: skip
    shown = render(replace(facts, report={**facts.report, "backups": backups}))
    assert "14 complete, the newest 7 h old" in shown
    assert "restore from 0/1A00190 on; 14 days back" in shown
    assert "Scheduled" not in shown
    schedule = {"schedule": "02:00", "next": "2026-11-29T01:00:00Z"}
    job = {
        "state": "running",
        "node": "n2",
        "attempt": 2,
        "bytes": 5 << 30,
        "of": 9 << 30,
        "why": "no room",
        "due": "",
        "backup": "20261128T020000Z-00000003-1a2b3c4d",
        "at": "2026-11-28T04:00:00Z",
    }
    jobs = {
        "backup_schedule": schedule,
        "proof_schedule": schedule,
        "backup_job": job,
        "proof_job": {**job, "state": "failed"},
    }
    proof = {"backup": "20261127T020000Z-00000003-00000000", "at": "2026-11-28T04:10:00Z", "age_seconds": 2 * 86400.0}
    proved = {**backups, "proved": proof, "overdue": True, "proof_overdue": False}
    shown = render(replace(facts, report={**facts.report, **jobs, "backups": proved}))
    assert (
        '<dd class="odd">runs on n2, 5 GiB of about 9 GiB, attempt 2<small>the last attempt failed: no room</small>'
        in shown
    )
    assert (
        '<dd class="bad">next due 2026-11-29 01:00:00 UTC<small>last proven restore: 2 days ago; the last attempt'
        in shown
    )
    by_hand = {**proved, "proved": {**proof, "backup": job["backup"]}}
    shown = render(replace(facts, report={**facts.report, **jobs, "backups": by_hand}))
    assert '<dd class="bad">next due' not in shown
    none = {**backups, "newest": None, "window": None}
    before = "to times before<small>2026-11-23 08:51:07.881204 UTC, the last commit"
    assert f"<dt>Can be restored</dt><dd>{before}</small>" in shown
    broken = {**backups, "window": {**backups["window"], "to_frontier": False}}  # type: ignore[dict-item]
    shown = render(replace(facts, report={**facts.report, "backups": broken}))
    assert '<dt>Can be restored</dt><dd class="odd">up to 0/2000000<small>where a gap begins;' in shown
    assert "none complete" in render(replace(facts, report={**facts.report, "backups": none}))


def test_the_other_stores_have_a_row_each_and_what_keeps_them_from_their_work() -> None:
    record = {**pages.report()["record"], "frontier": "0/90000000", "owner": "<b>"}
    store = {
        "name": "far", "url": "s3://far/<i>", "archiving": True, "stored_up_to": "0/90000000", "record_known": True,
        "record": record, "lag_bytes": 2 << 20, "lag_seconds": 90.0, "suspected": None, "troubles": [pages.PROBLEM],
    }  # fmt: skip
    new = {**store, "name": "new", "record": None, "lag_bytes": None, "lag_seconds": None, "troubles": []}
    facts = replace(pages.well(), report=pages.report(stores=[store, new]))
    reader = Reader(render(facts))
    for said in (
        "far",
        "s3://far/<i>",
        "0/90000000",
        "2 MiB, for 90 s",
        "<b>",
        "no answer within 30 s",
        "1 thing to look at",
    ):
        assert said in reader.text, said
    assert len(reader.all("table")) == len(reader.all("caption"))
    assert "The other stores" not in render(pages.well())
