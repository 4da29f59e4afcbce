"""Machine-learned potentials.

It knows which kinds there are, their weights and how structures are evaluated together, here or in a worker
process; it does not know what is relaxed, or for whom.
"""
