"""One file per kind of model, each with a ``CARD`` and a function ``build`` (docs/calculators.md).

A file knows its model's package, imported when the model is built; it does not know any other room but base and models.
"""
