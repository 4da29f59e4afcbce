"""Push random Ca-Fe-Ni candidates through a USPEX line's whole write-launch-read cycle and say how it went.

    python benchmarks/campaign.py --line matlab --protocol embedded --pressures 0,50,100 --candidates 100 --json OUT

OUT gets one JSON line per structure; a second call goes on where the first one ended, and only prints the table once
all is done. Everything USPEX took is compared with the model's own ASE calculator on the CONTCAR.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import click

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from emulators import independent  # noqa: E402
from emulators.candidates import Candidate, candidate, ion_distances  # noqa: E402
from emulators.forkserver import ForkServer  # noqa: E402
from emulators.inputs import demo_weights, embedded_settings, manual_series, paper_settings, short_series  # noqa: E402
from emulators.matlab_line import MatlabLine  # noqa: E402
from emulators.python_line import PythonLine  # noqa: E402
from emulators.records import Call, Launch, Report, SearchDied, SearchStopped, StepResult  # noqa: E402

SPECIES = ("Ni", "Ca", "Fe")
FMAX = 0.01
PRESSURE_TOLERANCE = 0.5
#: Exit codes that say something of the structure: a result, refused by a guard, the model failed, out of time.
#: Any other one is a crash, or a set-up in which nothing can work.
EXPECTED = {0, 6, 7, 10}
SERIES: dict[str, Callable[[float], list[str]]] = {"manual": manual_series, "short": short_series}


@dataclass(frozen=True)
class Plan:
    """What a campaign is; two structures of equal plan and index are the same job."""

    line: str
    protocol: str
    series: str
    seed: int
    atoms: tuple[int, int]
    bad: int

    @property
    def incars(self) -> list[str]:
        """INCAR_1..n."""
        return SERIES[self.series](FMAX)

    @property
    def relaxed_step(self) -> int:
        """The last step that moves atoms."""
        return max(n for n, text in enumerate(self.incars, 1) if "NSW = 0\n" not in text)


@dataclass
class Setup:
    """What the workers share."""

    plan: Plan
    settings: str
    launch: Launch
    reference: Any
    work: Path
    lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self, step: StepResult, pressure: float) -> independent.Check:
        """Evaluate a step with the reference, one thread at a time."""
        with self.lock:
            return independent.check(step, pressure, self.reference)


class Worker:
    """One search folder per pressure, in which structures follow one another as in a real search."""

    def __init__(self, setup: Setup, number: int) -> None:
        self.setup = setup
        self.number = number

    def relax(self, structure: Candidate, pressure: float) -> dict[str, Any]:
        """Take a structure through all steps and return its line of the results."""
        root = self.setup.work / f"{pressure:g}GPa_{self.number}"
        root.mkdir(parents=True, exist_ok=True)
        (root / "bridge.toml").write_text(self.setup.settings)
        record = root / "bridge.record"
        seen = record.stat().st_size if record.exists() else 0
        start = time.monotonic()
        report, ended = self._run(root, structure, pressure)
        row = {
            "plan": asdict(self.setup.plan),
            "pressure": pressure,
            "index": structure.index,
            "origin": structure.origin,
            "formula": structure.atoms.get_chemical_formula(),
            "natoms": len(structure.atoms),
            "status": ended or report.status,
            "reason": report.reason,
            "seconds": round(time.monotonic() - start, 2),
        }
        row |= _calls(report.calls) | _records(record, seen)
        row["steps"] = [
            {"step": step.step, "enthalpy": step.enthalpy} | asdict(self.setup.check(step, pressure))
            for step in report.steps
        ]
        return row

    def _run(self, root: Path, structure: Candidate, pressure: float) -> tuple[Report, str]:
        """Return the report, and how USPEX itself would have ended if it would."""
        plan = self.setup.plan
        distances = ion_distances(pressure)
        if plan.line == "python":
            python = PythonLine(
                root, SPECIES, plan.incars, pressure=pressure, distances=distances, launch=self.setup.launch
            )
            return python.run([structure])[0], ""
        matlab = MatlabLine(
            root, SPECIES, plan.incars, pressure=pressure, distances=distances, launch=self.setup.launch, seed=plan.seed
        )
        try:
            return matlab.relax([structure])[0], ""
        except (SearchDied, SearchStopped) as error:
            for name in ("OSZICAR", "OUTCAR", "CONTCAR"):
                (matlab.folder(1) / name).unlink(missing_ok=True)
            failed = Report(structure)
            failed.drop(str(error))
            return failed, "died"


def _calls(calls: list[Call]) -> dict[str, Any]:
    return {
        "calls": len(calls),
        "codes": dict(Counter(str(call.returncode) for call in calls)),
        "trespasses": sum(bool(call.changed or call.strays) for call in calls),
    }


def _records(path: Path, offset: int) -> dict[str, Any]:
    """Sum up what the bridge's own record says of the calls since ``offset``."""
    entries = []
    if path.exists():
        with path.open("rb") as stream:
            stream.seek(offset)
            entries = [json.loads(line) for line in stream]
    return {
        "evaluations": sum(stage["evaluations"] for entry in entries for stage in entry.get("stages", [])),
        "record": [entry.get("status", "") for entry in entries],
        "refusals": dict(Counter(str(entry.get("code")) for entry in entries if entry.get("exit", 0) != 0)),
    }


def jobs(plan: Plan, pressures: list[float], count: int, done: set[tuple[float, int]]) -> Iterator[tuple[float, int]]:
    """Yield what is still to do, the pressures by turns so that an unfinished campaign says something of each."""
    yield from ((p, index) for index in range(1, count + 1) for p in pressures if (p, index) not in done)


def run(setup: Setup, todo: list[tuple[float, int]], workers: int, out: TextIO) -> None:
    """Do the jobs and append a line for each to ``out``; a bar on a terminal."""
    waiting: queue.SimpleQueue[tuple[float, int]] = queue.SimpleQueue()
    for job in todo:
        waiting.put(job)
    plan, lock = setup.plan, threading.Lock()
    with click.progressbar(
        length=len(todo), label="structures", file=sys.stderr, hidden=not sys.stderr.isatty()
    ) as bar:

        def work(number: int) -> None:
            worker = Worker(setup, number)
            while True:
                try:
                    pressure, index = waiting.get_nowait()
                except queue.Empty:
                    return
                spoil = plan.bad > 0 and index % plan.bad == 0
                row = worker.relax(candidate(index, pressure, seed=plan.seed, atoms=plan.atoms, spoil=spoil), pressure)
                with lock:
                    out.write(json.dumps(row) + "\n")
                    out.flush()
                    bar.update(1)

        with ThreadPoolExecutor(workers) as pool:
            try:
                outcomes = [pool.submit(work, number) for number in range(1, workers + 1)]
                for outcome in wait(outcomes, return_when=FIRST_EXCEPTION).done:
                    outcome.result()
            finally:  # an error or Ctrl-C: the others finish the structure that they are at
                while not waiting.empty():
                    with suppress(queue.Empty):
                        waiting.get_nowait()


def read_rows(path: Path, plan: Plan) -> list[dict[str, Any]]:
    """Return the lines of this plan."""
    wanted = json.loads(json.dumps(asdict(plan)))
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with suppress(ValueError):  # a line that an interrupted run left unfinished
            rows.append(json.loads(line))
    return [row for row in rows if row["plan"] == wanted]


def is_converged(row: dict[str, Any], step: int) -> bool:
    """Say whether the last relaxing step reached its force, and whether it and those after it have the pressure."""
    steps = {entry["step"]: entry for entry in row["steps"]}
    return (
        row["status"] == "done"
        and steps[step]["fmax"] <= FMAX * 1.01
        and all(abs(entry["pressure_error"]) <= PRESSURE_TOLERANCE for n, entry in steps.items() if n >= step)
    )


def table(rows: list[dict[str, Any]], plan: Plan) -> str:
    """Return the table, a line per pressure, and the reasons of what was not accepted."""
    head = (
        "GPa", "structures", "calls", "crashes", "died", "accepted", "converged", "dropped",
        "max|dP|/GPa", "max|dH|/eV", "evaluations", "hours",
    )  # fmt: skip
    lines = [head]
    reasons: Counter[str] = Counter()
    for pressure in sorted({row["pressure"] for row in rows}):
        here = [row for row in rows if row["pressure"] == pressure]
        accepted = [row for row in here if row["status"] == "done"]
        converged = [row for row in accepted if is_converged(row, plan.relaxed_step)]
        ends = [entry for row in accepted for entry in row["steps"] if entry["step"] >= plan.relaxed_step]
        every = [abs(entry["enthalpy_error"]) for row in here for entry in row["steps"]]
        crashes = sum(n for row in here for code, n in row["codes"].items() if int(code) not in EXPECTED)
        reasons.update(_reason(row, plan) for row in here if row not in converged)
        lines.append(
            (
                f"{pressure:g}", str(len(here)), str(sum(row["calls"] for row in here)),
                str(crashes + sum(row["trespasses"] for row in here)),
                str(sum(row["status"] == "died" for row in here)), str(len(accepted)), str(len(converged)),
                str(sum(row["status"] == "dropped" for row in here)),
                f"{max((abs(entry['pressure_error']) for entry in ends), default=0.0):.3f}",
                f"{max(every, default=0.0):.1e}", str(sum(row["evaluations"] for row in here)),
                f"{sum(row['seconds'] for row in here) / 3600:.2f}",
            )
        )  # fmt: skip
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    text = "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return text + "".join(f"\n{count:5d} x {reason}" for reason, count in reasons.most_common())


def _reason(row: dict[str, Any], plan: Plan) -> str:
    """Return why a structure is not among the converged ones."""
    if row["status"] == "done":
        step = next(entry for entry in row["steps"] if entry["step"] == plan.relaxed_step)
        return f"accepted, not converged ({'steps ran out' if step['fmax'] > FMAX else 'pressure'})"
    if row["refusals"]:
        return f"refused by the bridge: {', '.join(sorted(row['refusals']))}"
    return f"{row['status']}: {row['reason']}"


def settings_of(protocol: str, weights: Path) -> tuple[str, tuple[str, Path | None]]:
    """Return bridge.toml for a protocol, and the kind and weights of the model that ends it."""
    if protocol == "embedded":
        return embedded_settings(), ("chgnet", None)
    try:
        return paper_settings(weights), ("mattersim", demo_weights(weights)[1])
    except FileNotFoundError as error:
        raise click.ClickException(f"{error}; --weights names another folder") from None


@click.command()
@click.option("--line", type=click.Choice(["matlab", "python"]), default="matlab", show_default=True)
@click.option("--protocol", type=click.Choice(["embedded", "paper"]), default="embedded", show_default=True)
@click.option("--pressures", default="0,50,100", show_default=True, help="GPa, separated by commas.")
@click.option("--candidates", "count", default=100, show_default=True, help="Candidates at each pressure.")
@click.option("--atoms", type=(int, int), default=(2, 24), show_default=True, help="Fewest and most atoms.")
@click.option("--series", type=click.Choice(sorted(SERIES)), default="manual", show_default=True, help="INCAR_1..n.")
@click.option("--bad", default=0, show_default=True, help="Spoil every n-th candidate.")
@click.option("--seed", default=0, show_default=True)
@click.option("--workers", default=2, show_default=True, help="Structures at work at once.")
@click.option("--weights", type=click.Path(path_type=Path), default=ROOT / "examples" / "demo_weights")
@click.option("--json", "out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Results, JSONL.")
@click.option("--work", type=click.Path(path_type=Path, file_okay=False), help="Search folders; default OUT.work")
def main(out: Path, work: Path | None, weights: Path, workers: int, count: int, pressures: str, **plan: Any) -> None:
    """Run the campaign, or go on with it, and print its table; exit code 1 where a criterion is missed."""
    asked = Plan(**plan)
    wanted = [float(word) for word in pressures.split(",")]
    settings, model = settings_of(asked.protocol, weights.resolve())
    done = {(row["pressure"], row["index"]) for row in read_rows(out, asked)}
    todo = list(jobs(asked, wanted, count, done))
    if todo:
        folder = (work or out.with_suffix(".work")).resolve() / "_".join(map(str, (asked.line, asked.protocol)))
        with ForkServer() as server, out.open("a") as stream:
            if stream.tell() and not out.read_bytes().endswith(b"\n"):
                stream.write("\n")
            setup = Setup(asked, settings, server.launch, independent.calculator(*model), folder)
            run(setup, todo, workers, stream)
    rows = [r for r in read_rows(out, asked) if r["pressure"] in wanted and r["index"] <= count]
    click.echo(f"{asked.line} line, protocol {asked.protocol}, {len(asked.incars)} steps, seed {asked.seed}")
    click.echo(table(rows, asked))
    sys.exit(not all(_passes(row, asked) for row in rows))


def _passes(row: dict[str, Any], plan: Plan) -> bool:
    """Say whether nothing crashed, every enthalpy that USPEX took is right and what it accepted is relaxed."""
    sound = row["status"] != "died" and not row["trespasses"] and all(int(code) in EXPECTED for code in row["codes"])
    right = all(abs(entry["enthalpy_error"]) < 1e-5 for entry in row["steps"])
    return sound and right and (row["status"] != "done" or is_converged(row, plan.relaxed_step))


if __name__ == "__main__":
    main()
