"""USPEX's own input files.

It knows how a search is set up, in which form, and what commonly is wrong in it; it does not know results or
how anything is relaxed.
"""
