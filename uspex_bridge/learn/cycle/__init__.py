"""The loop between generations.

It knows what the loop needs, the order of its steps and whether a new model is taken; it does not know what a
step does, since each is a command in a process of its own.
"""
