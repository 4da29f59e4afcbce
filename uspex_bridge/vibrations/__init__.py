"""Vibrations and free energies.

It knows phonons, their thermodynamics and the self-consistent harmonic approximation; it does not know files, INCAR
tags, how a model is loaded or how a structure is relaxed at 0 K.
"""
