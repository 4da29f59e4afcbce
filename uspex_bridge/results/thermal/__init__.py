"""Free energies of the phases of a search, and which of them are stable at a temperature.

It knows hulls and free energies of single structures, but not how anything is drawn.
"""
