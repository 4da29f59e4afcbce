"""Whether a set-up will work.

It knows packages, weights, settings, USPEX's inputs and a trial relaxation; it does not know results or the
service.
"""
