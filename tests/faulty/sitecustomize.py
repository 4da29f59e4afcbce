"""What Python runs at its start where this folder is on PYTHONPATH: TEST_FAULT happens in one process."""

import json
import os
import sys

if (asked := json.loads(os.environ.get("TEST_FAULT", "null"))) and asked["role"] in " ".join(sys.orig_argv):
    try:
        os.unlink(asked["token"])  # the next such process is spared
    except FileNotFoundError:
        pass
    else:
        from faults import Faults

        Faults(asked["root"], asked["what"], asked["at"]).arm()
