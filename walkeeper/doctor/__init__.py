"""``walkeeper doctor``: is this cluster set up so that the promises hold. ``rules`` decide, ``gather`` looks, ``fix`` repairs."""
