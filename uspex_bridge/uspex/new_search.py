"""Ready USPEX folders from the text files in ``templates/``."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from uspex_bridge.base.errors import ConfigError
from uspex_bridge.base.files import write_whole
from uspex_bridge.base.formulas import parts_of
from uspex_bridge.base.templates import render
from uspex_bridge.vasp.structure import ELEMENTS

Line = Literal["matlab", "python", "uspex26", "cryspy"]
Scheduler = Literal["local", "slurm", "pbs"]

#: Force target, eV/Å, and limit of ionic steps of each relaxing step, as the series tightens.
_TARGETS = (0.5, 0.2, 0.05, 0.01)
_STEPS_CONSTANT_VOLUME = 300
_STEPS_FREE = 1500
#: One coarse k-point resolution for every step, 2π/Å; the bridge reads no k-points.
_KRESOL = 0.2

#: Per scheduler, what Submission/*.py of USPEX 10.x are rendered with. INDEX and JOB are filled in when they run.
_SUBMISSION: dict[str, dict[str, object]] = {
    "slurm": {
        "submit": ["sbatch", "--parsable", "--job-name=bridge-INDEX", "--output=job.out"],
        "query": ["squeue", "--noheader", "--format=%T", "--jobs=JOB"],
        "state": r"^\s*([A-Z_]+)",
        "ended": [
            *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
            "TIMEOUT",
        ],
        "forgotten": "invalid job id",
    },
    "pbs": {
        "submit": ["qsub", "-N", "bridge-INDEX", "-j", "oe", "-o", "job.out"],
        "query": ["qstat", "-f", "JOB"],
        "state": r"job_state = (\w)",
        "ended": ["C", "F"],
        "forgotten": "unknown job|has finished",
    },
}


@dataclass(frozen=True)
class Rendered:
    """One file to write; ``path`` is relative to the folder."""

    path: Path
    text: str


@dataclass(frozen=True)
class Search:
    """What a search is set up for.

    Attributes:
        line: USPEX's MATLAB/Octave line (INPUT.txt), its Python line (input.uspex), USPEX 26, or CrySPY.
        elements: chemical symbols.
        counts: atoms of each element of a fixed composition; None varies the composition.
        compounds: atoms of each element in each building block of a variable composition; none for the elements.
        atoms: smallest and largest cell of a variable composition.
        pressure: GPa.
        population, generations: structures per generation, and their number.
        parallel: relaxations at a time.
        scheduler: who runs them.
        steps: relaxation steps per structure, as USPEX's manual has five: constant volume first, then free, and
            the energy of the result last.
        protocol: protocol of the bridge, by name or as a path.
        rest: its stages that the steps before the last run, where it ends with a free energy; empty for all.
        command: the executable.
        bin: folder put on PATH in job scripts.
        threads: CPU threads per relaxation.
        time_limit: seconds per step of one structure.
    """

    line: Line
    elements: tuple[str, ...]
    counts: tuple[int, ...] | None = None
    compounds: tuple[tuple[int, ...], ...] = ()
    atoms: tuple[int, int] = (2, 24)
    pressure: float = 0.0
    population: int = 256
    generations: int = 20
    parallel: int = 1
    scheduler: Scheduler = "local"
    steps: int = 5
    protocol: str = "auto"
    rest: str = ""
    command: str = "uspex-bridge-vasp"
    bin: str = ""
    threads: int = 1
    time_limit: int = 3600

    def __post_init__(self) -> None:
        if not math.isfinite(self.pressure):
            raise ConfigError(f"pressure {self.pressure} GPa is not a number")
        if self.compounds and (why := _wrong_blocks(self.compounds, self.atoms[1])):
            raise ConfigError(why)
        if self.counts is None and len(self.elements) < 2:
            raise ConfigError(
                f"{self.elements[0]} alone has no composition to vary; give --composition {self.elements[0]}8"
            )
        if not 1 <= self.atoms[0] <= self.atoms[1]:
            raise ConfigError(f"atoms {self.atoms[0]}-{self.atoms[1]}: the smaller number comes first, from 1")
        if self.line in ("uspex26", "cryspy") and self.scheduler != "local":
            raise ConfigError(f"init {self.line} writes a search on one machine; leave --scheduler out")
        for text in (self.command, self.bin):
            if set(text) & set("'\"\\\n"):
                raise ConfigError(f"{text!r}: quotes and backslashes in a path break USPEX's input files")

    @property
    def background(self) -> bool:
        """Whether USPEX wants the command back at once (whichCluster 0, several calculations)."""
        return self.line == "matlab" and self.scheduler == "local" and self.parallel > 1


def parse_elements(text: str) -> tuple[str, ...]:
    """Read ``Ca,Fe,Ni``.

    Raises:
        ConfigError: not an element, or one twice.
    """
    symbols = tuple(filter(None, re.split(r"[\s,;-]+", text.strip())))
    _check_symbols(symbols, text)
    return symbols


def parse_blocks(text: str) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    """Read ``Ca,Fe,Ni``, or compounds such as ``MgO,SiO2``: the elements, and the atoms of each in each compound.

    Elements alone have no compounds.

    Raises:
        ConfigError: a word is neither an element nor a formula, or an element is named twice.
    """
    words = list(filter(None, re.split(r"[\s,;]+", text.strip())))
    if not any(re.search(r"\d|[A-Z].*[A-Z]", word) for word in words):
        return parse_elements(text), ()
    formulas = [parse_composition(word) for word in words]
    elements = tuple(dict.fromkeys(symbol for formula in formulas for symbol in formula))
    return elements, tuple(tuple(formula.get(symbol, 0) for symbol in elements) for formula in formulas)


def _wrong_blocks(compounds: tuple[tuple[int, ...], ...], most: int) -> str:
    """Return why building blocks span no composition space of their own, empty where they do."""
    import numpy as np

    if len(compounds) < 2 or int(np.linalg.matrix_rank(np.array(compounds))) < len(compounds):
        return "compounds of --elements must be two or more, none of them a mixture of the others: MgO,SiO2"
    largest = max(map(sum, compounds))
    if largest > most:
        return f"a compound of --elements has {largest} atoms and the largest cell {most}; raise --atoms"
    return ""


def parse_composition(text: str) -> dict[str, int]:
    """Read ``Mg4Al8O16`` into the atoms per element, in its order.

    Raises:
        ConfigError: not a formula of elements and whole numbers.
    """
    pairs = parts_of(text)
    if not pairs:
        raise ConfigError(f"composition '{text}' is not a formula like Mg4Al8O16")
    _check_symbols(tuple(symbol for symbol, _ in pairs), text)
    counts = dict(pairs)
    if 0 in counts.values():
        raise ConfigError(f"composition '{text}' has none of an element")
    return counts


def parse_atoms(text: str) -> tuple[int, int]:
    """Read ``2-24`` or ``8``.

    Raises:
        ConfigError: neither one nor two numbers.
    """
    match = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", text.strip())
    if match is None:
        raise ConfigError(f"atoms '{text}' is not a range like 2-24")
    return int(match[1]), int(match[2] or match[1])


def _check_symbols(symbols: tuple[str, ...], text: str) -> None:
    if not symbols:
        raise ConfigError("no elements are given; use --elements Ca,Fe,Ni or --composition Si8")
    for symbol in symbols:
        if symbol not in ELEMENTS:
            raise ConfigError(f"'{text}': '{symbol}' is not an element")
    if len(set(symbols)) != len(symbols):
        raise ConfigError(f"'{text}': an element is named twice")


def files(search: Search) -> list[Rendered]:
    """Return every file of the folder."""
    if search.line in ("uspex26", "cryspy"):
        from uspex_bridge.uspex import new_others

        return new_others.uspex26(search) if search.line == "uspex26" else new_others.cryspy(search)
    made = _matlab(search) if search.line == "matlab" else _python(search)
    steps = [Rendered(Path("Specific", f"INCAR_{n}"), text) for n, text in enumerate(incars(search), 1)]
    potcars = [Rendered(Path("Specific", f"POTCAR_{symbol}"), stub(symbol)) for symbol in search.elements]
    return [*made, *steps, *potcars, Rendered(Path("Specific", "bridge.toml"), settings_text(search))]


def stub(symbol: str) -> str:
    """Return a POTCAR that names an element, which VASP cannot run with."""
    return render("specific/POTCAR", {"symbol": symbol})


def settings_text(search: Search) -> str:
    """Return bridge.toml."""
    protocol = search.protocol.replace("\\", "\\\\").replace('"', '\\"')
    values = {"protocol": protocol, "threads": search.threads, "time_limit": search.time_limit}
    return render("specific/bridge.toml", values)


def write(folder: Path, rendered: list[Rendered], *, force: bool = False) -> None:
    """Write the files; nothing is written if one exists and ``force`` is not set.

    Raises:
        ConfigError: files exist.
        OutputError: the folder cannot be written.
    """
    present = [str(item.path) for item in rendered if (folder / item.path).exists()]
    if present and not force:
        raise ConfigError(f"{folder}: {', '.join(present)} would be overwritten; --force does that")
    for item in rendered:
        write_whole(folder / item.path, item.text)


def next_steps(search: Search, folder: Path) -> list[str]:
    """Return the three things to do after ``write``."""
    header = ""
    if search.scheduler != "local":
        matlab = search.line == "matlab"
        header = f" and the queue in {'Submission/job_header.sh' if matlab else 'the header at the end of input.uspex'}"
    start = {
        "matlab": f"cd {folder} && nohup bash run-search.sh > search.log 2>&1 &",
        "python": f"cd {folder}, then USPEX as your installation starts it (nohup uspex -r > log &)",
        "uspex26": f"cd {folder}, then USPEX 26 as your installation starts it (nohup ./uspex_2607.sh > log 2>&1 &)",
        "cryspy": f"cd {folder}, then cryspy, repeatedly until it has finished",
    }[search.line]
    settings = "bridge.toml" if search.line in ("uspex26", "cryspy") else "Specific/bridge.toml"
    check = f" and the folder: uspex-bridge doctor {folder}" if search.line != "cryspy" else ": uspex-bridge doctor"
    return [
        f"check the settings in {settings} (protocol {search.protocol}, models, time limit){header}",
        f"check this machine, the models{check}",
        f"start the search: {start}",
    ]


def incars(search: Search) -> list[str]:
    """Return the series of INCARs.

    The first half of the relaxing steps keeps the volume; from three steps on the last one is static. Where the last
    one ends with a free energy it relaxes, and the ones before it run the stages ``rest`` alone.
    """
    steps, rest = search.steps, search.rest
    relaxing = steps - 1 if steps > 2 and not rest else steps
    constant = relaxing // 2
    texts = []
    for n in range(1, relaxing + 1):
        held = n <= constant
        values = {
            "step": n,
            "steps": steps,
            "what": "atoms and cell shape, at constant volume"
            if held
            else "atoms and cell, to the pressure of the search",
            "isif": 4 if held else 3,
            "nsw": _STEPS_CONSTANT_VOLUME if held else _STEPS_FREE,
            "fmax": _TARGETS[max(0, len(_TARGETS) - relaxing + n - 1)],
        }
        stages = f"# the free energy follows the last stage, which step {steps} runs\nBRIDGE_STAGES = {rest}\n"
        texts.append(render("specific/INCAR_relax", values) + (stages if rest and n < steps else ""))
    if relaxing < steps:
        texts.append(render("specific/INCAR_static", {"step": steps, "steps": steps}))
    return texts


def decimal(value: float) -> str:
    """Return a decimal number with a point, a digit after it and no exponent: the Python line reads no other."""
    text = f"{value:.6f}".rstrip("0")
    return text + "0" if text.endswith(".") else text


def _blocks(search: Search) -> list[list[int]]:
    """Return the rows of numSpecies: atoms per element, one row per building block."""
    if search.counts is not None:
        return [list(search.counts)]
    if search.compounds:
        return [list(row) for row in search.compounds]
    size = len(search.elements)
    return [[int(i == j) for j in range(size)] for i in range(size)]


def _walltime(seconds: int) -> str:
    """Return the time a job asks for: the relaxation's limit, and ten minutes to start and write."""
    minutes = math.ceil(seconds / 60) + 10
    return f"{minutes // 60:02d}:{minutes % 60:02d}:00"


def _header(search: Search) -> str:
    values = {"threads": search.threads, "walltime": _walltime(search.time_limit), "bin": search.bin}
    text = render(f"jobs/{search.scheduler}.sh", values)
    if search.line == "matlab":
        return text
    # USPEX adds directives of its own below, which schedulers read above the first command only; what the commands
    # set, bridge.toml and an absolute commandExecutable say too.
    return "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))


def _variation(search: Search) -> str:
    """Return the lines of INPUT.txt that say how structures are made."""
    if search.counts is not None:
        return render("matlab/fixed.txt", {}).rstrip()
    # USPEX's manual: 11 first compositions for two blocks, about 30 for three.
    first = 11 if len(_blocks(search)) < 3 else 30
    values = {"first": first, "min_atoms": search.atoms[0], "max_atoms": search.atoms[1]}
    return render("matlab/variable.txt", values).rstrip()


def input_values(search: Search) -> dict[str, Any]:
    """Return what every INPUT.txt says of a search, whatever relaxes its structures."""
    return {
        "type": "301" if search.counts is None else "300",
        "symbols": " ".join(search.elements),
        "blocks": "\n".join(" ".join(map(str, row)) for row in _blocks(search)),
        "pressure": decimal(search.pressure),
        "population": search.population,
        "generations": search.generations,
        "variation": _variation(search),
        "parallel": search.parallel,
    }


def _matlab(search: Search) -> list[Rendered]:
    wrapper = "bash ../Specific/background.sh "
    values = input_values(search) | {
        "codes": " ".join(["1"] * search.steps),
        "kresol": " ".join([str(_KRESOL)] * search.steps),
        "cluster": 0 if search.scheduler == "local" else 1,
        "command": wrapper + search.command if search.background else f"{search.command} > bridge.out 2>&1",
    }
    made = [
        Rendered(Path("INPUT.txt"), render("matlab/INPUT.txt", values)),
        Rendered(
            Path("run-search.sh"), render("matlab/run-search.sh", {"pause": 10 if search.scheduler == "local" else 60})
        ),
    ]
    if search.background:
        made.append(Rendered(Path("Specific", "background.sh"), render("matlab/background.sh", {})))
    if search.scheduler != "local":
        words = {key: json.dumps(value) for key, value in _SUBMISSION[search.scheduler].items()}
        words["scheduler"] = search.scheduler.upper()
        made += [
            Rendered(Path("Submission", name), render(f"matlab/{name}.txt", words))
            for name in ("submitJob_local.py", "checkStatus_local.py")
        ]
        made.append(Rendered(Path("Submission", "job_header.sh"), _header(search)))
    return made


def _python(search: Search) -> list[Rendered]:
    varies = search.counts is None
    low, high = search.atoms
    queued = search.scheduler != "local"
    names = [f"bridge{n}" for n in range(1, search.steps + 1)]
    shared = {
        "command": search.command,
        "kresol": _KRESOL,
        "sleep": 30 if queued else 2,
        "manager": "\n    taskManager: jobs" if queued else "",
    }
    definitions = [render("python/stage.uspex", {**shared, "name": name}) for name in names]
    if queued:
        manager = {"slurm": "SBATCH", "pbs": "QSUB"}[search.scheduler]
        definitions.append(render("python/manager.uspex", {"manager": manager, "header": _header(search).rstrip()}))
    exchange = "transmutation" if varies else "permutation"
    limits = ""
    if varies:
        ranges = " ".join(f"[0 {high // sum(row)}]" for row in _blocks(search))
        limits = "".join(f"\n{' ' * 16}{line}" for line in (f"range: [{ranges}]", f"minAt: {low}", f"maxAt: {high}"))
    values = {
        "pressure": decimal(search.pressure),
        "symbols": " ".join(search.elements),
        "blocks": " ".join(f"[{' '.join(map(str, row))}]" for row in _blocks(search)),
        "limits": limits,
        "population": search.population,
        "exchange": f"\n{' ' * 16}{exchange}: (0.05 1.0 0.1)" if len(search.elements) > 1 else "",
        "stages": " ".join(names),
        "parallel": search.parallel,
        "generations": search.generations,
        "definitions": "".join(definitions).rstrip(),
    }
    return [Rendered(Path("input.uspex"), render("python/input.uspex", values))]
