"""The agent: the one long-running process per node, and the archiver inside it while this node owns the record."""
