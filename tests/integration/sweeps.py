"""Sweeps: a command is failed or killed at each of its file operations, and what it leaves is looked at.

Run as a program by test_sweeps.py: ``sweeps.py FOLDER COUNT NAME...`` imports once and forks a process per case. COUNT
cases of each sweep are tried, evenly spread over all, or all with 0. Prints JSON: for each the number of cases, and
what was wrong in any.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import ase.io
import learning
import numpy as np
from calling import INCAR, OUTPUTS, TOY, leave_stale_outputs, make_folder
from killed import state
from sweeping import Case, Command, End, Sweep
from sweeps_files import FILES, TOYS
from test_cycle_end import SETTINGS as LOOP

from uspex_bridge.base import jsonl
from uspex_bridge.base.files import OUTPUTS as ALL_OUTPUTS
from uspex_bridge.base.files import checksum
from uspex_bridge.cli import main, vasp
from uspex_bridge.learn.cycle.loop import JOURNAL, read_journal
from uspex_bridge.learn.data.dataset import Dataset
from uspex_bridge.learn.training.order import Order
from uspex_bridge.learn.training.trainers.base import Trainer, TrainerSettings, Training
from uspex_bridge.learn.training.watch import CurvePoint, Run, WatchSettings


class Executable(Sweep):
    """uspex-bridge-vasp in a reused slot."""

    label = 0

    def make(self, folder: Path) -> None:
        fold = make_folder(folder, incar=INCAR.replace("NSW = 400", "NSW = 2"))
        leave_stale_outputs(fold)

    def prepare(self, case: Case) -> None:
        super().prepare(case)
        self.label += 1
        self.fold = self.root / "CalcFold1"
        lines = (self.fold / "POSCAR").read_text().splitlines()
        (self.fold / "POSCAR").write_text("\n".join([f"EA{self.label}", *lines[1:]]) + "\n")
        if case.kills:  # the executable's shell part comes before any Python
            for name in ALL_OUTPUTS["vasp"]:
                (self.fold / name).unlink(missing_ok=True)

    def act(self) -> int:
        os.chdir(self.fold)
        os.environ["PWD"] = str(self.fold)
        vasp.main([])
        return 99

    def look(self, case: Case, end: End) -> None:
        oszicar = self.fold / "OSZICAR"
        if not oszicar.exists() or not oszicar.read_text():
            assert end.code != 0, "exit 0 without a result"
        elif oszicar.read_text().startswith("stale"):
            assert case.stays, "a stale result stays"
            assert end.code == 8, "a stale result stays"
            assert "an old result must not remain" in end.err
        else:
            assert state(self.fold, self.label) == "whole"
            assert end.code == 0 or case.what == "KILL", "a result stands, the exit code says otherwise"
        if end.code == 0 and "bridge.record" not in end.err:
            assert self.statuses(), "the record lacks a line"

    def statuses(self) -> list[str]:
        record = self.root / "bridge.record"
        return [entry["status"] for entry in jsonl.read(record)] if record.exists() else []

    def look_again(self, end: End) -> None:
        assert state(self.fold, self.label) == "whole"
        assert self.statuses()[-1] in ("converged", "unconverged", "steps")
        left = {path.name for path in self.fold.iterdir()}
        inputs = {"POSCAR", "INCAR", "POTCAR", "KPOINTS"}
        assert left - {*OUTPUTS, *inputs, "bridge.log", ".bridge.lock"} == set(), left


class Adding(Command):
    """dataset add, to a dataset that is there."""

    words = ("dataset", "add", "data", "more.extxyz", "--generation", "1", "--code", "toy", "--functional", "LJ")
    labels = 8

    def make(self, folder: Path) -> None:
        frames = learning.label(learning.structures(8, seed=5))
        ase.io.write(folder / "first.extxyz", frames[:4])
        ase.io.write(folder / "more.extxyz", frames[4:])
        os.chdir(folder)
        with suppress(SystemExit):
            main.main(["dataset", "add", "data", "first.extxyz", "--generation", "0", *self.words[6:]])
        self.first = set(Dataset.open(folder / "data").labels)

    def look(self, case: Case, end: End) -> None:
        dataset = Dataset.open(self.root / "data")
        assert set(dataset.labels) >= self.first, "labels are lost"
        if end.code == 0:
            assert len(dataset.labels) == self.labels, "exit 0, and labels are missing"

    def look_again(self, end: End) -> None:
        dataset = Dataset.open(self.root / "data")
        assert not dataset.changes()
        assert len(dataset.labels) == self.labels, "labels are missing"
        identities = [atoms.info["id"] for atoms in dataset.frames()]
        assert sorted(identities) == sorted(dataset.labels), "frames and labels do not agree"


class Making(Adding):
    """dataset add, to one that it makes."""

    labels = 4
    first: set[str] = set()

    def make(self, folder: Path) -> None:
        super().make(folder)
        shutil.rmtree(folder / "data")
        self.first = set()

    def look(self, case: Case, end: End) -> None:
        if end.code == 0:
            super().look(case, end)


class Labels(Command):
    """label run: by a model."""

    words = ("label", "run", "labels")
    count = 4

    def make(self, folder: Path) -> None:
        (folder / "bridge.toml").write_text(TOYS)
        ase.io.write(folder / "chosen.extxyz", learning.structures(self.count, seed=7))
        os.chdir(folder)
        with suppress(SystemExit):
            main.main(
                [
                    "label",
                    "prepare",
                    "labels",
                    "chosen.extxyz",
                    "--code",
                    "model",
                    "--model",
                    "one",
                    "--generation",
                    "0",
                ]
            )

    def look(self, case: Case, end: End) -> None:
        done = [json.loads(path.read_text())["energy"] for path in (self.root / "labels").glob("*/label.json")]
        assert end.code or len(done) == self.count

    def look_again(self, end: End) -> None:
        self.look(Case("", 0), end)
        assert not list(self.root.glob("labels/*/.*.part"))


class Collecting(Labels):
    """label collect."""

    words = ("label", "collect", "labels", "data")

    def make(self, folder: Path) -> None:
        super().make(folder)
        with suppress(SystemExit):
            main.main(["label", "run", "labels"])

    def look(self, case: Case, end: End) -> None:
        if end.code == 0 and "refused: " not in end.out:
            self.look_again(end)

    def look_again(self, end: End) -> None:
        dataset = Dataset.open(self.root / "data")
        assert len(dataset.labels) == self.count == len(list(dataset.frames()))


class Preparing(Labels):
    """label prepare: more structures for VASP, while jobs for others wait in a queue."""

    words = ("label", "prepare", "labels", "more.extxyz", "--code", "vasp", "--potcars", "potcars", "--generation", "1")

    def make(self, folder: Path) -> None:
        frames = learning.structures(4, seed=7)
        ase.io.write(folder / "chosen.extxyz", frames[:2])
        ase.io.write(folder / "more.extxyz", frames[2:])
        for symbol in ("Ca_sv", "Fe_sv", "Ni_pv", "Ni_sv", "Ni"):
            (folder / "potcars" / symbol).mkdir(parents=True)
            (folder / "potcars" / symbol / "POTCAR").write_text(POTCAR.format(symbol, symbol.partition("_")[0]))
        os.chdir(folder)
        with suppress(SystemExit):
            main.main([*self.words[:3], "chosen.extxyz", *self.words[4:]])
        self.kept = self.files(folder)
        assert "labels/run_vasp.sh" in self.kept

    @staticmethod
    def files(folder: Path) -> dict[str, bytes]:
        found = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        return {str(path.relative_to(folder)): path.read_bytes() for path in found}

    def look(self, case: Case, end: End) -> None:
        now = self.files(self.root)
        lost = [name for name in self.kept if now.get(name) != self.kept[name]]
        assert not lost, f"what waits in the queue has lost {lost}"

    def look_again(self, end: End) -> None:
        self.look(Case("", 0), end)
        lists = list((self.root / "labels").glob("jobs-*.txt"))
        for path in lists:
            for kind in ("slurm", "pbs"):
                assert path.with_name(path.name.replace("jobs", kind)).with_suffix(".sh").is_file(), (
                    f"{path} has no job"
                )
        listed = [name for path in lists for name in path.read_text().split()]
        assert sorted(listed) == sorted({p.parent.name for p in self.root.glob("labels/*/structure.json")}), listed


POTCAR = """  PAW_PBE {0} 01Jan2001
 10.0000000000000000
 parameters from PSCTR are:
   VRHFIN ={1}: stub
   TITEL  = PAW_PBE {0} 01Jan2001
   ENMAX  =  270.000; ENMIN  =  200.000 eV
   RCORE  =  2.300    outmost cutoff radius
   ZVAL   =   10.000    mass and valenz
 End of Dataset
"""


class Screening(Command):
    """screen."""

    words = ("screen", "search.extxyz", "-m", "one", "-m", "two", "--pv", "0.001", "--out", "screened", "--force")

    def make(self, folder: Path) -> None:
        (folder / "bridge.toml").write_text(TOYS)
        ase.io.write(folder / "search.extxyz", learning.structures(4, seed=3))

    def act(self) -> int:
        from matplotlib.figure import Figure

        Figure.savefig = lambda self, place, **more: Path(place).write_bytes(b"drawn")  # which takes long
        return super().act()

    def look(self, case: Case, end: End) -> None:
        if end.code == 0:
            self.look_again(end)

    def look_again(self, end: End) -> None:
        assert len(ase.io.read(self.root / "screened" / "label.extxyz", ":")) == 4


class Relaxing(Command):
    """relax --resume: many structures into a folder."""

    words = ("relax", "search.extxyz", "-p", "50", "--out", "relaxed", "--resume", "--protocol", "single", "--nsw", "3")
    words += ("--trajectory", "--vasp-files")

    def make(self, folder: Path) -> None:
        (folder / "bridge.toml").write_text(TOY)
        ase.io.write(folder / "search.extxyz", learning.structures(3, seed=3)[::2])  # the second is in a hole

    def look(self, case: Case, end: End) -> None:
        for path in self.root.glob("relaxed/*.extxyz"):
            assert ase.io.read(path, ":"), f"{path.name} is empty"
        assert all(path.stat().st_size for path in self.root.glob("relaxed/relaxed.*"))

    def look_again(self, end: End) -> None:
        out = self.root / "relaxed"
        done = [e["output"]["cell"] for e in jsonl.read(out / "bridge.record") if e["status"] != "failed"]
        frames = ase.io.read(out / "relaxed.extxyz", ":")
        assert len(done) == len(frames) == 2, f"{len(done)} results, {len(frames)} structures"
        for cell, atoms in zip(done, frames, strict=True):
            assert abs(np.linalg.det(cell) - atoms.get_volume()) < 1e-6
        assert (out / "relaxed.POSCARS").read_text().count("Direct") == 2
        empty = {path.name for path in out.glob(".new.*") if not any(path.iterdir())}  # could not be removed
        made = {path.name for path in out.iterdir()} - {"relaxed.extxyz", "relaxed.POSCARS", "bridge.record", *empty}
        assert len([name for name in made if name.endswith(".trajectory.extxyz")]) == 2, made
        assert len([name for name in made if (out / name).is_dir()]) == 2, made
        assert len(made) == 4 + len({"bridge.log", ".bridge.lock"} & made), made


#: Answers as ``uspex-bridge`` does to the steps of a loop, at once.
ANSWERS = """#!/bin/sh
shift 2
case $1 in
screen) echo '{"structures": 9, "to_compute": 5, "mean": {"delta_pv": 0.01}}' ;;
select) echo '{"chosen": 2}' ;;
label) case $2 in
    status) echo '{"labels": [{"state": "done"}, {"state": "done"}]}' ;;
    collect) echo '{"added": {"train": 2}, "refused": [], "states": {"done": 2}}' ;;
    *) echo '{}' ;;
    esac ;;
evaluate) while [ $# -gt 1 ]; do
        [ "$1" = -o ] && mkdir -p "$2" && cp evaluation.json "$2"
        shift
    done; echo '{}' ;;
*) echo '{}' ;;
esac
"""


class Cycling(Sweep):
    """cycle run: the loop itself; its steps are answered by a script."""

    def make(self, folder: Path) -> None:
        (folder / "cycle.toml").write_text(LOOP + "cycles = 1\nflagged = 0\n")
        ase.io.write(folder / "search.extxyz", learning.structures(4, seed=3))
        (folder / "answers").write_text(ANSWERS)
        (folder / "answers").chmod(0o755)
        models = []
        for name in ("a", "b"):
            for model, error in ((f"models/{name}/current", 0.2), (f"cycle-0/{name}", 0.2), (f"cycle-1/{name}", 0.1)):
                total = {"label": "total", **{quantity: {"mae": error} for quantity in ("energy", "forces", "pv")}}
                one = dict.fromkeys(("energy", "forces", "pv"), error) | {"split": "valid"}
                rows = [{"family": f"f{k}", "name": f"s{k}"} | one for k in range(3)]
                models.append({"name": model, "errors": [total], "by_structure": rows})
        (folder / "evaluation.json").write_text(json.dumps({"models": models}))

    def act(self) -> int | None:
        sys.executable = str(self.root / "answers")
        from uspex_bridge.learn.cycle import checks

        checks.check = lambda *words, **more: None
        main.main(["cycle", "run", "."])
        return 99

    def look(self, case: Case, end: End) -> None:
        for name in ("a", "b"):
            link = self.root / "models" / name / "current"
            assert not link.is_symlink() or link.readlink().name == name
        if end.code == 0:
            self.look_again(end)

    def look_again(self, end: End) -> None:
        entries = read_journal(self.root)
        assert entries[-1]["event"] == "ended"
        done = [(entry["cycle"], entry["step"]) for entry in entries if entry["event"] == "done"]
        assert len(done) == len(set(done)), "a step is done twice"
        assert (1, "promote") in done, done
        lines = (self.root / JOURNAL).read_bytes().count(b"\n")
        for name in ("a", "b"):
            assert (self.root / "models" / name / "current").readlink() == Path(f"../../cycle-1/{name}"), lines


class Echo(Trainer):
    """A trainer that is done at once."""

    name, kind, title, packages = "echo", "toy", "Echo", ()
    unit, suffix = "epochs", ".pt"
    script = "printf '1 0.002\\n2 0.001\\n' > curve.part && mv curve.part curve && echo weights > model.pt"

    def input(self, job: Training) -> dict[str, int]:
        return {"epochs": 2}

    def write_data(self, job: Training) -> None:
        ase.io.write(job.work / "data.extxyz", job.train)

    def length(self, job: Training) -> int:
        return 2

    def upstream(self, job: Training) -> list[str]:
        return ["echo"]

    def task(self, job: Training, *, resume: bool) -> Run:
        assert ase.io.read(job.work / "data.extxyz", ":"), "it has its data"
        return Run(["/bin/sh", "-c", self.script], dict(os.environ), job.work, job.work / "train.log", self.title)

    def curve(self, work: Path) -> list[CurvePoint]:
        path = work / "curve"
        rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [CurvePoint(int(step), {"energy_valid": float(e), "forces_valid": float(e)}) for step, e in rows]

    def checkpoint(self, work: Path) -> None:
        return None

    def finish(self, job: Training) -> dict[str, Path]:
        return {"model": job.work / "model.pt"}

    def check(self, points: Sequence[CurvePoint]) -> None:
        pass


class TrainingSweep(Command):
    """train --resume: all but the upstream trainer."""

    words = ("train", "chgnet", "--train-file", "train.extxyz", "-o", "trained", "--resume")

    def make(self, folder: Path) -> None:
        ase.io.write(folder / "train.extxyz", learning.label(learning.structures(4, seed=5)))

    def act(self) -> int | None:
        from matplotlib.figure import Figure

        from uspex_bridge.learn.training import run, watch

        def plan(order: Order) -> tuple[Trainer, Training, dict[str, object]]:
            settings, elements = TrainerSettings(WatchSettings(), {}), order.data.elements
            job = Training(order.out / "work", settings, elements, order.data.train, ())
            return Echo(), job, {"request": {"trainer": "echo", "input": {"epochs": 2}}, "versions": {}}

        run.plan, watch.PACE = plan, 0.01
        run._errors = lambda *about: {"energy": 0.001}
        Figure.savefig = lambda self, place, **more: Path(place).write_bytes(b"drawn")  # which takes long
        return super().act()

    def look(self, case: Case, end: End) -> None:
        out = self.root / "trained"
        if (out / "model.json").exists():
            card = json.loads((out / "model.json").read_text())
            assert card["sha256"] == checksum(out / card["model"]), "a card without its model"
        else:
            assert end.code, "exit 0 without a model"

    def look_again(self, end: End) -> None:
        self.look(Case("", 0), end)
        assert (self.root / "trained" / "loss.csv").read_text().count("\n") == 3
        hidden = (path for path in (self.root / "trained").iterdir() if path.name.startswith("."))
        left = [path.name for path in hidden if path.is_file() or any(path.iterdir())]  # a folder could not be removed
        assert set(left) <= {".lock"}, left


SWEEPS: dict[str, type[Sweep]] = {
    "executable": Executable,
    "adding": Adding,
    "making": Making,
    "labels": Labels,
    "collecting": Collecting,
    "preparing": Preparing,
    "screening": Screening,
    "relaxing": Relaxing,
    "cycling": Cycling,
    "training": TrainingSweep,
    **FILES,
}

if __name__ == "__main__":
    found = {}
    for name in sys.argv[3:]:
        place = Path(sys.argv[1]) / name
        place.mkdir()
        found[name] = SWEEPS[name](place).sweep(int(sys.argv[2]))
    print(json.dumps(found))
