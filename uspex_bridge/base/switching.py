"""A smooth end of what reaches only so far."""

from __future__ import annotations

import numpy as np

from uspex_bridge.base.data import Array


def switch(x: Array, inner: float, outer: float) -> tuple[Array, Array]:
    """Return a factor that falls from 1 at ``inner`` to 0 at ``outer`` with two derivatives, and its slope."""
    t = np.clip((x - inner) / (outer - inner), 0.0, 1.0)
    return 1.0 - t**3 * (10.0 - 15.0 * t + 6.0 * t**2), -30.0 * t**2 * (1.0 - t) ** 2 / (outer - inner)
