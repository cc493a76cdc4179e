"""The servers that are not here yet, a line each: for ``tools/postgres-from-debian``.  python -m tests.matrix"""

from __future__ import annotations

from tests.matrix.versions import MAJORS
from tests.parts.binaries import all_postgres
from tests.parts.consul import consul_program

if __name__ == "__main__":
    for major in MAJORS:
        if major not in all_postgres():
            print(major)
    if consul_program() is None:
        print("consul")
