"""Files that appear all or none: removed in one order, written aside, renamed in the other, the marker last.

Standard library only: old results must be gone before anything heavy is imported, since an import can fail too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from uspex_bridge.errors import OutputError

#: What the bridge leaves for USPEX, in the order of removal; they are published the other way round. USPEX takes a
#: folder for finished when OSZICAR holds ``F=``, and its MATLAB line ends the whole search if CONTCAR is then missing.
VASP_OUTPUTS = ("OSZICAR", "OUTCAR", "CONTCAR", "vasprun.xml", "XDATCAR")
EXTERNAL_OUTPUTS = ("energy.txt", "geom.out")
#: By executable.
OUTPUTS = {"vasp": VASP_OUTPUTS, "external": EXTERNAL_OUTPUTS}


def remove(folder: Path, names: Iterable[str]) -> None:
    """Remove files and what an interrupted :func:`publish_files` left of them, in order; absent ones are fine.

    Raises:
        OutputError: a file cannot be removed.
    """
    for name in names:
        for path in (folder / name, _temporary(folder, name)):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise OutputError(f"{path}: cannot be removed: {_reason(error)}; an old result must not stay") from None


def publish_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write files so that they appear in order, the last only when all others are whole and on disk.

    Killed at any moment this leaves hidden temporary files at worst, which :func:`remove` takes away. On any failure
    every file of ``files`` is removed.

    Raises:
        OutputError: a file cannot be written; none is left.
    """
    name = ""
    try:
        for name, text in files.items():
            _temporary(folder, name).write_text(text, encoding="utf-8")
        _sync_all([_temporary(folder, name) for name in files])
        *others, final = files
        for name in others:
            _temporary(folder, name).replace(folder / name)
        _sync_folder(folder)
        name = final
        _temporary(folder, name).replace(folder / name)
    except BaseException as error:
        for written in reversed(list(files)):
            for path in (folder / written, _temporary(folder, written)):
                with suppress(OSError):
                    path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OutputError(f"{folder / name}: cannot be written: {_reason(error)}; no result is left") from error
        raise
    _sync_folder(folder)


def _temporary(folder: Path, name: str) -> Path:
    return folder / f".{name}.part"


def _sync_all(paths: list[Path]) -> None:
    """Put files on disk, all at once: a file system then commits them together, several times faster than in turn."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(paths)) as pool:
        list(pool.map(_sync, paths))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Make renames last over a power failure, on file systems that can."""
    with suppress(OSError):
        _sync(folder)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
