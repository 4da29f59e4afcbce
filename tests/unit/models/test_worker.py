from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from uspex_bridge.base.errors import CalculationError, ConfigError, ModelError, OutOfMemoryError
from uspex_bridge.models import backends, environments, inventory, messages
from uspex_bridge.models import worker as pipe
from uspex_bridge.models.cards import CalculatorSettings

RNG = np.random.default_rng(5)
CRYSTAL = Atoms(
    "CaFe2Ni",
    scaled_positions=np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]) + RNG.normal(0, 0.02, (4, 3)),
    cell=np.eye(3) * 4 + RNG.normal(0, 0.2, (3, 3)),
    pbc=True,
)

#: A calculator that does what no calculator should.
HOSTILE = """
import os, signal, subprocess, sys, time
from pathlib import Path
from ase.calculators.calculator import Calculator
import numpy as np

class Hostile(Calculator):
    def __init__(self, action):
        super().__init__()
        self.action = action
    def calculate(self, atoms, properties, changes):
        here = Path(__file__).with_name("pid")
        here.write_text(str(os.getpid()))
        if self.action == "prints":
            print("from python")
            os.write(1, b"from C\\n")
            subprocess.run(["echo", "from a child"])
            assert sys.stdin.read() == ""
        if self.action == "exits":
            print("the last words", file=sys.stderr, flush=True)
            os._exit(3)
        if self.action == "killed" and not here.with_name("once").exists():
            here.with_name("once").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.action == "sleeps":
            time.sleep(60)
        if self.action == "spins":
            while True:
                pass
        if self.action == "nan":
            self.results = {"energy": float("nan"), "forces": np.full((len(atoms), 3), np.inf), "stress": np.zeros(6)}
        else:
            self.results = {"energy": 1 / 3, "forces": np.full((len(atoms), 3), 0.1), "stress": np.arange(6) / 7}

def build(request):
    if request.options["action"] == "dies early":
        os._exit(4)
    return Hostile(request.options["action"])
"""


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    (tmp_path / "hostile.py").write_text(HOSTILE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def load(action: str, **settings) -> backends.Backend:
        options = {"action": action}
        asked = CalculatorSettings(kind="hostile:build", device="cpu", isolate=True, options=options, **settings)
        return backends.load("h", asked)

    return load


def gone(pid: int, patience: float = 20.0) -> bool:
    """Wait until a process has ended (a zombie that its parent has not met yet counts)."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def pid_of(backend: backends.Backend) -> int:
    return backend.calculator.function.__self__._worker._process.pid


# -------------------------------------------------------------------------------------------------- same numbers


def test_same_bits_as_in_process():
    near = backends.load("toy", CalculatorSettings())
    with backends.load("toy", CalculatorSettings(isolate=True)) as far:
        assert far.identity == {**near.identity, "worker": "isolated"}
        assert far.elements == near.elements
        for scale in (1.0, 0.7, 1.0 / 3.0, 5.0):
            atoms = CRYSTAL.copy()
            atoms.set_cell(atoms.cell * scale, scale_atoms=True)
            for backend in (near, far):
                backend.calculator.calculate(atoms)
            assert far.calculator.results.keys() == near.calculator.results.keys()
            for name, value in near.calculator.results.items():
                assert np.asarray(far.calculator.results[name]).tobytes() == np.asarray(value).tobytes(), name


def test_numbers_that_are_none(hostile):
    with hostile("nan") as backend:
        backend.calculator.calculate(CRYSTAL)
        assert np.isnan(backend.calculator.results["energy"])
        assert np.isposinf(backend.calculator.results["forces"]).all()


def test_300_atoms():
    """More than a pipe's buffer each way."""
    atoms = CRYSTAL * (5, 5, 3)
    with backends.load("toy", CalculatorSettings(isolate=True)) as backend:
        backend.calculator.calculate(atoms)
        assert backend.calculator.results["forces"].shape == (300, 3)


def test_prints_do_not_reach_the_pipe(hostile, capfd):
    with hostile("prints") as backend:
        for _ in range(2):
            backend.calculator.calculate(CRYSTAL)
            assert backend.calculator.results["energy"] == 1 / 3
    assert capfd.readouterr().out == ""


# ------------------------------------------------------------------------------------------------ another python


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """An environment with ASE, NumPy and SciPy and nothing else."""
    folder = tmp_path_factory.mktemp("other") / "env"
    venv.create(folder, with_pip=False, symlinks=True)
    site = next(folder.glob("lib/python3*/site-packages"))
    for package in ("ase", "numpy", "scipy"):
        source = Path(importlib.util.find_spec(package).origin).parent
        for part in (source, source.with_name(f"{package}.libs")):
            if part.exists():
                (site / part.name).symlink_to(part)
    return folder


PROBE = """
import sys
from uspex_bridge.calculators import toy
from ase.calculators.calculator import Calculator
import numpy as np
class Probe(Calculator):
    def calculate(self, atoms, properties, changes):
        import importlib.util as util
        names = ("ase", "click", "pymatgen", "torch", "units", "cards")
        seen = {name: util.find_spec(name) is not None for name in names}
        raise RuntimeError(str((sys.prefix, seen, [p for p in sys.path if not p], toy.__name__)))
def build(request):
    return Probe()
"""


def test_another_interpreter(other):
    near = backends.load("toy", CalculatorSettings())
    near.calculator.calculate(CRYSTAL)
    for python in (other / "bin" / "python", other):
        with backends.load("toy", CalculatorSettings(python=str(python))) as far:
            far.calculator.calculate(CRYSTAL)
            # not to the last bit: without pymatgen there, another package lists the pairs, in another order
            assert far.calculator.results["energy"] == pytest.approx(near.calculator.results["energy"], rel=1e-12)
            assert far.identity["worker"] == str(python)


def test_another_interpreter_sees_nothing_of_ours(other, monkeypatch):
    site = next(other.glob("lib/python3*/site-packages"))
    (site / "probe.py").write_text(PROBE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    settings = CalculatorSettings(kind="probe:build", python=str(other))
    with backends.load("x", settings) as far, pytest.raises(CalculationError) as caught:
        far.calculator.calculate(CRYSTAL)
    text = str(caught.value)
    assert f"'{other}'" in text
    for name in ("click", "pymatgen", "torch", "units", "cards"):
        assert f"'{name}': False" in text
    assert "'ase': True" in text
    assert "uspex_bridge.calculators.toy" in text


def test_package_that_the_other_one_lacks(other):
    settings = CalculatorSettings(python=str(other))
    with pytest.raises(ModelError, match=f"chgnet in {other}: CHGNet is not installed.*pip install chgnet"):
        backends.load("chgnet", settings)
    status = inventory.available("chgnet", settings)
    assert not status.ok
    assert "not installed" in status.problem
    assert inventory.available("toy", settings).ok


@pytest.mark.parametrize(
    ("python", "reason"),
    [
        ("/nowhere/bin/python", "no such interpreter"),
        ("/etc/passwd", "no such interpreter"),
        ("cat", "did not start"),
        ("true", "did not start"),
        ("echo", "did not start"),
    ],
)
def test_what_is_no_python(python, reason):
    with pytest.raises(ModelError, match=reason):
        backends.load("toy", CalculatorSettings(python=python))
    assert reason in inventory.available("toy", CalculatorSettings(python=python)).problem


def test_python_without_ase(tmp_path):
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    with pytest.raises(ModelError, match="No module named '(numpy|ase)'; this Python needs ase, numpy"):
        backends.load("toy", CalculatorSettings(python=str(tmp_path / "bare")))


# -------------------------------------------------------------------------------------------------------- errors


def test_errors_keep_their_class(tmp_path):
    (tmp_path / "text.model").write_text("no weights")
    for settings, kind, text in (
        (CalculatorSettings(kind="toy", options={"hol": 1}), ConfigError, "unknown option 'hol'"),
        (CalculatorSettings(kind="toy", device="cuda"), ModelError, "toy runs on the CPU only"),
        (CalculatorSettings(kind="chgnet", model=str(tmp_path / "text.model")), ModelError, "cannot be used as CHGNet"),
    ):
        with pytest.raises(kind, match=text):
            backends.load("x", CalculatorSettings(**{**vars(settings), "isolate": True}))


def test_model_that_fails(hostile):
    with backends.load("toy", CalculatorSettings(isolate=True, options={"raise_after": 1})) as backend:
        backend.calculator.calculate(CRYSTAL)
        pid = pid_of(backend)
        with pytest.raises(CalculationError, match="toy failed on this structure: RuntimeError: toy: told to raise"):
            backend.calculator.calculate(CRYSTAL)
        assert pid_of(backend) == pid  # an exception does not end the worker


def test_worker_that_exits(hostile):
    with (
        hostile("exits") as backend,
        pytest.raises(
            CalculationError, match="ended with exit code 3 during a request; its last output: .*the last words"
        ),
    ):
        backend.calculator.calculate(CRYSTAL)


def test_worker_that_is_killed_is_started_again(hostile):
    with hostile("killed") as backend:
        backend.calculator.calculate(CRYSTAL)
        assert backend.calculator.results["energy"] == 1 / 3


def test_worker_that_is_killed_by_a_batch_of_one_is_started_again(hostile):
    with hostile("killed") as backend:
        assert backend.evaluate_many([CRYSTAL])[0]["energy"] == 1 / 3


def test_worker_that_takes_too_long(hostile, tmp_path):
    with hostile("sleeps", timeout=0.5) as backend:
        with pytest.raises(CalculationError, match=r"gave no answer within 0\.5 s and was ended"):
            backend.calculator.calculate(CRYSTAL)
        assert gone(int((tmp_path / "pid").read_text()))


def test_worker_that_dies_while_loading(hostile):
    with pytest.raises(ModelError, match="ended with exit code 4"):
        hostile("dies early")


@pytest.mark.parametrize("answer", ["not json", "[1, 2]", json.dumps({"error": "Weird", "message": "odd"})])
def test_answers_that_are_none(answer, monkeypatch):
    """A program that greets like a worker and then talks nonsense."""
    monkeypatch.setattr(
        pipe, "_BOOT", f"print('{{\"protocol\": {messages.PROTOCOL}}}', flush=True); input(); print('''{answer}''')"
    )
    worker = pipe.ModelProcess()
    with pytest.raises(CalculationError, match="not an answer|odd"):
        worker.request({"do": "status"}, 20)
    worker.close()


def test_worker_of_another_version(monkeypatch):
    monkeypatch.setattr(pipe, "_BOOT", "print('{\"protocol\": 99}', flush=True); input()")
    with pytest.raises(ModelError, match="speaks protocol 99"):
        pipe.ModelProcess()


# ----------------------------------------------------------------------------------------------------- the ending


def test_close_ends_the_worker():
    backend = backends.load("toy", CalculatorSettings(isolate=True))
    pid = pid_of(backend)
    backend.close()
    assert gone(pid)
    backend.close()


def test_terminal_signals_are_the_bridges_business():
    """Ctrl-C or a batch system's SIGTERM reaches the whole group; the bridge still wants its last evaluation."""
    with backends.load("toy", CalculatorSettings(isolate=True)) as backend:
        pid = pid_of(backend)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(pid, number)
        backend.calculator.calculate(CRYSTAL)
        assert pid_of(backend) == pid


@pytest.mark.parametrize("action", ["idle", "sleeps", "spins"])
def test_worker_ends_when_its_parent_is_killed(action, tmp_path):
    (tmp_path / "hostile.py").write_text(HOSTILE)
    parent = f"""
import time
from ase import Atoms
from uspex_bridge.models import backends, inventory
from uspex_bridge.models.cards import CalculatorSettings
options = {{"action": "{action}"}}
settings = CalculatorSettings(kind="hostile:build", device="cpu", isolate=True, options=options)
backend = backends.load("h", settings)
print(backend.calculator.function.__self__._worker._process.pid, flush=True)
backend.calculator.calculate(Atoms("Fe", cell=[3, 3, 3], pbc=True))
time.sleep(60)
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        pid = int(process.stdout.readline())
        end = time.monotonic() + 60
        while not (tmp_path / "pid").exists() and time.monotonic() < end:
            time.sleep(0.02)  # until the worker is in the middle of the evaluation
        assert (tmp_path / "pid").exists()
        process.kill()
    assert gone(pid)


# ------------------------------------------------------------------------------------------------------- batches


def test_a_batch_goes_through_the_pipe_whole(monkeypatch):
    """One message for all."""
    structures = [bulk("Fe", "bcc", a=2.6 + 0.05 * k) for k in range(10)]
    asked = []
    request = pipe.ModelProcess.request
    monkeypatch.setattr(
        pipe.ModelProcess,
        "request",
        lambda self, message, timeout: asked.append((message["do"], timeout)) or request(self, message, timeout),
    )
    settings = CalculatorSettings(kind="toy", isolate=True, timeout=7.0)
    with backends.load("toy", settings) as far, backends.load("toy", CalculatorSettings(kind="toy")) as near:
        assert far.batch.cutoff == near.batch.cutoff
        found = far.evaluate_many(structures)
        assert asked[1:] == [("evaluate many", 70.0)]
        for one, other in zip(found, near.evaluate_many(structures), strict=True):
            assert one["energy"] == other["energy"]
            np.testing.assert_array_equal(one["forces"], other["forces"])


def test_a_structure_that_fails_in_a_batch_fails_alone():
    settings = CalculatorSettings(kind="toy", isolate=True, options={"raise_below": 8.0})
    with backends.load("toy", settings) as far:
        found = far.evaluate_many([bulk("Fe", "bcc", a=a) for a in (2.8, 2.2, 2.9)])
        assert isinstance(found[1], CalculationError)
        assert "told to raise below 8.0" in str(found[1])
        assert found[0]["energy"] != found[2]["energy"]


def test_a_batch_that_the_worker_dies_of_is_taken_apart(tmp_path):
    """The structures that do no harm are evaluated by a fresh worker."""
    (tmp_path / "deadly.py").write_text(
        "import os\nfrom uspex_bridge.calculators import toy\n"
        "def make(request):\n    calculator = toy.build(request)\n    calculate = calculator.calculate\n"
        "    def deadly(atoms=None, *rest, **more):\n"
        "        if atoms.get_volume() < 6: os._exit(3)\n        calculate(atoms, *rest, **more)\n"
        "    calculator.calculate = deadly\n    return calculator\n"
    )
    settings = CalculatorSettings(kind="deadly:make", isolate=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        patch.syspath_prepend(tmp_path)
        with backends.load("deadly", settings) as far:
            found = far.evaluate_many([bulk("Fe", "bcc", a=a) for a in (2.8, 2.2, 2.9)])
    assert [isinstance(one, CalculationError) for one in found] == [False, True, False]
    assert "ended with exit code 3" in str(found[1])


def test_memory_that_does_not_suffice_in_a_worker(monkeypatch):
    """The error keeps its class on the way, so that a smaller batch is tried."""
    with pytest.raises(OutOfMemoryError, match="too much"):
        messages.checked(messages.failure(OutOfMemoryError("too much")))
    with backends.load("toy", CalculatorSettings(kind="toy", isolate=True)) as far:

        def full(self, message, timeout):
            raise OutOfMemoryError("too much")

        monkeypatch.setattr(pipe.ModelProcess, "request", full)
        with pytest.raises(OutOfMemoryError):
            far.evaluate_many([bulk("Fe"), bulk("Fe")])


def test_an_interpreter_that_takes_too_long_is_said_to_and_ended(monkeypatch, tmp_path):
    python = tmp_path / "slow"
    python.write_text("#!/bin/sh\nexec sleep 60\n")
    python.chmod(0o755)
    for module in (pipe, environments):
        monkeypatch.setattr(module, "START_TIMEOUT", 0.2)
    with pytest.raises(ModelError, match=r"worker \(.*slow\) did not start within 0.2 s$"):
        backends.load("toy", CalculatorSettings(kind="toy", python=str(python)))
    with pytest.raises(ModelError, match=r"slow: gave no answer within 0.2 s \(importing numpy, ase, orb_models\)$"):
        environments.inspect("orb", python)
