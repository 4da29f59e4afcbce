"""Models are compressed to the highest pressure of the labels that they are judged on."""

from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import bulk

from uspex_bridge.base.errors import CalculationError
from uspex_bridge.learn.judge import ranges
from uspex_bridge.models.cards import CalculatorSettings

TOY = CalculatorSettings(kind="toy", options={"elements": ["Ca", "Ni"]})


def labelled(symbol, pressure=None):
    atoms = bulk(symbol)
    atoms.info |= {} if pressure is None else {"pressure_gpa": pressure}
    return atoms


@pytest.fixture
def asked(monkeypatch):
    """What the scan is asked, and what it hears of a crystal that the model knows and of one that it does not."""
    heard = []

    def limits(elements, pressure, evaluate_many):
        heard.append((elements, pressure, evaluate_many([bulk("Ni"), bulk("Fe")])))
        return []

    monkeypatch.setattr(ranges, "limits", limits)
    monkeypatch.setattr(ranges, "card_of", lambda name, settings: SimpleNamespace(invented=name == "invented"))
    return heard


def test_the_search_is_that_of_the_labels(asked, tmp_path):
    frames = [labelled("Ni", 50.0), labelled("Ca", 20.0), labelled("Ni", 400.0), labelled("Ca")]
    found = ranges.ranges_of({"model": TOY, "invented": TOY}, frames, tmp_path, 300.0)
    assert found == (50.0, {"model": []})
    ((elements, pressure, (known, unknown)),) = asked
    assert (elements, pressure) == (["Ca", "Ni"], 50.0)
    assert known["energy"] < 0
    assert np.shape(known["stress"]) == (6,)
    assert isinstance(unknown, CalculationError)


def test_labels_of_no_search_say_nothing_of_a_range(asked, tmp_path):
    many = [labelled(symbol, 0.0) for symbol in ["Ag", "Al", "Au", "Ca", "Cu", "Ir", "Ni", "Pb", "Pd", "Pt", "Rh"]]
    for frames in (many, [labelled("Ni")], [labelled("Ni", 400.0)]):
        assert ranges.ranges_of({"model": TOY}, frames, tmp_path, 300.0) == (0.0, {})
    assert asked == []
