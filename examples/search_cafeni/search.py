"""A small evolutionary search over Ca-Fe-Ni through the bridge's executable, as either line of USPEX would drive it.

    python examples/search_cafeni/search.py SEARCH --line matlab --pressure 50 --generations 10 --population 24

This is no USPEX: README.md says what it is. Called again it goes on where it was; a finished one only gets its results
folder written anew.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from emulators import results  # noqa: E402
from emulators.candidates import ELEMENTS  # noqa: E402
from emulators.matlab_line import MatlabLine  # noqa: E402
from emulators.operators import Limits  # noqa: E402
from emulators.python_line import PythonLine  # noqa: E402
from emulators.search import Individual, Line, Search, above_hull, run  # noqa: E402

BIN = Path(sys.executable).parent
#: INCAR_1 .. INCAR_n of the search.
STEPS = 3


def prepare(folder: Path, line: str, search: Search, generations: int, workers: int, protocol: str) -> None:
    """Write the search's input with ``uspex-bridge init`` unless it is there."""
    if (folder / "Specific").exists():
        return
    options = {
        "--elements": ",".join(search.limits.species),
        "--atoms": f"{search.limits.atoms[0]}-{search.limits.atoms[1]}",
        "--pressure": f"{search.limits.pressure:g}",
        "--population": str(search.population),
        "--generations": str(generations),
        "--parallel": str(workers),
        "--steps": str(STEPS),
        "--protocol": protocol,
    }
    words = [word for option in options.items() for word in option]
    command = [str(BIN / "uspex-bridge"), "init", line, str(folder), *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def service(workers: int) -> Iterator[None]:
    """Keep the models loaded meanwhile, in a service of this search's own; one that is forgotten ends by itself."""
    with tempfile.TemporaryDirectory() as place:
        socket = Path(place) / "service"
        os.environ["USPEX_BRIDGE_SOCKET"] = str(socket)
        command = [str(BIN / "uspex-bridge"), "serve", "--socket", str(socket), "--workers", str(workers)]
        command += ["--idle-timeout", "300"]
        serving = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while not socket.exists():
                if serving.poll() is not None:
                    raise click.ClickException(f"the service did not start (exit code {serving.returncode})")
                time.sleep(0.1)
            yield
        finally:
            serving.terminate()
            serving.wait()


def line_of(kind: str, folder: Path, limits: Limits, generation: int, workers: int, seed: int) -> Line:
    """Return the emulated line that relaxes a generation, with the INCARs that ``init`` wrote."""
    incars = [(folder / "Specific" / f"INCAR_{step}").read_text() for step in range(1, STEPS + 1)]
    executable = str(BIN / "uspex-bridge-vasp")
    if kind == "python":
        return PythonLine(
            folder, limits.species, incars, pressure=limits.pressure, command=executable, parallel=workers,
            distances=limits.distances, seed=seed,
        )  # fmt: skip
    (folder / "results1" / f"generation{generation}").mkdir(parents=True, exist_ok=True)
    if workers > 1 and not (folder / "Specific" / "background.sh").exists():
        raise click.UsageError(f"{folder} was set up for one relaxation at a time; use --workers 1 or init --parallel")
    command = executable if workers == 1 else f"bash ../Specific/background.sh {executable}"
    return MatlabLine(
        folder, limits.species, incars, pressure=limits.pressure, commands=[command], parallel=workers,
        distances=limits.distances, generation=generation, seed=seed, patience=3600.0,
    )  # fmt: skip


def describe(search: Search, made: list[Individual]) -> str:
    """Return a line on a generation."""
    unique = search.unique()
    above = above_hull(unique, search.limits.species)
    hull = [one.relaxed.get_chemical_formula() for one, value in zip(unique, above, strict=True) if value < 1e-6]
    kept = sum(one.atoms is not None for one in made)
    return f"generation {search.generation}: {kept} of {len(made)} relaxed; on the hull: {' '.join(sorted(hull))}"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--line", type=click.Choice(["matlab", "python"]), default="matlab", show_default=True)
@click.option("--pressure", default=50.0, show_default=True, help="GPa.")
@click.option("--generations", default=10, show_default=True)
@click.option("--population", default=24, show_default=True, help="Structures relaxed per generation.")
@click.option("--atoms", type=(int, int), default=(2, 12), show_default=True, help="Fewest and most atoms.")
@click.option("--seed", default=0, show_default=True)
@click.option("--workers", default=2, show_default=True, help="Structures at once.")
@click.option("--protocol", default="embedded", show_default=True, help="Of the bridge: a name or a TOML file.")
def main(
    folder: Path, line: str, pressure: float, generations: int, population: int, atoms: tuple[int, int], seed: int,
    workers: int, protocol: str,
) -> None:  # fmt: skip
    """Search in FOLDER, or go on with the search there; Seeds/POSCARS in it joins the next generation."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    search = Search(folder / "search.jsonl", Limits(ELEMENTS, atoms, pressure), population, seed)
    prepare(folder, line, search, generations, workers, protocol)

    def tell(made: list[Individual]) -> None:
        click.echo(describe(search, made))
        results.write(folder / "results1", search, line, finished=search.generation >= generations)

    with service(workers):
        run(search, generations, lambda g: line_of(line, folder, search.limits, g, workers, seed), folder, tell)
    (folder / "USPEX_IS_DONE").touch()


if __name__ == "__main__":
    main()
