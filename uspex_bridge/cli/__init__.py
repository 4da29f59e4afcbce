"""The command line.

It knows options, progress and how answers are printed; it does not know how an answer is found.
"""
