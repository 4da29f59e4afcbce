"""The process that evaluates for many relaxations: one pass for all who ask; what one cannot do to the others."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms

from uspex_bridge.base.errors import CalculationError, ConfigError
from uspex_bridge.cli.serve import BATCHER
from uspex_bridge.models import backends
from uspex_bridge.models.batched import BatchedModels
from uspex_bridge.models.cards import CalculatorSettings
from uspex_bridge.models.passes import Budget, Tally

#: A toy that forgets nothing: it notes every pass, and does at a given element what no calculator should.
NOTING = """
import json, os, signal, time
from uspex_bridge.calculators import toy
from uspex_bridge.models.cards import Batch, Card

CARD = Card(kind="noting", title="noting", package="uspex_bridge", module="uspex_bridge", install="",
            takes_weights=False, dtypes=("float64",), devices=("cpu",))

def build(request):
    from dataclasses import replace
    note, most = request.options["note"], request.options.get("most", 10**9)
    calculator = toy.build(replace(request, options={}))
    plain = calculator.evaluate
    def evaluate(structures):
        formulas = [str(atoms.symbols) for atoms in structures]
        with open(note, "a") as file:
            print(json.dumps([os.getpid(), formulas]), file=file)
        if sum(len(atoms) for atoms in structures) > most:
            raise MemoryError("no room")
        if any("Po" in formula for formula in formulas):
            os.kill(os.getpid(), signal.SIGKILL)
        if any("Rn" in formula for formula in formulas):
            raise RuntimeError("CUDA error: device-side assert triggered")
        if any("At" in formula for formula in formulas):
            raise RuntimeError("not this one")
        time.sleep(request.options.get("sleep", 0.1))
        return plain(structures)
    calculator.evaluate = evaluate
    return calculator

batch, elements = toy.batch, toy.elements
"""

WEIGHTY = """
from dataclasses import replace
from uspex_bridge.calculators import toy
from uspex_bridge.models.cards import Card

CARD = Card(kind="weighty", title="weighty", package="uspex_bridge", module="uspex_bridge", install="",
            dtypes=("float64",), devices=("cpu",))

def build(request):
    return toy.build(replace(request, options={"epsilon": float(request.path.read_text())}))
"""


def crystal(symbols: str, seed: int = 1) -> Atoms:
    """A crystal of these atoms, 12 Å³ each, at random places."""
    random = np.random.default_rng(seed)
    number = len(Atoms(symbols))
    edge = (12.0 * number) ** (1 / 3)
    return Atoms(symbols, scaled_positions=random.uniform(size=(number, 3)), cell=np.eye(3) * edge, pbc=True)


class Served:
    """A batcher, kept running as the service does, and connections to it."""

    def __init__(self, top, command=BATCHER):
        self.command = [*command, str(top / "b"), ""]
        self.top, self.path, self.over = top, str(top / "b"), False
        self.keeper = threading.Thread(target=self._keep)
        self.keeper.start()

    def _keep(self):
        while not self.over:
            self.end, theirs = socket.socketpair()
            with theirs:
                self.process = subprocess.Popen(self.command, stdin=theirs.fileno(), stdout=theirs.fileno())
            self.process.wait()
            self.end.close()

    def model(self, name="noting", **options):
        """The same model on a connection of its own, as every relaxation has."""
        source = BatchedModels(self.path)
        source.begin({"cwd": str(self.top), "umask": 18, "environment": dict(os.environ)})
        settings = CalculatorSettings(kind=name, options=options)
        return source, source.get("model", settings, None)

    def notes(self):
        return [tuple(json.loads(line)) for line in (self.top / "note").read_text().splitlines()]

    def passes(self):
        return [formulas for _, formulas in self.notes()]

    def close(self):
        self.over = True
        self.end.shutdown(socket.SHUT_RDWR)
        self.keeper.join(30)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of calculators."""
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "__init__.py").write_text("from extra import noting\n")
    (tmp_path / "extra" / "noting.py").write_text(NOTING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "extra"


@pytest.fixture
def served(tmp_path, package):
    server = Served(tmp_path)
    yield server
    server.close()


def ask_all(models, structures):
    """Ask at the same time, each from a thread of its own; return results and errors."""
    answers = [None] * len(models)

    def ask(index):
        try:
            models[index].calculator.calculate(structures[index])
            answers[index] = models[index].calculator.results
        except CalculationError as error:
            answers[index] = error

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(models))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers


def models_of(served, number, **options):
    options = {"note": str(served.top / "note"), **options}
    return [served.model("extra:noting", **options)[1] for _ in range(number)]


def expected(atoms):
    toy = backends.load("toy", CalculatorSettings())
    toy.calculator.calculate(atoms)
    return toy.calculator.results


def same(found, atoms):
    return all(np.allclose(found[name], value, rtol=0, atol=1e-9) for name, value in expected(atoms).items())


def test_those_who_ask_are_evaluated_together_whatever_their_size(served):
    models = models_of(served, 4, sleep=0.3)
    structures = [crystal(symbols) for symbols in ("Fe", "CaFe2Ni", "MgO", "Ca4Ni8")]
    for _ in range(3):
        answers = ask_all(models, structures)
    assert all(same(answer, atoms) for answer, atoms in zip(answers, structures, strict=True))
    assert max(map(len, served.passes())) == 4
    assert len(served.passes()) < 12
    assert set(models[0].calculator.results) == set(expected(structures[0]))


def test_who_does_not_come_back_is_waited_for_no_longer_than_a_pass_takes(served):
    models = models_of(served, 3, sleep=0.2)
    structures = [crystal("Fe2", seed) for seed in range(3)]
    for _ in range(2):
        ask_all(models, structures)
    for _ in range(4):
        assert not any(isinstance(answer, Exception) for answer in ask_all(models[:2], structures[:2]))
    assert [len(formulas) for formulas in served.passes()][-2:] == [2, 2]


def test_an_error_is_that_of_the_structure_that_makes_it(served):
    structures = [crystal(symbols) for symbols in ("CaFe", "FeAt", "NiFe")]
    models = models_of(served, 3)
    good, bad, other = ask_all(models, structures)
    assert "not this one" in str(bad)
    assert same(good, structures[0])
    assert same(other, structures[2])
    with pytest.raises(ConfigError, match="unknown option 'hol'"):
        served.model("toy", hol=True)


def test_memory_that_runs_out_halves_the_batch_and_loses_nothing(served):
    models = models_of(served, 4, most=8, sleep=0.3)
    structures = [crystal("CaFe2Ni", seed) for seed in range(3)] + [crystal("Ca8Ni8")]
    for _ in range(3):
        answers = ask_all(models, structures)
        assert all(same(answer, atoms) for answer, atoms in zip(answers[:3], structures[:3], strict=True))
        assert "out of memory" in str(answers[3])
    sizes = [sum(len(Atoms(formula)) for formula in formulas) for formulas in served.passes()]
    assert max(sizes) > 8
    assert 8 in sizes


def test_a_batcher_killed_in_the_middle_of_a_pass_costs_nothing_but_time(served):
    models = models_of(served, 3, sleep=1.0)
    structures = [crystal(symbols) for symbols in ("Fe2", "CaFe2Ni", "MgO")]
    killing = threading.Timer(0.5, lambda: served.process.kill())
    killing.start()
    answers = ask_all(models, structures)
    assert all(same(answer, atoms) for answer, atoms in zip(answers, structures, strict=True))
    assert len({pid for pid, _ in served.notes()}) == 2


@pytest.mark.parametrize("poison", ["Po", "Rn"])
def test_a_structure_that_kills_the_process_twice_fails_alone(served, poison):
    """By a signal, or by an error after which a GPU's context cannot be used."""
    models = models_of(served, 4)
    structures = [crystal(symbols) for symbols in ("Fe2", f"Fe{poison}", "MgO", "CaNi")]
    ask_all(models, [crystal("Fe")] * 4)
    for _ in range(2):
        answers = ask_all(models, structures)
        assert "died twice on this structure" in str(answers[1])
        for index in (0, 2, 3):
            assert same(answers[index], structures[index])


def test_an_evaluation_that_hangs_is_ended_and_fails_alone(tmp_path, package):
    code = "import sys, uspex_bridge.models.batcher as b; b.PASS_TIMEOUT = 1.0; b.main(*sys.argv[1:3])"
    with closing(Served(tmp_path, [*BATCHER[:-1], code])) as served:
        (hanging,) = models_of(served, 1, sleep=1000.0)
        (fine,) = models_of(served, 1)
        answers = ask_all([hanging, fine], [crystal("Fe"), crystal("MgO")])
    assert "died twice" in str(answers[0])
    assert same(answers[1], crystal("MgO"))


def test_a_relaxation_that_is_killed_is_forgotten(served):
    first, second = models_of(served, 2, sleep=0.3)
    source, doomed = served.model("extra:noting", note=str(served.top / "note"), sleep=0.3)
    threading.Thread(target=ask_all, args=([first], [crystal("Fe")])).start()
    time.sleep(0.1)
    source._line.send({"do": "evaluate", "model": 0, "again": False})
    source._hang_up()
    answer = ask_all([second], [crystal("MgO")])[0]
    assert same(answer, crystal("MgO"))
    del doomed


def test_weights_that_change_while_it_is_down_do_not_change_within_a_structure(served, package, tmp_path):
    (package / "weighty.py").write_text(WEIGHTY)
    (package / "__init__.py").write_text("from extra import noting, weighty\n")
    weights = tmp_path / "model"
    weights.write_text("0.5")
    source = BatchedModels(served.path)
    source.begin({"cwd": "/", "umask": 18, "environment": dict(os.environ)})
    model = source.get("w", CalculatorSettings(kind="extra:weighty", model=str(weights)), [1])
    model.calculator.calculate(crystal("Fe2"))
    served.process.kill()
    model.calculator.calculate(crystal("MgO"))
    weights.write_text("0.4")
    served.process.kill()
    with pytest.raises(CalculationError, match="weights changed"):
        model.calculator.calculate(crystal("CaO"))


def test_what_is_no_message_is_hung_up_on(served):
    (model,) = models_of(served, 1)
    for said in (b"\xff\n", b"[]\n", b"{}\n", b'{"do": "evaluate", "model": 3}\n'):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.settimeout(30)
            stranger.connect(served.path)
            stranger.sendall(said)
            assert stranger.recv(100) == b""
    assert same(ask_all([model], [crystal("Fe")])[0], crystal("Fe"))


def test_a_budget_takes_what_fits_and_learns():
    budget = Budget("")
    budget.now = budget.limit = 10.0
    assert budget.fitting([4, 4, 4]) == 2
    assert budget.fitting([40, 4]) == 1
    budget.failed(8.0)
    assert budget.now == 4.0
    for _ in range(3):
        budget.passed(4.0)
    assert 6.0 < budget.now < 6.5
    budget.failed(1000.0)
    assert budget.now < 6.5, "what is too large for itself says nothing of the others"
    assert budget.overflows == 2


def test_a_budget_on_a_gpu_doubles_as_far_as_the_memory_goes(monkeypatch):
    """With the figures that PyTorch gives of a GPU of 10 GB, and a model that takes 100 kB for each atom or pair."""
    held, last = 1e9, 0.0
    cuda = SimpleNamespace(
        reset_peak_memory_stats=lambda device: None,
        memory_allocated=lambda device: held,
        max_memory_allocated=lambda device: held + 1e5 * last,
        memory_reserved=lambda device: 2e9,
        mem_get_info=lambda device: (8e9, 10e9),
        empty_cache=lambda: None,
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    budget, taken = Budget("cuda:0"), []
    for last in (1_000.0, 40_000.0, 50_000.0, 70_000.0):
        budget.begin()
        budget.passed(last)
        taken.append(round(budget.now))
    assert taken == [50_000, 72_000, 72_000, 72_000], "0.8 of (8 GB free + 1 GB kept by PyTorch)"
    budget.failed(72_000.0)
    budget.begin()
    last = 36_000.0
    budget.passed(last)
    assert 57_000 < budget.now < 58_000


def test_passes_are_counted_and_averaged():
    tally = Tally()
    assert tally.summary()["structures_per_pass"] == 0
    tally.passed(4, 40, 0.5)
    tally.passed(2, 10, 0.25)
    told = tally.summary()
    assert (told["passes"], told["evaluations"], told["atoms"], told["seconds"]) == (2, 6, 50, 0.75)
    assert (told["structures_per_pass"], told["atoms_per_pass"]) == (3.0, 25.0)
    assert told["per_second"] <= 6.0
    assert 0 < told["busy"] <= 1
