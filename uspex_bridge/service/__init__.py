"""Models kept warm for many calls.

It knows callers, jobs, workers and their pool, and device slots; it does not know what a job computes, since it runs a
call as the executable does.
"""
