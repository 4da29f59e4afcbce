"""Results folders of USPEX.

It knows individuals, duplicates, hulls, seeds and convergence; it does not know how anything is relaxed, drawn
or printed.
"""
