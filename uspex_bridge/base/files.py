"""Files that appear whole or not at all; a result's are removed in one order, renamed in the other, the marker last.

Standard library only: old results must be gone before anything heavy is imported, since an import can fail too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from uspex_bridge.base.errors import OutputError

#: What the bridge leaves for USPEX, in the order of removal; they are published the other way round. USPEX takes a
#: folder for finished when OSZICAR holds ``F=``, and its MATLAB line ends the whole search if CONTCAR is then missing.
VASP_OUTPUTS = ("OSZICAR", "OUTCAR", "CONTCAR", "vasprun.xml", "XDATCAR")
EXTERNAL_OUTPUTS = ("energy.txt", "output.xyz", "geom.out")
#: VASP's files that the setting ``files`` asks for.
FURTHER_OUTPUTS = ("EIGENVAL", "DOSCAR")
#: What a run removes before it begins, by executable.
OUTPUTS = {"vasp": (*VASP_OUTPUTS, *FURTHER_OUTPUTS), "external": EXTERNAL_OUTPUTS}


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


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Let what goes wrong while ``place`` is written be an error that names it.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(f"{place}: cannot be written: {_reason(error)}") from error


@contextmanager
def replacing(place: Path) -> Iterator[Path]:
    """Give a path beside ``place`` to write a file or a folder to, which takes its place in the end.

    Whatever goes wrong before leaves what was there.

    Raises:
        OutputError: it cannot be written.
    """
    draft = place.with_name(f".new.{place.name}")
    try:
        with writing(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            _delete(draft)
            yield draft
            if draft.is_dir():
                _delete(place)
            draft.replace(place)
    finally:
        with suppress(OSError):
            _delete(draft)


def checksum(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    import hashlib

    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _delete(path: Path) -> None:
    """Delete a file or a folder with all that is in it, or nothing."""
    if path.is_dir():
        import shutil

        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
