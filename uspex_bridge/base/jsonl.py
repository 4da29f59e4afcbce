"""Files of JSON lines that several processes append to: a line is whole or it is passed over."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

from uspex_bridge.base.errors import InputError, OutputError
from uspex_bridge.base.locks import NO_LOCKS

#: Seconds that the others who append may take, and between two looks at the lock.
_WAIT, _LOOK = 60.0, 0.02
#: Brackets within brackets of a line; those of this project's own have less than ten.
_DEEPEST = 200


def append(path: Path, *entries: dict[str, Any]) -> None:
    """Append entries under the file's own lock, all or none; a half line left by a kill is closed off first.

    Raises:
        OutputError: the file cannot be written, is a pipe, or is a link to somewhere else.
    """
    if path.is_symlink() and not path.resolve().is_relative_to(path.parent.resolve()):
        raise OutputError(f"{path}: is a link to another folder and is not written")
    if path.is_fifo():
        raise OutputError(f"{path}: is a pipe and is not written")
    lines = b"".join(map(_line, entries))
    try:
        with path.open("a+b", buffering=0) as stream:
            _lock(stream)
            end = stream.seek(0, os.SEEK_END)
            if end > 0:
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":
                    lines = b"\n" + lines
            try:
                _write(stream, lines)
            except OSError:
                with suppress(OSError):
                    stream.truncate(end)
                raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _write(stream: IO[bytes], data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[stream.write(left) :]
    os.fsync(stream.fileno())


def _lock(stream: IO[bytes]) -> None:
    """Hold the lock of an open file until it is closed; where the file system has no locks, go on without.

    Raises:
        OSError: another process holds it for too long.
    """
    end = time.monotonic() + _WAIT
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise TimeoutError(errno.ETIMEDOUT, "another process holds its lock") from None
            time.sleep(_LOOK)
        except OSError as error:
            if error.errno in NO_LOCKS:
                return
            raise


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of a file in order; lines that are not whole JSON objects are passed over."""
    with path.open("rb") as stream:
        yield from parse(stream)


def read_at(path: Path, offset: int) -> dict[str, Any]:
    """Return the entry whose line begins at a byte of the file.

    Raises:
        InputError: there is none, since the file has changed.
    """
    with path.open("rb") as stream:
        stream.seek(offset)
        for entry in parse([stream.readline()]):
            return entry
    raise InputError(f"{path}: it changed while it was read; try again")


def loads(text: str | bytes) -> Any:
    """Return what a text of JSON says.

    Raises:
        ValueError: it is not JSON, or its brackets are nested too deeply.
    """
    if _is_too_deep(text):
        raise ValueError(f"more than {_DEEPEST} nested brackets")
    return json.loads(text)


def _is_too_deep(text: str | bytes) -> bool:
    """Tell whether brackets are nested too deeply; where a package has raised Python's own limit, json would crash."""
    said = text.encode("utf-8", "replace") if isinstance(text, str) else text
    if said.count(b"[") + said.count(b"{") <= _DEEPEST:
        return False
    depths = accumulate(1 if bracket in b"[{" else -1 for bracket in re.findall(rb"[][{}]", said))
    return max(depths) > _DEEPEST


def parse(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the lines that are whole JSON objects."""
    for line in lines:
        try:
            entry = loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry


def _line(entry: dict[str, Any]) -> bytes:
    """Return the line of an entry; bytes of a path that are no UTF-8 become JSON's escapes."""
    text = json.dumps(entry, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"
