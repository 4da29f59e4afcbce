"""Words of messages."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """Return ``1 structure``, ``2 structures``, ``3 entries``."""
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count} {noun if count == 1 else many}"


def duration(seconds: float) -> str:
    """Return seconds in words."""
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {left:02d} s" if minutes else f"{seconds:.1f} s"
