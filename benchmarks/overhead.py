"""What a call costs beyond the relaxation: thin client and warm service against a bare interpreter and one-shot runs.

    python benchmarks/overhead.py [--rounds 15] [--models toy,chgnet] [--vpmdk PATH] [--json FILE]

The structure is relaxed beforehand, so that a call has one evaluation to do. All are called in turn, round by round, so
that a busy machine hits all alike; ratios of medians of one such run mean something, times of two runs do not. Run it
with the Python of an ordinary installation: an editable one (``pip install -e``) makes every start of its interpreter,
the bare one too, 10 ms slower.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
INCAR = "IBRION = 2\nISIF = 3\nNSW = 200\nEDIFFG = -0.05\nPSTRESS = 500\n"
POSCAR = """EA1
1.0
 4.2 0.1 0.0
 0.0 4.3 0.15
 0.05 0.0 4.1
1 2 1
Direct
 0.01 0.02 0.00
 0.52 0.48 0.03
 0.47 0.01 0.55
 0.02 0.51 0.46
"""
SETTINGS = 'protocol = "single"\n[calculators.model]\nkind = "{model}"\ndevice = "cpu"\n'


#: Runs the script argv[1] and leaves the peak memory (kB) in the file argv[2]. The usual rusage of a child is no
#: less than what its parent held when it was made.
PROBE = """
import os, sys
os._exit = sys.exit
script, out, *rest = sys.argv[1:]
sys.argv = [script, *rest]
try:
    exec(compile(open(script).read(), script, "exec"), {"__name__": "__main__"})
finally:
    peak = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
    open(out, "w").write(*peak)
"""


@dataclass
class Call:
    """One call: wall time and CPU time of the called process, and what its run says it took, all in s."""

    wall: float
    cpu: float
    run: float | None = None


def measure(command: list[str], folder: Path, environment: dict[str, str]) -> Call:
    """Call a program once.

    Raises:
        RuntimeError: it failed.
    """
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}: {output.read().decode()[-2000:]}")
    return Call(wall, usage.ru_utime + usage.ru_stime)


def peak_memory(command: list[str], folder: Path, environment: dict[str, str]) -> float:
    """Call a Python program once more and return its peak memory, MB."""
    with tempfile.TemporaryDirectory() as scratch:
        out, script = Path(scratch, "peak"), Path(command[0])
        if command[1:2] == ["-c"]:
            script = Path(scratch, "script.py")
            script.write_text(command[2])
            interpreter, rest = command[0], command[3:]
        else:
            first, rest = script.read_text().splitlines()[0].removeprefix("#!"), command[1:]
            interpreter = str(BIN / "python") if first == "/bin/sh" else first  # the bridge's own begin as shell
        measure([interpreter, "-c", PROBE, str(script), str(out), *rest], folder, environment)
        return int(out.read_text()) / 1024


def make_folder(top: Path, model: str) -> Path:
    """Make a search folder with one CalcFold."""
    folder = top / "CalcFold1"
    folder.mkdir(parents=True)
    (top / "bridge.toml").write_text(SETTINGS.format(model=model))
    (folder / "INCAR").write_text(INCAR)
    (folder / "POSCAR").write_text(POSCAR)
    (folder / "POTCAR").write_text("".join(f" TITEL  = PAW_PBE {s}\n" for s in ("Ca", "Fe", "Ni")))
    (folder / "KPOINTS").write_text("EA\n0\nGamma\n 1 1 1\n")
    return folder


def elapsed(folder: Path) -> float:
    """Return what the OUTCAR says its run took: from the inputs read to the first file written, in a warm process."""
    (line,) = (line for line in (folder / "OUTCAR").read_text().splitlines() if "Elapsed time (sec)" in line)
    return float(line.split()[-1])


def service_of(top: Path) -> tuple[dict[str, str], Callable[[], None]]:
    """Start a service; return the environment that finds it, and what ends it."""
    environment = {**os.environ, "USPEX_BRIDGE_SOCKET": str(top / "service.sock")}
    command = [str(BIN / "uspex-bridge"), "serve", "--daemon", "--workers", "1"]
    subprocess.run(command, env=environment, cwd=top, check=True, capture_output=True)

    def end() -> None:
        subprocess.run([BIN / "uspex-bridge", "stop"], env=environment, check=True, capture_output=True)

    return environment, end


def vpmdk_of(binary: Path, top: Path, relaxed: Path) -> tuple[list[str], Path, Callable[[], None]]:
    """Start vpmdk's server with CHGNet; return its client's command, a folder that vpmdk can run in, what ends it."""
    folder = top / "vpmdk"
    folder.mkdir()
    for name in ("INCAR", "POSCAR", "POTCAR", "KPOINTS"):
        shutil.copy(relaxed / name, folder)
    (folder / "BCAR").write_text("MLP=CHGNET\nDEVICE=cpu\n")
    socket = str(top / "vpmdk.sock")
    server = subprocess.Popen(
        [binary, "serve", "--dir", folder, "--socket", socket], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def end() -> None:
        server.terminate()
        server.wait()

    deadline = time.monotonic() + 300
    while subprocess.run([binary, "status", "--socket", socket], capture_output=True, check=False).returncode:
        if time.monotonic() > deadline or server.poll() is not None:
            end()
            raise RuntimeError("vpmdk's server does not answer")
        time.sleep(0.5)
    return [str(binary), "run", "--dir", str(folder), "--socket", socket], folder, end


def relax_first(folder: Path, environment: dict[str, str]) -> None:
    """Relax a folder's structure in the service, which is warm then, and leave it as the next input."""
    client = [str(BIN / "uspex-bridge-vasp"), "--server", "require"]
    for _ in range(3):
        measure(client, folder, environment)
        shutil.copy(folder / "CONTCAR", folder / "POSCAR")


def collect(
    models: list[str], rounds: int, vpmdk: Path | None, *, one_shot: bool
) -> tuple[dict[str, list[Call]], dict[str, float]]:
    """Call everything ``rounds`` times in turn (one-shot runs a third as often); return the calls and peak memories."""
    top = Path(tempfile.mkdtemp(prefix="overhead-", dir="/tmp"))
    environment, end = service_of(top)
    ends = [end]
    client, alone = ([str(BIN / "uspex-bridge-vasp"), "--server", mode] for mode in ("require", "off"))
    subjects = {"python -c pass": ([sys.executable, "-c", "pass"], top)}
    try:
        for model in models:
            folder = make_folder(top / model, model)
            relax_first(folder, environment)
            subjects |= {f"service, {model}": (client, folder), f"one-shot, {model}": (alone, folder)}
        if vpmdk:
            command, folder, end = vpmdk_of(vpmdk, top, top / "chgnet" / "CalcFold1")
            ends.append(end)
            subjects["vpmdk server, chgnet"] = (command, folder)
            subjects["vpmdk one-shot, chgnet"] = ([str(vpmdk), "--dir", str(folder)], folder)
        subjects = {name: subject for name, subject in subjects.items() if one_shot or "one-shot" not in name}
        memory = {name: peak_memory(*subject, environment) for name, subject in subjects.items()}
        calls: dict[str, list[Call]] = {name: [] for name in subjects}
        for turn in range(rounds):
            for name, (command, folder) in subjects.items():
                if turn % 3 == 0 or "one-shot" not in name:
                    calls[name].append(measure(command, folder, environment))
                    if "one-shot" not in name and folder != top:
                        calls[name][-1].run = elapsed(folder)
    finally:
        for end in ends:
            end()
        shutil.rmtree(top)
    return calls, memory


def summarise(calls: dict[str, list[Call]], memory: dict[str, float]) -> list[dict[str, Any]]:
    """Return a row per kind of call: medians, the fastest, and ratios to the bare interpreter.

    ``overhead`` is the wall time less what the run itself took (:func:`elapsed`).
    """
    rows = []
    bare = calls["python -c pass"]
    bare_wall, bare_cpu = median(bare, "wall"), median(bare, "cpu")
    for name, made in calls.items():
        runs = [call.wall - call.run for call in made if call.run is not None]
        overhead = statistics.median(runs) if runs else None
        rows.append(
            {
                "call": name,
                "times": len(made),
                "wall_s": round(median(made, "wall"), 4),
                "fastest_s": round(min(call.wall for call in made), 4),
                "over_bare": round(median(made, "wall") / bare_wall, 2),
                "overhead_s": None if overhead is None else round(overhead, 4),
                "overhead_over_bare": None if overhead is None else round(overhead / bare_wall, 2),
                "cpu_s": round(median(made, "cpu"), 4),
                "cpu_over_bare": round(median(made, "cpu") / bare_cpu, 2),
                "memory_mb": round(memory[name], 1),
            }
        )
    return rows


def median(calls: list[Call], what: str) -> float:
    """Return the median of one of the times."""
    return statistics.median(getattr(call, what) for call in calls)


def table(rows: list[dict[str, Any]]) -> str:
    """Lay the rows out for people."""
    lines = [list(rows[0]), *([("-" if v is None else str(v)) for v in row.values()] for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--models", default="toy,chgnet")
    parser.add_argument("--vpmdk", type=Path, help="executable of vpmdk; its server joins with CHGNet")
    parser.add_argument("--no-one-shot", action="store_true", help="leave out what takes seconds a call")
    parser.add_argument("--json", type=Path, help="file for rows and single calls")
    chosen = parser.parse_args()
    models = chosen.models.split(",")
    if chosen.vpmdk and "chgnet" not in models:
        parser.error("--vpmdk compares CHGNet: --models must name chgnet")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    calls, memory = collect(models, chosen.rounds, chosen.vpmdk, one_shot=not chosen.no_one_shot)
    rows = summarise(calls, memory)
    print(table(rows))
    if chosen.json:
        machine = {"python": platform.python_version(), "cpus": os.cpu_count(), "load": os.getloadavg()[0]}
        single = {name: [asdict(call) for call in made] for name, made in calls.items()}
        chosen.json.write_text(json.dumps({"machine": machine, "rows": rows, "calls": single}, indent=1) + "\n")


if __name__ == "__main__":
    main()
