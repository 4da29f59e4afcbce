"""One call from POSCAR to OSZICAR, and many structures by hand.

It knows settings, working folders and the record; it does not know the service, results folders or the command
line.
"""
