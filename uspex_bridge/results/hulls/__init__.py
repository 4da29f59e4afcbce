"""Hulls, distances to them, and what follows for a search: tables, seeds, convergence, comparison.

It knows entries and phases, but neither temperature nor how anything is drawn.
"""
