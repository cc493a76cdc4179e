"""Whole agents over a simulated world: their real code, with every thread, process and second made here.

``threads`` is time and processes, ``wal`` what PostgreSQL writes, ``nodes`` a host with its server, spool and Patroni,
``seams`` what an agent sees of it, ``handing_over`` PostgreSQL's own archiver, ``world`` DCS, store and network, ``faults``
what happens to them, ``invariants`` what must hold after every step, ``schedule`` one run and its shrinking,
``mutations`` deliberate bugs.
"""
