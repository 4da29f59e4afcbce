"""How each tool is called, and what it needs beside USPEX's four files, by its own documentation."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from cases import Case

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
BAD = "does-not-exist.model"
_STAGED = """description = "MACE, then CHGNet"
[[stage]]
name = "robust"
calculator = "mace"
optimizer = "FIRE"
fmax = 0.5
steps = 10
[[stage]]
name = "accurate"
calculator = "chgnet"
optimizer = "BFGS"
fmax = 0.05
"""


@dataclass(frozen=True)
class Server:
    """A resident server: the commands that start it, succeed once it answers, and make one call through it."""

    start: list[str]
    ready: list[str]
    call: list[str]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Tool:
    """One tool: ``bin`` is the folder of its executables, ``model`` what the independent evaluation uses."""

    name: str
    bin: Path
    package: str
    mace: Path | None = None
    model: str = "chgnet"

    #: A non-default setting with which the tool may pass where its default does not.
    variant: str = ""
    #: The environment variable without which it cannot run at all.
    needs: str = ""
    reads_incar: bool = True

    def command(self, case: Case) -> list[str]:
        """Return the command line for ``case``, to be called in the folder."""
        raise NotImplementedError

    def prepare(self, folder: Path, case: Case, variant: bool) -> None:
        """Write what the tool needs beside USPEX's files."""

    def environment(self, case: Case) -> dict[str, str]:
        """Return further environment variables."""
        return {}

    def server(self, folder: Path, socket: Path) -> Server | None:
        """Return how to use the tool's resident server, if it has one."""
        return None

    @property
    def python(self) -> Path:
        """The interpreter of the tool's environment."""
        return self.bin / "python"

    def version(self) -> str:
        """Return the installed version."""
        code = f"import importlib.metadata as m; print(m.version({self.package!r}))"
        return subprocess.run([self.python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


class Bridge(Tool):
    """uspex_bridge: settings in bridge.toml beside the CalcFolds."""

    def command(self, case: Case) -> list[str]:
        """No arguments: settings are beside the folder."""
        return [str(self.bin / "uspex-bridge-vasp")]

    def environment(self, case: Case) -> dict[str, str]:
        """Return what keeps a call from a service that happens to run."""
        return {"USPEX_BRIDGE_SERVER": "off"}

    def server(self, folder: Path, socket: Path) -> Server | None:
        """Return the commands of ``uspex-bridge serve``."""
        command, place = str(self.bin / "uspex-bridge"), ["--socket", str(socket)]
        use = {"USPEX_BRIDGE_SOCKET": str(socket), "USPEX_BRIDGE_SERVER": "require"}
        call = [str(self.bin / "uspex-bridge-vasp")]
        return Server([command, "serve", "--workers", "1", *place], [command, "status", *place], call, use)

    def prepare(self, folder: Path, case: Case, variant: bool) -> None:
        """Write bridge.toml."""
        if case.bare:
            return
        lines = [f'protocol = "{"staged.toml" if case.staged else "embedded"}"']
        if case.staged:
            (folder.parent / "staged.toml").write_text(_STAGED)
            lines += ["[calculators.mace]", f'model = "{self.mace}"']
        if case.bad_model:
            lines += ["[calculators.chgnet]", f'model = "{BAD}"']
        (folder.parent / "bridge.toml").write_text("\n".join(lines) + "\n")


class Vpmdk(Tool):
    """vpmdk: BCAR in the folder; without one it takes CHGNet."""

    def command(self, case: Case) -> list[str]:
        """No arguments: settings are in the folder."""
        return [str(self.bin / "vpmdk")]

    def prepare(self, folder: Path, case: Case, variant: bool) -> None:
        """Write BCAR."""
        if case.bare:
            return
        lines = ["MLP=CHGNET", "DEVICE=cpu"]
        lines += [f"MODEL={BAD}"] if case.bad_model else []
        lines += [self.variant] if variant else []
        (folder / "BCAR").write_text("\n".join(lines) + "\n")

    def server(self, folder: Path, socket: Path) -> Server | None:
        """Return the commands of ``vpmdk serve``."""
        command, place = str(self.bin / "vpmdk"), ["--socket", str(socket)]
        start = [command, "serve", "--dir", str(folder), *place]
        return Server(start, [command, "status", *place], [command, "run", *place])


class VaspMace(Tool):
    """vasp-mace: the model by option or MACE_MODEL_PATH."""

    def command(self, case: Case) -> list[str]:
        """No arguments: the model is in the environment."""
        return [str(self.bin / "vasp-mace")]

    def environment(self, case: Case) -> dict[str, str]:
        """Where the model is."""
        return {"MACE_MODEL_PATH": BAD if case.bad_model else str(self.mace)}


class Macer(Tool):
    """macer: no INCAR; what the INCAR says goes on its command line."""

    def command(self, case: Case) -> list[str]:
        """What the INCAR says, as options."""
        if case.bare:
            return [str(self.bin / "macer")]
        isif = case.isif if case.nsw else 0
        line = f"macer relax -p POSCAR --ff chgnet --device cpu --isif {isif} --no-pdf"
        line += f" --max-step {case.nsw} --fmax {case.fmax:g}"
        line += f" --press {case.pstress / 10:g}" if isif in (3, 6, 7, 8) else ""  # an error with any other
        line += " --outcar OUTCAR --contcar CONTCAR --vasprun vasprun.xml"
        line += f" --model {BAD}" if case.bad_model else ""
        first, *rest = shlex.split(line)
        return [str(self.bin / first), *rest]


@dataclass
class Run:
    """What one call left behind: ``folder`` and the figures of ``run.json``."""

    folder: Path
    rc: int | None
    wall: float
    cpu: float
    facts: dict = field(default_factory=dict)

    def text(self, name: str) -> str:
        """Return the text of a file, empty where there is none."""
        path = self.folder / name
        return path.read_text(errors="replace") if path.is_file() else ""


def run(
    tool: Tool, case: Case, top: Path, stale: Path | None, *, variant: bool = False, kill_after: float | None = None
) -> Run:
    """Call ``tool`` in a fresh folder; SIGKILL ends it after ``kill_after`` or the case's limit, in CPU seconds."""
    home = top / tool.name / (case.name + ("-variant" if variant else ""))
    folder = home / "CalcFold1"
    note = home / "run.json"
    if note.exists():
        return Run(folder, **json.loads(note.read_text()))
    shutil.rmtree(home, ignore_errors=True)
    case.write(folder, stale)
    tool.prepare(folder, case, variant)
    done = call(tool.command(case), folder, tool.environment(case), home / "log", kill_after or case.limit)
    note.write_text(json.dumps({"rc": done.rc, "wall": done.wall, "cpu": done.cpu}))
    return done


def call(command: list[str], folder: Path, environment: dict[str, str], log: Path, limit: float) -> Run:
    """Call a command as USPEX does, on one thread: cwd in the folder, stdin empty.

    It is killed after ``limit`` seconds of CPU time, which a busy machine does not stretch, or twenty times as long on
    the clock; then ``rc`` is None.
    """
    began = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | ONE_THREAD | {"CUDA_VISIBLE_DEVICES": ""} | environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    rc: int | None = None
    while _cpu(process.pid) < limit and time.monotonic() - began < 20 * limit:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            rc = os.waitstatus_to_exitcode(status)
            break
        time.sleep(0.01)
    else:
        os.killpg(process.pid, signal.SIGKILL)
        _, _, usage = os.wait4(process.pid, 0)
    process.returncode = rc if rc is not None else -signal.SIGKILL
    return Run(folder, rc, time.monotonic() - began, usage.ru_utime + usage.ru_stime)


def _cpu(pid: int) -> float:
    """Return the CPU seconds that a process has used; one that has ended counts until it is waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
