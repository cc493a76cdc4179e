"""``python -m patroni`` at half its price: whenever it is imported, also to start each server, Patroni parses two thousand lines of YAML.

Here libyaml does that, where PyYAML has it. All else is Patroni's own.
"""

from __future__ import annotations

import functools

import yaml

yaml.safe_load = functools.partial(yaml.load, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))

if __name__ == "__main__":
    from patroni.__main__ import main

    main()
