"""Which structures to compute.

It knows coverage, disagreement, selection and augmentation; it does not know how a structure is computed or how
anything is trained.
"""
