"""Labels and what models say of structures, on disk.

It knows datasets, levels of theory and what of a label can be believed; it does not know what chose a structure
or what is trained on it.
"""
