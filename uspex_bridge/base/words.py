"""Words of messages."""

from __future__ import annotations

from collections.abc import Iterable

#: Control characters, all that end a line among them, but the tab.
_CONTROLS = {
    code: chr(code).encode("unicode_escape").decode()
    for code in (*range(9), *range(10, 32), *range(0x7F, 0xA0), 0x2028, 0x2029)
}


def one_line(text: str) -> str:
    """Return a text with an escape in the place of each control character: names of files and keys may hold any."""
    return text.translate(_CONTROLS)


def counted(count: int, noun: str) -> str:
    """Return ``1 structure``, ``2 structures``, ``3 entries``."""
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count} {noun if count == 1 else many}"


def ending(code: int) -> str:
    """Return how a process ended, by its exit code as :mod:`subprocess` gives it."""
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"


def duration(seconds: float) -> str:
    """Return seconds in words."""
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {left:02d} s" if minutes else f"{seconds:.1f} s"


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return the shortest ends of paths that tell the names apart."""
    paths = {name: name.split("/") for name in names}
    for parts in range(1, max(map(len, paths.values()), default=1)):
        short = {name: "/".join(path[-parts:]) for name, path in paths.items()}
        if len(set(short.values())) == len(paths):
            return short
    return {name: name for name in paths}
