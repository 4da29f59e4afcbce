"""Sweeps over the commands that write files from what they find: each file is whole, or as it was."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import ase.io
import learning
import numpy as np
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from calling import TOY
from results_making import DATA
from sweeping import Case, Command, End, Sweep

from uspex_bridge.base import jsonl
from uspex_bridge.call.thermal import LINES
from uspex_bridge.cli import main

TOYS = '[calculators.one]\nkind = "toy"\n[calculators.two]\nkind = "toy"\noptions = {epsilon = 0.52}\n'


def make_search(folder: Path) -> None:
    """Make a search with its elements, a dataset, and a search of USPEX."""
    (folder / "bridge.toml").write_text(TOYS)
    frames = [*learning.structures(4, seed=3), bulk("Ca"), bulk("Fe"), bulk("Ni")]
    for number, atoms in enumerate(frames):
        energy = -5.0 * len(atoms) - 0.1 * number
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.zeros((len(atoms), 3)))
        atoms.info = {"name": f"s{number}", "level": "PBE"}
    ase.io.write(folder / "search.extxyz", frames)
    ase.io.write(folder / "labelled.extxyz", learning.label(learning.structures(4, seed=5)))
    shutil.copytree(DATA / "300", folder / "results1")
    (folder / "cifs").mkdir()
    os.chdir(folder)
    with suppress(SystemExit):
        main.main(
            ["dataset", "add", "data", "labelled.extxyz", "--generation", "0", "--code", "toy", "--functional", "LJ"]
        )


class Writing(Command):
    """A command, the files that are there before it, and how little of one may differ from run to run."""

    before: tuple[str, ...] = ()
    dated = 0

    def __init__(self, top: Path) -> None:
        super().__init__(top)
        self.prepare(Case("EIO", 0))
        end = self.run(None)
        assert end.code == 0, end
        self.old, self.new = self.files(self.template), self.files(self.root)
        self.made = [name for name, content in self.new.items() if content != self.old.get(name)]
        assert self.made, end

    def make(self, folder: Path) -> None:
        make_search(folder)
        for name in self.before:
            (folder / name).write_text("old\n")

    def act(self) -> int | None:
        from matplotlib.figure import Figure

        Figure.savefig = lambda self, place, **more: Path(place).write_bytes(b"drawn")  # which takes long
        return super().act()

    @staticmethod
    def files(top: Path) -> dict[str, bytes]:
        """Return what is in all files below a folder that are not hidden."""
        found = {str(path.relative_to(top)): path for path in top.rglob("*") if path.is_file()}
        return {n: path.read_bytes() for n, path in found.items() if not any(w.startswith(".") for w in Path(n).parts)}

    def is_new(self, name: str, content: bytes) -> bool:
        new = self.new.get(name)
        if new is None:
            return False
        grows = name.endswith(".jsonl") and new.startswith(content)
        return content == new or grows or (abs(len(content) - len(new)) < self.dated and content[-9:] == new[-9:])

    def look(self, case: Case, end: End) -> None:
        now = self.files(self.root)
        for name, content in now.items():
            assert content == self.old.get(name) or self.is_new(name, content), f"{name} is neither old nor new"
        assert now.keys() >= self.old.keys(), "a file is lost"
        if end.code == 0:
            lacking = [name for name in self.made if name not in now or not self.is_new(name, now[name])]
            assert not lacking, f"exit 0 without {lacking}"

    def look_again(self, end: End) -> None:
        self.look(Case("", 0), end)
        left = [path for path in self.root.rglob(".new.*") if any(path.iterdir())]
        assert not left, left


def writing(words: str, *before: str, dated: int = 0) -> type[Sweep]:
    """Return the sweep over a command that replaces what was there ``before``."""
    return type("Writing", (Writing,), {"words": tuple(words.split()), "before": before, "dated": dated})


class Rescoring(Command):
    """rescore: single points of a search in a folder that grows."""

    words = ("rescore", "search.extxyz", "-m", "one", "-o", "out")

    def make(self, folder: Path) -> None:
        make_search(folder)

    def look(self, case: Case, end: End) -> None:
        for path in self.root.glob("out/*.extxyz"):
            assert ase.io.read(path, ":"), f"{path.name} is empty"

    def look_again(self, end: End) -> None:
        keys = [entry["key"] for entry in jsonl.read(self.root / "out" / "bridge.record")]
        frames = ase.io.read(self.root / "out" / "relaxed.extxyz", ":")
        assert len(set(keys)) == len(keys) == len(frames) == 7, (keys, len(frames))


class FreeEnergies(Command):
    """free-energy: relaxations, phonons and lines of two phases in a folder that grows."""

    words = ("free-energy", "two.extxyz", "-p", "10", "--min-image", "4.5", "-T", "0,300", "-o", "out")

    def make(self, folder: Path) -> None:
        (folder / "bridge.toml").write_text('protocol = "thermal.toml"\n' + TOY)
        stage = '[[stage]]\nname = "accurate"\ncalculator = "model"\nfmax = 0.01\n'
        (folder / "thermal.toml").write_text(stage)
        ase.io.write(folder / "two.extxyz", [bulk("Ni", "hcp", a=2.5, c=4.1), bulk("Ni", "fcc", a=3.5)])

    def look(self, case: Case, end: End) -> None:
        for path in self.root.glob("out/*.extxyz"):
            assert ase.io.read(path, ":"), f"{path.name} is empty"
        for path in self.root.glob("out/*/*.npz"):
            assert np.load(path).files
        for path in self.root.glob("out/*.json"):
            assert json.loads(path.read_text())
        if end.code == 0:
            self.look_again(end)

    def look_again(self, end: End) -> None:
        done = [(line["key"], line["temperature"]) for line in jsonl.read(self.root / "out" / LINES)]
        assert len(set(done)) == len(done) == 4, done
        assert len(ase.io.read(self.root / "out" / "relaxed.extxyz", ":")) == 2


FILES: dict[str, type[Sweep]] = {
    "rescoring": Rescoring,
    "free-energies": FreeEnergies,
    "extxyz": writing("results export search.extxyz out.extxyz --force", "out.extxyz"),
    "table": writing("results export search.extxyz out.csv --force", "out.csv"),
    "database": writing("results export search.extxyz out.db --force", dated=40),
    "crystals": writing("results export search.extxyz cifs --format cif --force"),
    "hull": writing("hull search.extxyz --csv hull.csv --force", "hull.csv"),
    "page": writing("report results1 --no-record -o page.html --force", "page.html", dated=40),
    "seeds": writing("seeds search.extxyz -o POSCARS -n 2 --force", "POSCARS"),
    "figure": writing("plot progress results1 --no-record -o a.png --csv a.csv --force", "a.png", "a.csv"),
    "history": writing("converged results1 --csv history.csv --force", "history.csv"),
    "systems": writing("dataset export data systems --format deepmd --force"),
    "frames": writing("dataset export data frames.extxyz --format extxyz --force", "frames.extxyz"),
    "selection": writing("select search.extxyz -n 2 -o selected --force"),
    "copies": writing("augment search.extxyz -o copies.extxyz --force", "copies.extxyz"),
    "evaluation": writing("evaluate one two --on data --split all -o evaluated --force", dated=40),
    "inputs": writing("init matlab new --elements Ca,Fe,Ni --force"),
}
