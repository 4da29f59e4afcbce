"""Acting as a caller would: its working directory, mask and environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from uspex_bridge.service.client import ENVIRONMENT

#: What of an order says who the caller is.
KEYS = ("cwd", "umask", "environment")


@contextmanager
def as_caller(order: dict[str, Any]) -> Iterator[None]:
    """Take the working directory, mask and environment of a caller.

    Raises:
        OSError: the directory cannot be entered.
    """
    for name in ENVIRONMENT:
        if name in order["environment"]:
            os.environ[name] = order["environment"][name]
        else:
            os.environ.pop(name, None)
    mask = os.umask(order["umask"])
    try:
        os.chdir(order["cwd"])
        yield
    finally:
        os.umask(mask)
        os.chdir("/")
