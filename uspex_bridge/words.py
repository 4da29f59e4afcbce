"""Words of messages."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """Return ``1 structure``, ``2 structures``, ``3 entries``."""
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count} {noun if count == 1 else many}"
