"""How a sweep reaches machines: the same command several times on one results directory, ``CNNJAX_SHARD`` set.

Nothing here trains, and nothing below knows of it: the tasks share their work through the results directory alone.
"""
