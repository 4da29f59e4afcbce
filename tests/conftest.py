"""One thread per process, set before numpy is imported: the tests start many processes side by side."""

import os

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"

#: No test may reach a service that the user of this machine runs; those of tests have sockets of their own.
os.environ["USPEX_BRIDGE_SOCKET"] = "/nonexistent/service.sock"
