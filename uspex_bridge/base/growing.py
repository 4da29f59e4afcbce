"""Files of a folder that grow together: what is added to them is in all or in none, also after a kill.

While something is added, a note beside them says how long they were. What a kill cut off is taken back by the next run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from uspex_bridge.base import jsonl
from uspex_bridge.base.files import delete, write_whole, writing

_NOTE = ".growing"


@contextmanager
def together(folder: Path, *names: str) -> Iterator[None]:
    """Let files and folders of ``folder`` grow or be made; the last one must be a file of lines that grows last.

    Raises:
        OutputError: nothing can be noted; nothing has grown.
    """
    note = folder / _NOTE
    with writing(folder):
        note.write_text(json.dumps({name: _size(folder / name) for name in names}))
    try:
        yield
    except BaseException:
        with suppress(OSError):
            _take_back(folder)
        raise
    with suppress(OSError):  # that the last one has grown tells as much
        note.unlink()


def take_back(folder: Path) -> None:
    """Undo what was cut off by a kill.

    Raises:
        OutputError: a file cannot be cut back.
    """
    with writing(folder):
        _take_back(folder)


def append(path: Path, text: str) -> None:
    """Append to a file, which appears with its first text in it.

    Raises:
        OutputError: it cannot be written.
    """
    if not path.exists():
        write_whole(path, text)
        return
    with writing(path), path.open("ab", buffering=0) as stream:
        left = memoryview(text.encode("utf-8", "backslashreplace"))
        while left:
            left = left[stream.write(left) :]


def _take_back(folder: Path) -> None:
    note = folder / _NOTE
    try:
        sizes = jsonl.loads(note.read_text(encoding="utf-8"))
        *_, (last, before) = sizes.items()
    except FileNotFoundError:
        return
    except (ValueError, AttributeError):  # half a note: nothing had grown yet
        sizes, last, before = {}, "", None
    if not (last and _is_longer(folder / last, before or 0)):
        for name, size in sizes.items():
            path = folder / Path(name).name
            if size is None:
                delete(path)
            elif path.is_file() and path.stat().st_size > size:
                os.truncate(path, size)
    note.unlink()


def _is_longer(path: Path, size: int) -> bool:
    """Tell whether a file has grown by whole lines."""
    try:
        added = path.read_bytes()[size:]
    except OSError:
        return False
    return added.endswith(b"\n") and len(added) > 1


def _size(path: Path) -> int | None:
    """Return the length of a file or folder in bytes; None where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return None
