"""That a module is loaded when something of it is asked for, and not before; each in a Python of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def said(program: str) -> list[str]:
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return answer.stdout.split()


def test_a_module_is_loaded_when_something_of_it_is_asked_for() -> None:
    program = """
import sys
from walkeeper.lib.later import load_when_used
load_when_used("wsgiref.headers")
import wsgiref.headers
from wsgiref import headers
print("wsgiref.headers:" + headers.__class__.__name__)
print(headers.Headers([("a", "b")])["a"], headers.Headers is sys.modules["wsgiref.headers"].Headers)
"""
    assert said(program) == ["wsgiref.headers:_Later", "b", "True"]


def test_what_is_loaded_stays_and_what_a_module_lacks_is_lacking() -> None:
    program = """
import string, wsgiref.headers
from walkeeper.lib.later import load_when_used
load_when_used("string")
import string as again
load_when_used("wsgiref.util")
from wsgiref import util
try:
    util.nothing
except AttributeError:
    print(again is string, "lacking")
"""
    assert said(program) == ["True", "lacking"]
