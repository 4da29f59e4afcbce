"""What every room rests on.

It knows errors, units, files, locks and the data that passes between rooms; it does not know any model, any
USPEX file or any command.
"""
