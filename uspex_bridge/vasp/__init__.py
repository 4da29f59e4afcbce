"""VASP's files as text.

It knows how they are read and written, with VASP's units and signs; it does not know ASE, models or how
anything is relaxed.
"""
