"""docs/configuration.md, made from walkeeper/config/keys.py: ``python -m walkeeper.config.reference > docs/configuration.md``."""

from __future__ import annotations

import inspect
from typing import Final

from walkeeper.config.keys import Key, all_sections, keys_of
from walkeeper.config.overrides import variable
from walkeeper.lib.units import Interval, Rate, Seconds, Size

_HEAD: Final = """\
# Configuration

Either a `walkeeper:` section in `patroni.yml`, which Patroni keeps and ignores:

```yaml
walkeeper:
  store:
    s3:
      bucket: our-wal
```

or a file of its own, with the same keys at the top level and one more that names the `patroni.yml`:

```yaml
patroni_config: /etc/patroni.yml
store:
  directory: /mnt/wal
```

The file is the one that `--config` names, else `$WALKEEPER_CONFIG`, else the first that is there of `/etc/walkeeper.yml`,
`/etc/patroni.yml`, `/etc/patroni/patroni.yml`, `/etc/patroni/config.yml`. Name it in the same way to the agent, to the
callbacks, to `archive-push` and to `restore-wal`: its path is how the others find the agent.

From `patroni.yml`, or from the `PATRONI_…` variable that goes before it, walkeeper takes `scope`, `name`, `namespace`,
`citus.group`, and under `postgresql` `data_dir`, `bin_dir`, `listen`, `use_unix_socket_repl` with
`parameters.unix_socket_directories` (in the dynamic configuration, too), `krbsrvname`, and `authentication.replication` with
all its keys. Where none of these has a password, libpq looks for one, for pg_receivewal as for SQL: `PGPASSWORD`, `PGPASSFILE`
and `~/.pgpass` of the agent's user, where a line must be for the database `replication`, or for all. Patroni does not pass its
`PATRONI_…` variables on to callbacks and to PostgreSQL: where something is said only there, an agent that a callback starts,
and `restore-wal`, do not know it. Of all this `restore-wal` needs `scope` and `citus.group` only.

- Sizes: `1GiB`, `512MB` (as in PostgreSQL, MB is 1024 kB), or a number of bytes. Durations: `5s`, `500ms`, `2min`, or a number
  of seconds; `backup.keep` and `backup.full_every` need the unit, as in `14d`. Paths are absolute.
- Each key has an environment variable, named in the tables, that goes before the file; an empty one counts as not set.
  A list is written with commas. A `WALKEEPER_…` variable that is none of them is refused, but for `WALKEEPER_CONFIG`,
  `WALKEEPER_RUN_DIR`, `WALKEEPER_PYTHON` and what Kubernetes sets for a service of that name.
- Unknown keys, duplicate keys, values of the wrong type and unexpanded `$VARIABLES` are refused, with file, line and path.
- Secrets come from a file of their own, from the environment, or from the configuration itself if its mode lets only its
  owner read it.

The agent's socket, its lock and the first lines of an agent that a callback started lie in `$WALKEEPER_RUN_DIR`, else in
`/run/walkeeper` if it is there and may be written, else in `~/.walkeeper/HOST`; so do, below `archived/`, the markers that
`walkeeper-archive-push` believes. What lies there is believed: walkeeper refuses a directory that anybody but the agent's user
and root may write, there and on its path (a sticky one such as /tmp may be everybody's on the way).
"""


def reference() -> str:
    """The document."""
    parts = [_HEAD]
    for path, section in all_sections():
        title = ".".join(path)
        parts.append(f"## `{title}`\n" if title else "## Top level\n")
        parts.append(f"{inspect.cleandoc(section.__doc__ or '')}\n")
        parts.append("| key | default | | variable |\n| --- | --- | --- | --- |")
        keys = sorted(keys_of(section, path), key=lambda key: not key.required)
        parts.append("\n".join(map(_row, keys)) + "\n")
    return "\n".join(parts)


def _row(key: Key) -> str:
    named = f"`{variable(key)}`" if key.kind != "sections" else ""
    return f"| `{key.name}` | {_default(key)} | {key.description} | {named} |"


def _default(key: Key) -> str:
    if key.required:
        return "required"
    if key.default is None or key.default in ("", ()):
        return ""
    return f"`{_as_written(key.default)}`"


def _as_written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Interval | Rate) and not value:
        return "off"
    if isinstance(value, Seconds):
        return f"{value:g}s"
    if isinstance(value, Size):
        return f"{value // 1024**2}MiB" if value % 1024**3 else f"{value // 1024**3}GiB"
    return str(value)


if __name__ == "__main__":
    print(reference(), end="")  # noqa: T201
