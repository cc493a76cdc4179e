"""The configuration: a ``walkeeper:`` section in ``patroni.yml``, or a file of its own that names the ``patroni.yml``."""

from walkeeper.config.load import load
from walkeeper.config.model import AgentSettings, Config, Node, PostgresqlSettings

__all__ = ["AgentSettings", "Config", "Node", "PostgresqlSettings", "load"]
