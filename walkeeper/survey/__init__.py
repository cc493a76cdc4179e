"""What the archive holds, for people: ``list`` and ``fetch``, and what ``verify`` judges."""
