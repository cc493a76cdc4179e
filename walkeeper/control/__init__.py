"""The agent's Unix socket: who asks, who answers, where it is, and how an agent is started."""
