"""Files that appear whole or not at all; a result's are removed in one order, renamed in the other, the marker last.

Standard library only: old results must be gone before anything heavy is imported, since an import can fail too.
"""

from __future__ import annotations

import glob
import importlib
import os
import socket
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from uspex_bridge.base.errors import InputError, OutputError

#: What the bridge leaves for USPEX, in the order of removal; they are published the other way round. USPEX takes a
#: folder for finished when OSZICAR holds ``F=``, and its MATLAB line ends the whole search if CONTCAR is then missing.
VASP_OUTPUTS = ("OSZICAR", "OUTCAR", "CONTCAR", "vasprun.xml", "XDATCAR")
EXTERNAL_OUTPUTS = ("energy.txt", "output.xyz", "geom.out")
#: VASP's files that the setting ``files`` asks for.
FURTHER_OUTPUTS = ("EIGENVAL", "DOSCAR")
#: What a run removes before it begins, by executable.
OUTPUTS = {"vasp": (*VASP_OUTPUTS, *FURTHER_OUTPUTS), "external": EXTERNAL_OUTPUTS}
#: First bytes of compressed files -> the module that unpacks them.
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\0": "lzma"}
#: First bytes of what has to be unpacked by hand -> what it is.
_PACKED = {b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstd", b"\x1f\x9d": "compress", b"7z\xbc\xaf\x27\x1c": "7z"}


def read_text(path: Path) -> str:
    """Return the text of a file: UTF-8, with a mark or without, or UTF-16; compressed by gzip, bzip2 or xz, or not.

    Bytes that are none of that are kept as marks, since only names and numbers matter. Where carriage returns alone end
    the lines, as on old Macintoshes, they become newlines.

    Raises:
        InputError: the file is missing, is a folder, a pipe or a device, cannot be read, or holds a NUL byte.
    """
    data = _decompressed(path, regular_bytes(path))
    text = _utf16(data)
    if text is None:
        text = data.decode("utf-8-sig", errors="replace")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{path}, line {line}: contains a NUL byte: the file is damaged")
    return text if "\n" in text else text.replace("\r", "\n")


def _utf16(data: bytes) -> str | None:
    """Return a text in UTF-16, with a mark or without; None where the bytes make no sense as that."""
    codecs = ("utf-16",) if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-16-le", "utf-16-be")
    for codec in codecs if len(codecs) == 1 or b"\0" in data else ():
        with suppress(UnicodeDecodeError):
            text = data.decode(codec)
            if "\0" not in text and 2 * sum(map(str.isascii, text)) >= len(text):
                return text
    return None


def regular_bytes(path: Path) -> bytes:
    """Return what is in a file; a pipe or a device, which may never end, is refused.

    Raises:
        InputError: see :func:`read_text`.
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise InputError(f"{path}: {'a folder' if stat.S_ISDIR(mode) else 'a pipe or a device'}, not a file")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {_reason(error)}") from None


def _decompressed(path: Path, data: bytes) -> bytes:
    for mark, module in _COMPRESSED.items():
        if data.startswith(mark):
            try:
                unpacked: bytes = importlib.import_module(module).decompress(data)
            except (OSError, EOFError, ValueError, ImportError) as error:
                raise InputError(f"{path}: looks compressed, but cannot be unpacked: {error}") from None
            return unpacked
    for mark, kind in _PACKED.items():
        if data.startswith(mark):
            raise InputError(f"{path}: is compressed by {kind}; decompress it first")
    return data


def home() -> Path:
    """Return the user's home; the root where there is none, as for users that only a container knows."""
    with suppress(RuntimeError):
        return Path.home()
    return Path(os.sep)


def user_data() -> Path:
    """Return the folder of this package's data in the user's own."""
    return Path(os.environ.get("XDG_DATA_HOME") or home() / ".local" / "share") / "uspex_bridge"


def user_cache() -> Path:
    """Return the folder of the user's caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or home() / ".cache")


def split_lines(text: str) -> list[str]:
    """Return the lines of a text as VASP and USPEX see them: only a newline ends one, with a carriage return or not.

    ``str.splitlines`` also splits at form feeds, Unicode's separators and others, which may stand in a title.
    """
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines and not lines[-1] else lines


def named(path: Path) -> Path:
    """Return an absolute path as the shell names it, in which the working directory may lie behind a link."""
    here = os.environ.get("PWD", "")
    with suppress(OSError):
        if not path.is_absolute() and os.path.isabs(here) and os.path.samefile(here, "."):
            return Path(os.path.normpath(os.path.join(here, path)))
    return path.absolute()


def pressure_folder(out: Path, pressure_gpa: float) -> Path:
    """Return the folder of one of several pressures, GPa, such as ``50GPa``."""
    return out / f"{pressure_gpa:g}GPa"


def remove(folder: Path, names: Iterable[str]) -> None:
    """Remove files and what an interrupted :func:`publish_files` left of them, in order; absent ones are fine.

    A file that cannot be removed is emptied, so that no result is read from it.

    Raises:
        OutputError: a file cannot be removed.
    """
    failed: OutputError | None = None
    for name in names:
        for path in (folder / name, folder / _temporary(name)):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                reason = f"{path}: cannot be removed: {_reason(error)}; an old result must not remain"
                failed = failed or OutputError(reason)
                try:
                    _empty(path)
                except OSError:  # the others then stay too: OSZICAR without CONTCAR would end USPEX's MATLAB line
                    raise failed from None
    if failed:
        raise failed


def publish_files(folder: Path, files: Mapping[str, str], check: Callable[[], None] = lambda: None) -> None:
    """Write files so that they appear in order, the last only when all others are whole and on disk.

    Killed at any moment this leaves hidden temporary files at worst, which :func:`remove` takes away. On any failure
    every file of ``files`` is removed. The folder is opened once: if it is replaced meanwhile, nothing appears in the
    new one.

    Args:
        folder: holds the files.
        files: name -> text.
        check: called before anything is written and before files appear; if it raises, what others left in the folder
            stays.

    Raises:
        OutputError: a file cannot be written; none is left.
    """
    publication = _Publication(folder, files, check)
    try:
        publication.publish()
    except BaseException as error:
        publication.withdraw()
        if isinstance(error, OSError):
            name, reason = publication.name, _reason(error)
            raise OutputError(f"{folder / name}: cannot be written: {reason}; no result was written") from error
        raise
    finally:
        publication.close()


class _Publication:
    """Files on their way into a folder; ``name`` is the one at hand."""

    def __init__(self, folder: Path, files: Mapping[str, str], check: Callable[[], None]) -> None:
        self.folder, self.files, self.check = folder, files, check
        self.name = next(iter(files))
        self._folder = -1
        self._handles: list[int] = []
        self._mine: set[int] = set()  # inodes
        self._checking = False

    def publish(self) -> None:
        self._folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._check()
        for name in self.files:
            self.name = name
            self._write(self.files[name])
        _sync_all(self._handles)
        self._check()
        *others, final = self.files
        for name in others:
            self._appear(name)
        _sync_folder(self._folder)
        self._check()
        self._appear(final)
        _sync_folder(self._folder)

    def _check(self) -> None:
        self._checking = True
        self.check()
        self._checking = False

    def _write(self, text: str) -> None:
        name, flags = _temporary(self.name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            handle = os.open(name, flags, 0o666, dir_fd=self._folder)
        except FileExistsError:  # left by a run that was killed, or a link
            os.unlink(name, dir_fd=self._folder)
            handle = os.open(name, flags, 0o666, dir_fd=self._folder)
        self._handles.append(handle)
        self._mine.add(os.fstat(handle).st_ino)
        left = memoryview(text.encode())
        while left:
            left = left[os.write(handle, left) :]

    def _appear(self, name: str) -> None:
        self.name = name
        os.replace(_temporary(name), name, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def withdraw(self) -> None:
        """Remove what has been written; the last to appear goes first."""
        if self._folder < 0:
            return
        for name in reversed(list(self.files)):
            for each in (name, _temporary(name)):
                with suppress(OSError):
                    theirs = os.stat(each, dir_fd=self._folder, follow_symlinks=False).st_ino not in self._mine
                    if not (theirs and self._checking):
                        os.unlink(each, dir_fd=self._folder)

    def close(self) -> None:
        for handle in (*self._handles, self._folder):
            if handle >= 0:
                with suppress(OSError):
                    os.close(handle)


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

    Whatever goes wrong before leaves what was there. Of processes that do this at once the last one counts. Of a link
    the target is replaced; a device or a pipe is written itself.

    Raises:
        OutputError: it cannot be written.
    """
    if _is_stream(place):
        with writing(place):
            yield place
        return
    place = Path(os.path.realpath(place)) if place.is_symlink() else place
    beside = place.with_name(f"{_drafts_of(place)}{os.getpid()}")  # a folder: libraries write files beside theirs
    draft = beside / place.name
    try:
        with writing(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            _delete_abandoned(place, beside)
            beside.mkdir()
            yield draft
            if draft.is_dir():
                delete(place)
            draft.replace(place)
    finally:
        with suppress(OSError):
            delete(beside)


def write_whole(place: Path, content: str | bytes) -> None:
    """Write a file, whole or not at all; a text in UTF-8.

    Raises:
        OutputError: it cannot be written; what was there stays.
    """
    with replacing(place) as draft:
        draft.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)


def _is_stream(place: Path) -> bool:
    """Tell whether a path is a device, a pipe or an open file of this process, such as ``/dev/stdout``."""
    try:
        mode = place.stat().st_mode
        target = place.readlink() if place.is_symlink() else place
    except OSError:
        return False
    opened = os.path.realpath(target.parent).startswith("/proc/")
    return opened or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _drafts_of(place: Path) -> str:
    """Return what the names of folders with drafts of ``place`` begin with, before the number of the process."""
    return f".new.{place.name}.{socket.gethostname()}."


def _delete_abandoned(place: Path, mine: Path) -> None:
    """Delete what processes of this machine that are no more have left of ``place``, and an older draft of this one."""
    for path in place.parent.glob(f"{glob.escape(_drafts_of(place))}*"):
        number = path.name.removeprefix(_drafts_of(place))
        if path == mine or (number.isdigit() and not Path(f"/proc/{number}").exists()):
            delete(path)


def checksum(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    import hashlib

    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def delete(path: Path) -> None:
    """Delete a file or a folder with all that is in it, or nothing."""
    if path.is_dir():
        import shutil

        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _temporary(name: str) -> str:
    return f".{name}.part"


def _empty(path: Path) -> None:
    with suppress(FileNotFoundError):
        os.close(os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK))


def _sync_all(handles: list[int]) -> None:
    """Put files on disk, all at once: a file system then commits them together, several times faster than in turn."""
    from concurrent.futures import ThreadPoolExecutor

    try:
        with ThreadPoolExecutor(len(handles)) as pool:
            list(pool.map(os.fsync, handles))
    except RuntimeError:  # no more threads for this user
        for handle in handles:
            os.fsync(handle)


def _sync_folder(handle: int) -> None:
    """Make renames last over a power failure, on file systems that can."""
    with suppress(OSError):
        os.fsync(handle)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
