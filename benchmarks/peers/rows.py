"""The rows of the table: what a USPEX user needs, and the check that decides each cell."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cases import OUTPUTS
from checks import (
    Cell,
    Check,
    Lab,
    accepted,
    ase_reads,
    bare,
    claims,
    dpdata_reads,
    ended,
    energies,
    enthalpy,
    f_line,
    f_value,
    finished,
    incar_forms,
    order,
    pymatgen_reads,
    stress,
    toten,
    vasp4,
)
from reference import closeness, contcar
from tools import Run

BAD_INPUTS = {
    "garbled": "garbled coordinate",
    "empty": "empty POSCAR",
    "nan": "NaN coordinate",
    "unknown": "unknown element",
    "no-model": "missing model",
}


@dataclass(frozen=True)
class Row:
    """One row: ``key`` in table.json, ``group`` and ``title`` in table.md."""

    key: str
    group: str
    title: str
    check: Callable[[Lab], Cell]


def of_files(check: Check, name: str = "relax-50") -> Callable[[Lab], Cell]:
    """Check the files of one run at 50 GPa; where they fail, those made with the tool's non-default flag."""

    def judge(lab: Lab) -> Cell:
        if failed := finished(lab, name):
            return failed
        cell = check(lab, lab.runs[name])
        if cell.ok or "variant" not in lab.runs:
            return cell
        other = check(lab, lab.runs["variant"])
        return Cell(True, f"with `{lab.tool.variant}`") if other.ok else cell

    return judge


def pressure(lab: Lab) -> Cell:
    words, good = [], True
    for name, wanted in (("relax-0", 0.0), ("relax-50", 50.0)):
        if failed := finished(lab, name):
            return failed
        off = lab.reference.pressure(contcar(lab.runs[name].folder)) - wanted
        words.append(f"{off:+.2f}")
        good &= abs(off) < 0.5
    return Cell(good, f"off by {', '.join(words)} GPa")


def constant_volume(lab: Lab) -> Cell:
    if failed := finished(lab, "isif4"):
        return failed
    start, end = lab.case("isif4").atoms, contcar(lab.runs["isif4"].folder)
    drift = 100 * (end.get_volume() / start.get_volume() - 1)
    gain = lab.reference.energy(end) - lab.reference.energy(start)
    return Cell(abs(drift) < 1e-3 and gain < 0, f"V {drift:+.4f} %, E {gain:+.3f} eV")


def unconverged(lab: Lab) -> Cell:
    mark = "reached required accuracy"
    if failed := finished(lab, "short") or finished(lab, "relax-50"):
        return failed
    marks = [mark in lab.runs[name].text("OUTCAR") for name in ("relax-50", "short")]
    return Cell(
        marks == [True, False], "" if marks == [True, False] else f"`{mark}` {'always' if all(marks) else 'never'}"
    )


def stages(lab: Lab) -> Cell:
    """Whether one call runs a stage with one model and the next with another."""
    done = lab.runs.get("staged")
    if done is None:
        code = (
            f"import importlib.metadata as m; print(*[f.locate() for f in m.files({lab.tool.package!r})], sep=chr(10))"
        )
        files = subprocess.run([lab.tool.python, "-c", code], check=True, capture_output=True, text=True).stdout
        sources = [Path(name).read_text(errors="replace") for name in files.splitlines() if name.endswith(".py")]
        taken = [text for text in sources if re.search(r"""(add_argument|get)\(\s*["'](--)?stages?["']""", text, re.I)]
        return Cell(bool(taken), "" if taken else "no such option or tag in its source")
    record = json.loads((done.folder.parent / "bridge.record").read_text().splitlines()[-1])
    ran = [stage["calculator"] for stage in record["stages"] if stage["steps"]]
    off = abs((toten(done) or np.inf) - lab.reference.energy(contcar(done.folder)))
    return Cell(done.rc == 0 and ran == ["mace", "chgnet"] and off < 1e-3, ", then ".join(ran))


def left(lab: Lab, name: str) -> tuple[bool, str]:
    """Say whether nothing in the folder of a failed run can be taken for a result, and what can."""
    done, before = lab.runs[name], lab.stale
    assert before is not None
    old = [n for n in OUTPUTS if done.text(n) and done.text(n) == Run(before, 0, 0, 0).text(n)]
    taken = claims(done.folder)
    if not taken and "CONTCAR" not in old:
        return True, f"nothing left, {ended(done)}"
    return False, ("old result stays" if set(taken) <= set(old) else "a new result") + f", {ended(done)}"


def bad_inputs(lab: Lab) -> Cell:
    verdicts = {what: left(lab, name) for name, what in BAD_INPUTS.items()}
    wrong = {what: said for what, (good, said) in verdicts.items() if not good}
    short = {what: re.sub(r", exit (?!0)\S+", "", said) for what, said in wrong.items()}
    groups = {said: [what for what in short if short[what] == said] for said in dict.fromkeys(short.values())}
    told = [said + (f" ({', '.join(whats)})" if len(whats) < len(verdicts) else "") for said, whats in groups.items()]
    return Cell(not wrong, "; ".join([f"{len(verdicts) - len(wrong)} of {len(verdicts)}", *told]))


def overlap(lab: Lab) -> Cell:
    good, said = left(lab, "overlap")
    done = lab.runs["overlap"]
    if good or "new" not in said:
        return Cell(good, said)
    end, best = contcar(done.folder), contcar(lab.runs["relax-50"].folder)
    gap = (lab.reference.enthalpy(end, 50) - lab.reference.enthalpy(best, 50)) / len(end)
    near, ratio = closeness(end)
    sane = ratio > 0.6 and gap > -0.05
    told = f"d = {near:.2f} Å, H {gap:+.2f} eV/atom from the minimum"
    word = "pushed apart" if sane else "a false minimum" if gap < 0 else "a false result"
    return Cell(sane, f"{word}, {told}, {ended(done)}")


def hopeless(name: str) -> Callable[[Lab], Cell]:
    """Check a start that no search should keep: refused, or a result as good as any."""

    def judge(lab: Lab) -> Cell:
        good, said = left(lab, name)
        done = lab.runs[name]
        if good or "new" not in said or done.rc != 0:
            return Cell(good, said)
        end, best = contcar(done.folder), contcar(lab.runs["relax-50"].folder)
        gap = (lab.reference.enthalpy(end, 50) - lab.reference.enthalpy(best, 50)) / len(end)
        near, ratio = closeness(end)
        told = f"a result with V = {end.get_volume() / len(end):.1f} Å³/atom, d = {near:.2f} Å, H {gap:+.1f} eV/atom"
        return Cell(ratio > 0.6 and -0.05 < gap < 5, f"{told}, {ended(done)}")

    return judge


def kills(lab: Lab) -> Cell:
    names = [name for name in lab.runs if name.startswith("kill-")]
    whole = lab.runs["relax-50"]
    said = []
    for name in names:
        done = lab.runs[name]
        clean, what = left(lab, name)
        complete = done.text("CONTCAR") == whole.text("CONTCAR") and toten(done) == toten(whole)
        same = f_value(done.folder) == f_value(whole.folder) if complete else False
        said.append(
            "nothing" if clean else "whole" if complete and same else what.split(",")[0].replace("a new", "half a")
        )
    counts = {word: said.count(word) for word in dict.fromkeys(said)}
    good = set(said) <= {"nothing", "whole"}
    return Cell(good, ", ".join(f"{word} {count}x" for word, count in counts.items()))


def timing(what: str) -> Callable[[Lab], Cell]:
    """Report the median CPU time of one kind of call: wall time says more of the machine's load than of the tool."""

    def judge(lab: Lab) -> Cell:
        runs = lab.times[what]
        if any(one.rc != 0 for one in runs):
            return Cell(False, ", ".join(map(ended, runs)))
        return Cell(None, f"{statistics.median(one.cpu for one in runs):.1f} s{_steps(what, runs[0])}")

    return judge


def _steps(what: str, run: Run) -> str:
    if what != "relax":
        return ""
    log = (run.folder.parent / "log").read_text(errors="replace")
    found = run.text("OSZICAR").count(" F= ") or len(re.findall(r"^ Step ", log, re.M))
    return f", {found} steps"


def server(lab: Lab) -> Cell:
    runs = lab.times.get("server")
    if runs is None:
        return Cell(None, "n/a: no resident server")
    if any(one.rc != 0 for one in runs):
        return Cell(False, ", ".join(map(ended, runs)))
    best = min(runs, key=lambda one: one.wall)
    return Cell(None, f"{best.wall:.2f} s, {best.cpu:.2f} s")


INPUT, OUTPUT, PHYSICS = "Reads what USPEX writes", "Writes what USPEX and others read (50 GPa)", "Relaxes as requested"
FAILURE, TIME = "Fails safely (results of an earlier structure in the folder)", "Costs"
ROWS = [
    Row("bare", INPUT, "Runs in the folder without arguments and further files", bare),
    Row("vasp4", INPUT, "POSCAR without element line (MATLAB line), elements from POTCAR", vasp4),
    Row("incar", INPUT, "INCAR with settings joined by `;`, with `5.0D+02`", incar_forms),
    Row("f-line", OUTPUT, "OSZICAR has ` F= ` lines in VASP's columns", of_files(f_line)),
    Row("accepted", OUTPUT, "Both USPEX lines accept the step (`DAV:` line, NELM)", of_files(accepted)),
    Row("enthalpy", OUTPUT, "` F= ` is E + PV", of_files(enthalpy)),
    Row("energies", OUTPUT, "OUTCAR: TOTEN is E, the `enthalpy is TOTEN` line E + PV", of_files(energies)),
    Row("stress", OUTPUT, "OUTCAR: `in kB` and `external pressure` as in VASP", of_files(stress, "short")),
    Row("order", OUTPUT, "Atoms stay in POSCAR's order (Ni Fe Ca)", order),
    Row("ase", OUTPUT, "ASE reads OUTCAR, every step", of_files(ase_reads)),
    Row("pymatgen", OUTPUT, "pymatgen reads OUTCAR, OSZICAR, vasprun.xml", of_files(pymatgen_reads)),
    Row("dpdata", OUTPUT, "dpdata reads OUTCAR (training data, virials' sign)", of_files(dpdata_reads)),
    Row("pressure", PHYSICS, "Reaches 0 and 50 GPa within 0.5", pressure),
    Row("isif4", PHYSICS, "ISIF = 4 keeps the volume and lowers E", constant_volume),
    Row("stages", PHYSICS, "Several models in stages, in one call", stages),
    Row("unconverged", PHYSICS, "OUTCAR distinguishes a run stopped by NSW from a converged one", unconverged),
    Row("bad", FAILURE, "No result from " + ", ".join(BAD_INPUTS.values()), bad_inputs),
    Row("overlap", FAILURE, "Two atoms 0.3 Å apart: refused, or pushed apart", overlap),
    Row("flat", FAILURE, "Flat cell: refused, or a correct result", hopeless("flat")),
    Row("inflated", FAILURE, "Cell 20 times too long: refused, or a correct result", hopeless("inflated")),
    Row("kill", FAILURE, "After SIGKILL there is no result or a complete one", kills),
    Row("cold", TIME, "One single point from a cold start, CPU time", timing("cold")),
    Row("relax", TIME, "The relaxation at 50 GPa to 0.02 eV/Å from a cold start, CPU time", timing("relax")),
    Row("server", TIME, "Further single point with a resident server: wall time, CPU time of the caller", server),
]
