"""What a disagreement says about the error: a bound that holds as often as it says."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from uspex_bridge.base.errors import InputError
from uspex_bridge.learn.choose.calibration import FLOOR, calibrate, calibrate_on
from uspex_bridge.learn.data.predictions import find_predictor
from uspex_bridge.models.cards import CalculatorSettings


def drawn(count: int, seed: int):
    rng = np.random.default_rng(seed)
    apart = rng.gamma(2.0, 0.02, count)
    return apart * np.abs(rng.normal(0.8, 0.5, count)), apart


@pytest.mark.parametrize("confidence", [0.5, 0.9])
def test_the_bound_holds_for_new_structures_as_often_as_it_says(confidence):
    held = []
    for seed in range(40):
        errors, apart = drawn(100, seed)
        known = calibrate(errors, apart, confidence)
        new, further = drawn(100, 1000 + seed)
        held.append(np.mean(new <= [known.bound(value) for value in further]))
    assert np.mean(held) == pytest.approx(confidence, abs=0.03)


def test_threshold_and_bound_are_each_others_inverse_and_few_labels_are_refused():
    known = calibrate(*drawn(100, 1))
    assert known.bound(known.threshold(0.1)) == pytest.approx(0.1)
    assert known.threshold(FLOOR * known.factor / 2) == 0.0
    assert 0 < known.correlation <= 1
    assert "90 % confidence" in known.describe(0.04)
    with pytest.raises(InputError, match="8 labels are too few"):
        calibrate(*drawn(8, 1))


def test_errors_are_those_of_the_worst_model(tmp_path):
    truth = find_predictor("truth", CalculatorSettings(kind="toy"))
    other = find_predictor("other", CalculatorSettings(kind="toy", options={"epsilon": 0.45}))
    from uspex_bridge.models.backends import load

    frames = []
    with load("truth", truth.settings) as model:
        for k in range(12):
            atoms = bulk("CaNi", "cesiumchloride", a=3.0 + 0.02 * k)
            model.calculator.calculate(atoms)
            results = {key: model.calculator.results[key] for key in ("energy", "forces", "stress")}
            atoms.calc = SinglePointCalculator(atoms, **results)
            frames.append(atoms)
    known = calibrate_on(frames, [truth, other], tmp_path)
    assert known.labels == 12
    assert known.factor <= 1.0, "one of the two is right: the error is the disagreement"
    assert known.correlation == pytest.approx(1.0)
