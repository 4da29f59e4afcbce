"""A USPEX set-up as far as the bridge is concerned: the steps, their commands, and who runs them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from uspex_bridge.base.errors import InputError
from uspex_bridge.base.files import read_text
from uspex_bridge.uspex.inputs import InputTxt, InputUspex, Value
from uspex_bridge.vasp.structure import parse_poscar

#: The executables of the bridge and the codes of the slots that each of them fills.
EXECUTABLES = {"uspex-bridge-vasp": ("1",), "uspex-bridge-external": ("20", "99")}
_SCRIPT_SUFFIXES = (".sh", ".bash", ".py", ".csh")


@dataclass(frozen=True)
class SearchStep:
    """One relaxation step of every structure.

    Attributes:
        number: 1 for the first.
        code: USPEX's code number, or the type of a stage of the Python line; ``vasp`` there is ``1`` here.
        command: its command line, None where there is none.
        incar: the file it gets as INCAR.
        kresol: k-point resolution as written (Python line).
        queued: whether a scheduler or another machine runs it.
        script: what the script that the command starts does (its text without remarks), if it starts one.
        potcars: folder of its POTCAR files.
        line: line of the input file that gives the command.
    """

    number: int
    code: str
    command: str | None
    incar: Path
    kresol: Any = None
    queued: bool = False
    script: str = ""
    potcars: Path = Path()
    line: int | None = None

    @property
    def executable(self) -> str | None:
        """The bridge's executable that the command, or the script it starts, runs; None where it is neither."""
        for name in EXECUTABLES:
            if name in f"{self.command}\n{self.script}":
                return name
        return None

    @property
    def wraps(self) -> bool:
        """Whether the command returns at once and reports the end in JOB_LOG."""
        return "JOB_IS_FINISHED" in self.script


@dataclass(frozen=True)
class Setup:
    """What INPUT.txt or input.uspex says.

    Attributes:
        line: USPEX up to 10.x (``matlab``) and USPEX 26, both with INPUT.txt, or that of 2021-2023 (``python``).
        path: the input file.
        elements: chemical symbols, in USPEX's order.
        blocks: rows of atoms per element.
        varies: whether the composition varies.
        method: calculationMethod (``META`` is metadynamics); calculation: calculationType as written (MATLAB line).
        pressure: GPa.
        parallel: structures relaxed at a time.
        cluster: whichCluster as written (MATLAB line), empty in the Python line.
        command_lines: lines of commandExecutable (MATLAB line).
        lines: where settings of INPUT.txt stand, by name; numbers: values of some of them.
    """

    line: Literal["matlab", "python", "uspex26"]
    path: Path
    steps: tuple[SearchStep, ...]
    elements: tuple[str, ...] = ()
    blocks: tuple[tuple[int, ...], ...] = ()
    varies: bool = False
    pressure: float = 0.0
    parallel: int = 1
    cluster: str = ""
    command_lines: int = 0
    lines: dict[str, int] = field(default_factory=dict)
    method: str = "USPEX"
    calculation: str = ""
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def molecular(self) -> bool:
        """Whether molecules are searched for: then ``blocks`` count them, not atoms."""
        return self.calculation[-2:-1] == "1"

    @property
    def bulk(self) -> bool:
        """Whether the cells of its crystals are free in three dimensions."""
        return self.calculation[:-2] in ("", "3") and self.method != "META"

    @property
    def folder(self) -> Path:
        """The folder that USPEX runs in."""
        return self.path.parent

    @property
    def work(self) -> Path:
        """One of the folders that it makes for relaxations."""
        return _work(self.folder, self.line == "uspex26")

    @property
    def specific(self) -> Path:
        """Its Specific folder."""
        return self.folder / "Specific"


def read_setups(folder: Path, *, of_26: bool = False) -> Iterator[Setup]:
    """Read whichever of INPUT.txt and input.uspex the folder has.

    Args:
        folder: the folder that USPEX runs in.
        of_26: whether INPUT.txt is known to be for USPEX 26.

    Raises:
        InputError: a file cannot be read as USPEX reads it.
    """
    if (folder / "INPUT.txt").exists():
        yield read_matlab(folder / "INPUT.txt", of_26=of_26)
    if (folder / "input.uspex").exists():
        yield read_python(folder / "input.uspex")


def read_matlab(path: Path, *, of_26: bool = False) -> Setup:
    """Read INPUT.txt; abinitioCode 20 and a folder Calculation are USPEX 26's.

    Raises:
        InputError: the file is missing, or a number in it is none where USPEX looks for it.
    """
    text = InputTxt.read(path)
    lines: dict[str, int] = {}
    numbers: dict[str, float] = {}

    def number(name: str, default: float) -> float:
        value = text.keyword(name)
        if value is None:
            return default
        lines[name] = value.line
        try:
            numbers[name] = float(value.text)
            return numbers[name]
        except ValueError:
            raise InputError(
                f"{path}, line {value.line}: USPEX reads '{value.text}' as {name}, since this is the first line that "
                "holds the name; remove the name from it if it is a comment"
            ) from None

    cluster = text.keyword("whichCluster")
    words = {name: text.keyword(name) for name in ("calculationMethod", "calculationType")}
    lines |= {name: value.line for name, value in words.items() if value is not None}
    method, calculation = (value.text if value is not None else "" for value in words.values())
    meta = method == "META"  # its second and third digits speak of supercells
    varies = calculation[-1:] == "1" and not meta
    codes = _codes(text)
    of_26 = of_26 or "20" in codes or (path.parent / "Calculation").is_dir()
    commands = text.block("commandExecutable", "EndExecutable")
    blocks = tuple(_whole(row, path) for row in text.block("numSpeci", "EndNumSpeci") if row.text)
    elements = text.elements()
    if meta and not elements:
        elements = _elements_of_metadynamics(path.parent)
    where = cluster.text if cluster and cluster.text.lower() != "nonparallel" else "0"
    if cluster:
        lines["whichCluster"] = cluster.line
    for name in ("minAt", "maxAt"):
        number(name, 0)
    work = _work(path.parent, of_26)
    numbers_of_steps = range(1, len(codes) + 1)
    return Setup(
        "uspex26" if of_26 else "matlab",
        path,
        tuple(_matlab_step(work, path.parent, n, codes, commands, queued=where != "0") for n in numbers_of_steps),
        elements=elements,
        blocks=blocks,
        varies=varies,
        pressure=number("ExternalPressure", 0.0),
        parallel=int(number("numParallelCalcs", 1)),
        cluster=where,
        command_lines=len(commands),
        lines=lines,
        method=method or "USPEX",
        calculation="" if meta else calculation,
        numbers=numbers,
    )


def _elements_of_metadynamics(folder: Path) -> tuple[str, ...]:
    """Return the elements that POSCAR_1 names, which metadynamics begins with, else those of the POTCAR files."""
    try:
        symbols = parse_poscar(read_text(folder / "POSCAR_1"), "POSCAR_1").symbols
    except InputError:
        potcars = (folder / "Specific").glob("POTCAR_*")
        return tuple(sorted(n for path in potcars if not (n := path.name.removeprefix("POTCAR_")).isdigit()))
    return tuple(dict.fromkeys(symbols))


def _codes(text: InputTxt) -> list[str]:
    """Return the code of each step; parentheses only mark steps whose energy does not count."""
    rows = text.block("abinitioCode", "ENDabinit")
    return re.sub(r"[()]", " ", " ".join(row.text for row in rows)).split() or ["1"]


def _matlab_step(
    work: Path, folder: Path, number: int, codes: list[str], commands: list[Value], *, queued: bool
) -> SearchStep:
    """Return a step; with fewer commands than steps USPEX takes the first for all."""
    value = None
    if commands:
        value = commands[number - 1] if len(commands) >= len(codes) else commands[0]
    command = value.text if value else None
    return SearchStep(
        number,
        codes[number - 1],
        command,
        folder / "Specific" / f"INCAR_{number}",
        queued=queued,
        script=_script(work, command),
        potcars=folder / "Specific",
        line=value.line if value else None,
    )


def _whole(row: Value, path: Path) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in row.text.split())
    except ValueError:
        raise InputError(f"{path}, line {row.line}: '{row.text}' should be numbers of atoms") from None


def read_python(path: Path) -> Setup:
    """Read input.uspex.

    Raises:
        InputError: the file is missing, its syntax is wrong, or a stage is not defined.
    """
    source = InputUspex.read(path)
    main = source.main
    target = _get(main, "optimizer", "target")
    space = _get(target, "compositionSpace")
    blocks = space.get("blocks") or []
    pressure = _get(target, "conditions").get("externalPressure", 0.0)
    parallel = main.get("numParallelCalcs", 1)
    for name, value in (("externalPressure", pressure), ("numParallelCalcs", parallel)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f"{path}, line {source.line_of(name)}: {name} = {value!r} is not a number")
    stages = main.get("stages")
    if not isinstance(stages, list) or not stages:
        raise InputError(f"{path}: there is no list of stages")
    return Setup(
        "python",
        path,
        tuple(_python_step(source, n, stage) for n, stage in enumerate(stages, 1)),
        elements=tuple(str(symbol) for symbol in space.get("symbols") or []),
        blocks=tuple(tuple(row) for row in blocks if isinstance(row, (list, tuple))),
        varies=len(blocks) > 1,
        pressure=float(pressure),
        parallel=int(parallel),
    )


def _get(table: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        table = table.get(name) or {}
        if not isinstance(table, dict):
            return {}
    return table


def _python_step(source: InputUspex, number: int, stage: Any) -> SearchStep:
    path = source.path
    if not isinstance(stage, dict):
        raise InputError(
            f"{path}, line {source.line_of('stages')}: stage '{stage}' is not defined; "
            f"write a section '#define {stage}'"
        )
    command = stage.get("commandExecutable")
    if command is not None and not isinstance(command, str):
        raise InputError(f"{path}: commandExecutable {command!r} of stage {number} is not a string")
    kind = str(stage.get("type"))
    incar = stage.get("incar") or f"Specific/INCAR_{stage.get('tag', number)}"
    start = source.lines.get(str(stage.get("name")), 1)
    return SearchStep(
        number,
        "1" if kind == "vasp" else kind,
        command,
        path.parent / str(incar),
        kresol=stage.get("kresol"),
        queued=bool(stage.get("taskManager") or stage.get("remote")),
        script=_script(_work(path.parent), command),
        potcars=path.parent / str(stage.get("potcarsPath") or "Specific"),
        line=source.line_of("commandExecutable", start) if command else source.line_of("type", start),
    )


def _work(folder: Path, of_26: bool = False) -> Path:
    return folder / "Calculation" / "Calcfold_1_1" if of_26 else folder / "CalcFold1"


def _script(work: Path, command: str | None) -> str:
    """Return the script that a command started in ``work`` starts in turn, without its remarks."""
    for word in (command or "").split():
        name = word.strip("'\"")
        if "/" in name and name.endswith(_SCRIPT_SUFFIXES):
            path = Path(os.path.normpath(work / name))
            lines = read_text(path).split("\n") if path.is_file() else []
            return "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    return ""
