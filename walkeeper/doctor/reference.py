"""docs/doctor.md, made from the rules: ``python -m walkeeper.doctor.reference > docs/doctor.md``."""

from __future__ import annotations

from itertools import groupby
from typing import Final

from walkeeper.doctor import rules
from walkeeper.doctor.rule import ordered

__all__ = ["rules"]

_HEAD: Final = """\
# What doctor looks at

`walkeeper doctor` tells whether a cluster is set up so that the promises hold. It runs on any node, as the agent's user, and
changes nothing without `--fix`; the store's probe writes one object under `probe/` and removes it again.

| exit code | |
| --- | --- |
| 0 | no promise is broken; warnings and remarks there may be |
| 1 | an *error*: something breaks a promise |
| 2 | no error, and something of the weight of an error could not be looked at |

What cannot be looked at is said (`unknown`, "not known, because …") and never counted as good. A node's files, its rights on the
store and its view of the DCS can only be seen on that node: run doctor on each.

Of a cluster that has several stores ([stores.md](stores.md)) the rules below *Store* and those of the record are asked of each,
and what they find of another one than the first begins with its name.

`--fix` fixes what is marked so below, through Patroni's REST API, after showing it and asking; `--yes` answers for scripts.
`--json` prints `scope`, `node`, `version`, `exit_code` and `findings`;
each has `rule`, `area`, `state` (`ok`, `error`, `warning`,
`info`, `unknown`), `severity` (the rule's own weight), `member`, `text`, `why`, `fix` (lines to paste) and `fixable`.
Keys may be added, and none will change.
"""


def reference() -> str:
    """The document."""
    parts = [_HEAD]
    for area, its in groupby(ordered(), key=lambda each: each.area):
        parts.append(f"\n## {area}\n")
        for each in its:
            head = "Fix (`--fix` does it)" if each.fixable else "Fix"
            parts.append(f"\n### `{each.name}` ({each.severity})\n\n**{each.what}** {each.why}\n\n{head}: {each.fix}\n")
    return "".join(parts)


if __name__ == "__main__":
    print(reference(), end="")  # noqa: T201
