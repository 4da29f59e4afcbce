"""Labels by DFT.

It knows what a code is given, what has become of it and which of its results can be believed; it does not know
what chose the structures or what is trained on them.
"""
