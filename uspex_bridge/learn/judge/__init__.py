"""Models against labels, against each other and on hard cases.

It knows errors and probes; it does not know how a model was trained.
"""
