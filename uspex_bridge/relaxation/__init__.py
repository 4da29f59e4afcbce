"""The staged relaxation.

It knows protocols, ASE's optimizers, cells under pressure and the guards; it does not know files, INCAR tags or
how a model is loaded.
"""
