"""Results folders, records and files of structures as entries of one pool.

It knows USPEX's output and the bridge's record, but neither phases nor hulls.
"""
