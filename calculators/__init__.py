"""The calculators: one file per kind, each with a ``CARD`` and a function ``build`` (docs/calculators.md)."""
