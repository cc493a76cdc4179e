"""A real cluster under load, random faults, and restores from the archive alone: ``make torture``.

``rig`` is the cluster, its load and its diary, ``faults`` what happens to it, ``check`` restores and compares, ``report`` draws.
"""
