"""What :class:`Evaluation` makes of a model's answers and failures, for one structure and for many."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from uspex_bridge.base.errors import CalculationError, OutOfMemoryError
from uspex_bridge.models import backends
from uspex_bridge.models.cards import Batch, CalculatorSettings
from uspex_bridge.models.evaluate import Evaluation

TOO_SMALL = 6.0


def crystals(*lengths: float) -> list[Atoms]:
    return [bulk("Fe", a=length) * (index + 1, 1, 1) for index, length in enumerate(lengths)]


class Model:
    """Answers with the volume; raises what it was given for a structure of less than TOO_SMALL Å³ per atom."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.passes = error, []

    def evaluate(self, structures):
        self.passes.append(len(structures))
        if self.error and any(atoms.get_volume() < TOO_SMALL * len(atoms) for atoms in structures):
            raise self.error
        return [
            {"energy": atoms.get_volume(), "forces": atoms.positions, "stress": np.arange(6)} for atoms in structures
        ]


def evaluation(model: Model) -> Evaluation:
    return Evaluation("ours", None, Batch(model.evaluate, cutoff=5.0))


def test_all_in_one_pass():
    model, structures = Model(), crystals(2.8, 2.6, 3.0)
    found = evaluation(model).many(structures)
    assert model.passes == [3]
    assert [results["energy"] for results in found] == [atoms.get_volume() for atoms in structures]
    assert [results["forces"].shape for results in found] == [(1, 3), (2, 3), (3, 3)]


def test_the_failing_one_fails_alone():
    model, structures = Model(ValueError("told\nto")), crystals(2.8, 2.0, 3.0)
    found = evaluation(model).many(structures)
    assert model.passes == [3, 1, 1, 1]
    assert str(found[1]) == "ours failed on this structure: ValueError: told to"
    assert [found[i]["energy"] for i in (0, 2)] == [structures[i].get_volume() for i in (0, 2)]
    with pytest.raises(CalculationError, match="told to"):
        evaluation(model).one(structures[1])


def test_a_nan_reaches_no_other():
    class Summed(Model):
        def evaluate(self, structures):
            found = super().evaluate(structures)
            poison = np.nan if any(atoms.get_volume() < TOO_SMALL * len(atoms) for atoms in structures) else 0.0
            return [{**results, "forces": results["forces"] + poison} for results in found]

    found = evaluation(Summed()).many(crystals(2.8, 2.0, 3.0))
    assert [bool(np.isfinite(results["forces"]).all()) for results in found] == [True, False, True]


def test_no_model_sees_what_is_no_geometry():
    model, structures = Model(), crystals(2.8, 2.8, 2.8, 2.8)
    structures[0].positions[0, 1] = np.nan
    structures[1].cell[2, 2] = np.inf
    structures[2].cell[2] = 0.0
    *bad, good = evaluation(model).many(structures)
    assert model.passes == [1]
    assert good["energy"] == structures[3].get_volume()
    for answer, reason in zip(bad, ("not finite", "not finite", "no volume"), strict=True):
        assert isinstance(answer, CalculationError)
        assert reason in str(answer)


@pytest.mark.parametrize("source", ["python", "torch on the CPU", "torch on a GPU"])
def test_out_of_memory_is_for_the_caller(source):
    torch = pytest.importorskip("torch")
    error: Exception = MemoryError("no more")
    if source == "torch on the CPU":
        with pytest.raises(RuntimeError) as caught:
            torch.empty(10**15)
        error = caught.value
    elif source == "torch on a GPU":
        error = torch.OutOfMemoryError("CUDA out of memory.")
    model = Model(error)
    with pytest.raises(OutOfMemoryError, match="ours ran out of memory") as raised:
        evaluation(model).many(crystals(2.8, 2.0))
    assert model.passes == [2]
    assert raised.value.__context__ is None  # it would hold the memory of the failed pass
    assert isinstance(raised.value, CalculationError)


def test_other_runtime_errors_are_not_out_of_memory():
    (answer,) = evaluation(Model(RuntimeError("shape of memory"))).many(crystals(2.0))
    assert type(answer) is CalculationError


def test_nothing_to_evaluate():
    assert evaluation(Model()).many([]) == []


def test_a_backend_batches():
    with backends.load("toy", CalculatorSettings(options={"raise_below": TOO_SMALL})) as toy:
        structures = crystals(2.9, 2.0, 2.7)
        found = toy.evaluate_many(structures)
        assert isinstance(found[1], CalculationError)
        assert [found[i]["energy"] for i in (0, 2)] == [toy.evaluate_many([structures[i]])[0]["energy"] for i in (0, 2)]
        assert 0 < toy.size_of(structures[0]) < toy.size_of(structures[2])


def test_a_worker_process_batches_as_this_one_does():
    settings = CalculatorSettings(options={"raise_below": TOO_SMALL})
    structures = crystals(2.9, 2.0, 2.7)
    with backends.load("toy", replace(settings, isolate=True)) as there, backends.load("toy", settings) as here:
        found, expected = there.evaluate_many(structures), here.evaluate_many(structures)
        assert isinstance(found[1], CalculationError)
        for one, other in ((found[0], expected[0]), (found[2], expected[2])):
            assert one["energy"] == other["energy"]
            np.testing.assert_array_equal(one["forces"], other["forces"])
        assert [there.size_of(atoms) for atoms in structures] == [here.size_of(atoms) for atoms in structures]
