"""The page's style and its script; both stand in the document, and nothing is loaded from anywhere."""

from __future__ import annotations

import base64
import hashlib
from typing import Final

STYLE: Final = """
:root{color-scheme:light dark;--paper:#f7f7f4;--card:#fff;--ink:#1c2024;--soft:#566069;--edge:#d8dbd8;
--good:#1a6b3c;--bad:#b3261e;--odd:#8a5a00;--stored:#2f6f9f;--aside:#7e97a8;--gap:#b3261e;--gap-paper:#fbe3e1;
--open:#8a5a00;--open-paper:#fff3d6;--one:#2f6f9f;--two:#a34a00;--grid:#dfe2df}
@media (prefers-color-scheme:dark){:root{--paper:#14171a;--card:#1c2125;--ink:#e8eaec;--soft:#a9b3bb;--edge:#353c42;
--good:#7bd6a0;--bad:#ff9d94;--odd:#f0c068;--stored:#6fb3e0;--aside:#5e7686;--gap:#ff9d94;--gap-paper:#4a1d1a;
--open:#f0c068;--open-paper:#3a2f14;--one:#6fb3e0;--two:#ffab6b;--grid:#2e353a}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
header,main,footer{max-width:1000px;margin:0 auto;padding:0 20px}
header{padding-top:20px}
h1{font-size:1.35rem;margin:0}
h2{font-size:1.05rem;margin:0 0 .6rem}
p{margin:.3rem 0;overflow-wrap:anywhere}
.soft{color:var(--soft)}
.verdict{display:inline-block;margin:.5rem 0 0;padding:.15rem .7rem;border-radius:1rem;border:2px solid;font-weight:600}
.verdict.well{color:var(--good)}.verdict.bad{color:var(--bad)}.verdict.unknown{color:var(--odd)}
section{background:var(--card);border:1px solid var(--edge);border-radius:8px;padding:16px;margin:16px 0}
.facts{display:grid;grid-template-columns:repeat(4,1fr);gap:12px 20px;margin:0}
.facts.three{grid-template-columns:repeat(3,1fr)}
@media(max-width:820px){.facts,.facts.three{grid-template-columns:repeat(2,1fr)}
.facts div:last-child:nth-child(odd){grid-column:span 2}}
.facts dt{color:var(--soft);font-size:.85rem}
.facts dd{margin:0;font-size:1.15rem;font-weight:600;overflow-wrap:anywhere}
.facts dd small{display:block;font-size:.85rem;font-weight:400;color:var(--soft)}
.bad{color:var(--bad)}.odd{color:var(--odd)}.good{color:var(--good)}
.problem{border-left:4px solid var(--bad);padding:.1rem 0 .1rem .8rem;margin:.8rem 0;overflow-wrap:anywhere}
.stale{border:2px solid var(--bad);color:var(--bad);background:var(--card);border-radius:8px;padding:8px 16px;
margin:16px auto;max-width:960px;font-weight:600}
.stale[hidden]{display:none}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.95rem}
caption{text-align:left;color:var(--soft);padding-bottom:.3rem}
th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-top:1px solid var(--edge);vertical-align:top}
thead th{border-top:0;color:var(--soft);font-weight:500;font-size:.85rem}
td,.facts dd,svg text{font-variant-numeric:tabular-nums}
details{margin-top:.6rem}summary{cursor:pointer;color:var(--soft)}
a{color:var(--one)}
:focus-visible{outline:3px solid var(--one);outline-offset:2px}
figure{margin:0}figcaption{color:var(--soft);font-size:.9rem;margin:.3rem 0}
svg{display:block;max-width:100%;height:auto}
svg text{font:12px system-ui,sans-serif;fill:var(--ink)}
svg .tick,svg .axis{fill:var(--soft)}svg .lane-name{font-weight:600}
.grid{stroke:var(--grid);fill:none}.base{stroke:var(--soft);stroke-width:2}
.stored,.tail{fill:var(--stored)}.aside .stored{fill:var(--aside)}
.gap{stroke:var(--gap);stroke-width:1.5}.gap-under{fill:var(--gap-paper)}.gap-line{stroke:var(--gap);stroke-width:3}
.missing{fill:var(--card);stroke:var(--gap);stroke-width:1.5;stroke-dasharray:3 2}
.open{stroke:var(--open)}.open-under{fill:var(--open-paper)}.open-line{stroke:var(--open);stroke-width:1.5}
.fork{stroke:var(--soft);stroke-width:2;fill:none}.fork-dot{fill:var(--card);stroke:var(--soft);stroke-width:2}
.mark{stroke:var(--ink);stroke-width:1.5;fill:none}.mark.frontier{stroke-width:2.5;stroke:var(--good)}
.mark.hold{stroke-dasharray:6 4}.mark.written{stroke-dasharray:1.5 3}
.event{stroke:var(--soft);stroke-width:1.5;stroke-dasharray:2 3;fill:none}
.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.line.one{stroke:var(--one)}.line.two{stroke:var(--two);stroke-dasharray:7 5}
.key{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;padding:0;margin:.5rem 0 0;font-size:.9rem}
.swatch{display:inline-block;width:22px;height:10px;margin-right:.4rem;border:1.5px solid transparent}
.swatch.stored,.swatch.tail{background:var(--stored)}.swatch.tail{height:5px;vertical-align:middle}.swatch.aside{background:var(--aside)}
.swatch.gap{background:repeating-linear-gradient(45deg,var(--gap) 0 3px,var(--gap-paper) 3px 6px);border-color:var(--gap)}
.swatch.missing{border:1.5px dashed var(--gap)}
.swatch.open{background:repeating-linear-gradient(-45deg,var(--open) 0 1.5px,var(--open-paper) 1.5px 6px);
border-color:var(--open)}
.swatch.one,.swatch.two{height:0;border-top:3px solid var(--one);vertical-align:middle}
.swatch.two{border-top:3px dashed var(--two)}
.narrow{display:none}
@media (max-width:640px){.wide{display:none}.narrow{display:block}header,main,footer{padding:0 10px}section{padding:12px}
.members td.less,.members th.less{display:none}th,td{padding-right:.5rem}table{font-size:.88rem}}
@media print{section{break-inside:avoid}}
"""

SCRIPT: Final = """
(function () {
  "use strict";
  var stale = document.getElementById("stale"), since = "";
  function show(text) {
    var fresh = new DOMParser().parseFromString(text, "text/html");
    if (!fresh.querySelector("[data-live]")) { throw new Error("not the page"); }
    document.title = fresh.title;
    fresh.querySelectorAll("[data-live]").forEach(function (now) {
      var old = document.getElementById(now.id);
      if (old && old.innerHTML !== now.innerHTML) { old.innerHTML = now.innerHTML; }
    });
    since = ""; stale.hidden = true;
  }
  function fail() {
    since = since || new Date().toLocaleTimeString();
    stale.textContent = "The agent has not answered since " + since + ". What you see is from before.";
    stale.hidden = false;
  }
  function look() {
    var reading = String(window.getSelection ? window.getSelection() : "") !== "";
    if (document.hidden || reading) { window.setTimeout(look, 2000); return; }
    var controller = new AbortController(), alarm = window.setTimeout(function () { controller.abort(); }, 10000);
    fetch(window.location.href, { cache: "no-store", signal: controller.signal })
      .then(function (answer) { if (!answer.ok) { throw new Error("no"); } return answer.text(); })
      .then(show).catch(fail)
      .then(function () { window.clearTimeout(alarm); window.setTimeout(look, 5000); });
  }
  window.setTimeout(look, 5000);
})();
"""

NO_SCRIPT_SECONDS: Final = 30
"""Seconds after which a browser without JavaScript loads the page again."""


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_hash(STYLE)}'; script-src 'sha256-{_hash(SCRIPT)}'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy to serve it with: not even a script that got into the page would run."""
