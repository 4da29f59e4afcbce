"""When two structures are the same phase, and what its crystallographers would print of it.

It knows structures, but neither hulls nor searches.
"""
