"""What any program could use: clocks, deadlines, durable files, log lines, threads, retries, the terminal."""
