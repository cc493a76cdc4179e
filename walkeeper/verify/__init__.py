"""``walkeeper verify``: is the archive whole? ``command`` runs it, ``target`` says what is looked at, ``judge`` what it means."""
