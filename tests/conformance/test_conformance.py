"""The same demands on every calculator, and that each says what its package's own ASE calculator says."""

from __future__ import annotations

import pytest
from ase import Atoms

from uspex_bridge.base.threads import limit_threads
from uspex_bridge.models import backends, inventory
from uspex_bridge.models.cards import CalculatorSettings
from uspex_bridge.testing import DOUBLE, SINGLE, SINGLE_TINY, Case, Conformance, Evaluate, crystal_of, same_answers

#: Name -> kind, the fixture that makes its weights, what else holds of it, and the number of elements it knows.
CASES = {
    "toy": ("toy", None, {"tolerance": DOUBLE}, 95),
    "chgnet": ("chgnet", None, {"tolerance": SINGLE, "magmoms": True}, 94),
    "chgnet-hp": ("chgnet-hp", None, {"tolerance": SINGLE}, 89),
    "sevennet": ("sevennet", None, {"tolerance": SINGLE}, 89),
    "mace": ("mace", "mace_model", {"tolerance": DOUBLE}, 3),
    "mattersim": ("mattersim", "mattersim_model", {"tolerance": SINGLE_TINY}, 94),
    "deepmd-se_a": ("deepmd", "se_a_model", {"tolerance": DOUBLE, "repeats": False}, 3),
    "deepmd-dpa3": ("deepmd", "dpa3_model", {"tolerance": DOUBLE, "repeats": False}, 3),
}


class TestCalculators(Conformance):
    @pytest.fixture(scope="class", params=CASES)
    def case(self, request, need_kind) -> Case:
        kind, weights, more, _ = CASES[request.param]
        need_kind(kind)
        model = None if weights is None else str(request.getfixturevalue(weights))
        return Case(request.param, CalculatorSettings(kind=kind, model=model, device="cpu"), **more)

    def test_what_its_card_says(self, backend, case):
        card = inventory.cards()[case.settings.kind]
        assert case.magmoms == card.magmoms
        assert len(backend.elements) == CASES[case.name][3]
        assert backend.identity["dtype"] == (card.dtypes[0] if card.dtypes else "as in the weights")
        assert backend.energy_zero == ("model" if case.settings.model or case.name == "toy" else card.energy_zero)

    def test_moments_of_iron(self, reference, case):
        if case.magmoms:
            assert reference["magmoms"].max() > 0.5

    @pytest.fixture(scope="class")
    def published(self, case) -> Evaluate:
        if case.name == "toy":
            pytest.skip("the toy potential is in no other package")
        calculator = own_calculator(case.settings.kind, case.settings.model)

        def evaluate(atoms: Atoms) -> dict:
            atoms = atoms.copy()
            atoms.calc = calculator
            found = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
            if case.magmoms:
                found["magmoms"] = atoms.get_magnetic_moments()
            return found | {"free_energy": found["energy"]}

        return evaluate

    def test_as_the_package_itself(self, published, case, structures, alone):
        for atoms, found in zip(structures[:5], alone, strict=False):  # right-handed: not all packages take others
            same_answers(found, published(atoms), case, len(atoms))


def own_calculator(kind: str, model: str | None) -> object:
    """The package's own ASE calculator, made as its manual says."""
    limit_threads(1)
    if kind == "mace":
        from mace.calculators import MACECalculator

        return MACECalculator(model_paths=model, device="cpu", default_dtype="float64")
    if kind == "mattersim":
        from mattersim.forcefield import MatterSimCalculator

        return MatterSimCalculator.from_checkpoint(model, device="cpu")
    if kind == "sevennet":
        from sevenn.calculator import SevenNetCalculator

        return SevenNetCalculator("7net-0", device="cpu")
    if kind.startswith("chgnet"):
        from chgnet.model.dynamics import CHGNetCalculator
        from chgnet.model.model import CHGNet

        own = CHGNet.from_file(str(inventory.find_weights(kind, CalculatorSettings()).path))
        return CHGNetCalculator(model=own, use_device="cpu", on_isolated_atoms="ignore")
    from deepmd.calculator import DP

    return DP(model=model)


def test_a_calculator_that_lies_does_not_pass(monkeypatch):
    """The suite finds forces that are no slope, and a stress of the wrong sign."""
    case = Case("toy", CalculatorSettings(kind="toy"), DOUBLE)
    suite = Conformance()
    with backends.load("toy", case.settings) as backend:

        def evaluate(atoms, factor):
            backend.calculator.calculate(atoms)
            found = dict(backend.calculator.results)
            return found | {"forces": factor * found["forces"], "stress": factor * found["stress"]}

        crystal = crystal_of(case.elements)
        for factor, passes in ((1, True), (1.01, False), (-1, False)):
            arguments = (lambda atoms, f=factor: evaluate(atoms, f), crystal, evaluate(crystal, factor), case)
            for check in (suite.test_forces_are_minus_the_slope, suite.test_stress_is_the_slope_with_strain):
                if passes:
                    check(*arguments)
                else:
                    with pytest.raises(AssertionError):
                        check(*arguments)
