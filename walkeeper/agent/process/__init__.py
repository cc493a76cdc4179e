"""The agent as a process: signals, the background, restarts, the service manager."""
