"""What is killed at random, many times over; ``make crash`` runs some of it, and ``--backups`` says how much."""
