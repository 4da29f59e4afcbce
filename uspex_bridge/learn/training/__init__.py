"""Training.

It knows the upstream trainers' inputs, files and logs, and a model's card; it does not know what chose the
structures, and imports no trainer's package.
"""
