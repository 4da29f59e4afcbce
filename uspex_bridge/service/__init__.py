"""Models kept warm for many calls.

It knows workers, their pool, device slots, jobs and batches; it does not know what a job computes, since it
runs a call as the executable does.
"""
