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


def test_it_is_an_attribute_of_its_package_before_and_after_it_is_loaded() -> None:
    program = """
import sys
from walkeeper.lib.later import load_when_used
load_when_used("wsgiref.headers")
import wsgiref.headers
print(wsgiref.headers.__class__.__name__, wsgiref.headers.Headers([("a", "b")])["a"])
print(wsgiref.headers is sys.modules["wsgiref.headers"], wsgiref.headers.__class__.__name__)
load_when_used("nobody_has.this")
try:
    import nobody_has.this
except ImportError:
    print("lacking")
"""
    assert said(program) == ["_Later", "b", "True", "module", "lacking"]


def test_it_is_loaded_once_where_two_threads_are_the_first() -> None:
    program = """
import sys, threading
from types import SimpleNamespace
from walkeeper.lib import later
later.load_when_used("wsgiref.headers")
from wsgiref import headers

class Modules:
    def get(self, name):
        found = sys.modules.get(name)
        if threading.current_thread() is threading.main_thread():
            other.start()
            other.join(1)  # it is held off until this one is through
        return found

    def __delitem__(self, name):
        del sys.modules[name]

found = []
other = threading.Thread(target=lambda: found.append(headers.Headers))
later.sys = SimpleNamespace(modules=Modules())
found.append(headers.Headers)
other.join()
print(len(found), found[0] is found[1])
"""
    assert said(program) == ["2", "True"]
