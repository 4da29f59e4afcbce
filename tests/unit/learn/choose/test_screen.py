"""Disagreement of models: numbers, thresholds, flags, energy zeros, and answers that are kept."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from uspex_bridge.base.atoms import to_atoms
from uspex_bridge.base.data import Structure
from uspex_bridge.base.errors import ConfigError, ModelError
from uspex_bridge.call import record_file
from uspex_bridge.learn.choose.novelty import reach_of
from uspex_bridge.learn.choose.screen import Limits, Seen, fit_offsets, screen
from uspex_bridge.learn.choose.soap import SoapSettings
from uspex_bridge.learn.data.predictions import Prediction, find_predictor, predict_all, read_predictions, structure_key
from uspex_bridge.models import backends
from uspex_bridge.models.cards import CalculatorSettings
from uspex_bridge.results.reading.model import Entry, Recorded, composition_of


def structure(atoms: Atoms) -> Structure:
    return Structure(tuple(atoms.get_chemical_symbols()), atoms.cell.array, atoms.get_scaled_positions(wrap=False))


def entry(atoms: Atoms, number: int = 1, **fields) -> Entry:
    return Entry("run", number, composition_of(atoms.get_chemical_symbols()), volume=atoms.get_volume(), **fields)


def toy(name: str, **options) -> tuple[str, CalculatorSettings]:
    return name, CalculatorSettings(kind="toy", options=options)


@pytest.fixture
def crystals() -> list[Atoms]:
    images = []
    for k in range(7):
        atoms = bulk("CaNi", "cesiumchloride", a=3.1 + 0.03 * k) * (1, 1, 2)
        atoms.rattle(0.05, seed=k)
        images.append(atoms)
    return images


@pytest.fixture
def jobs(crystals) -> dict[str, Structure]:
    return {structure_key(structure(atoms)): structure(atoms) for atoms in crystals}


def test_differences_are_those_of_the_models(crystals, jobs, tmp_path):
    models = [find_predictor(*toy("a")), find_predictor(*toy("b", epsilon=0.55))]
    answers = [predict_all(model, jobs, tmp_path) for model in models]
    seen = [
        Seen(entry(atoms), jobs[key], (answers[0][key], answers[1][key]))
        for key, atoms in zip(jobs, crystals, strict=True)
    ]
    found = screen(seen, ["a", "b"], Limits(), offsets=False)
    results = []
    for options in ({}, {"epsilon": 0.55}):
        with backends.load(*toy("x", **options)) as backend:
            atoms = crystals[3].copy()
            atoms.calc = backend.calculator
            volume, n = atoms.get_volume(), len(atoms)
            pv = -volume * atoms.get_stress()[:3].sum() / 3 / n
            results.append((atoms.get_potential_energy() / n, pv, atoms.get_forces()))
    (ea, pa, fa), (eb, pb, fb) = results
    verdict = next(v for v in found.verdicts if v.structure is jobs[structure_key(structure(crystals[3]))])
    assert verdict.delta_energy == pytest.approx(abs(ea - eb))
    assert verdict.delta_pv == pytest.approx(abs(pa - pb))
    assert verdict.delta_force == pytest.approx(np.linalg.norm(fa - fb, axis=1).max())
    assert verdict.rms_force == pytest.approx(np.sqrt(((fa - fb) ** 2).sum(axis=1).mean()))
    assert found.forces.shape == (7 * 4 * 3, 2)


def made_up(atoms: Atoms, energy: float, pressure: float, force: float = 0.0) -> Prediction:
    """An answer of a model: E per atom, and the PV per atom that its stress means."""
    stress = np.array([*[-pressure * len(atoms) / atoms.get_volume()] * 3, 0, 0, 0])
    forces = np.zeros((len(atoms), 3))
    forces[0, 0] = force
    return Prediction(energy * len(atoms), forces, stress)


def judged(atoms: Atoms, *answers: Prediction, limits: Limits | None = None, offsets=False, also=("failed",), **fields):
    extra = {key: fields.pop(key) for key in ("point", "novelty") if key in fields}
    one = Seen(entry(atoms, **fields), structure(atoms), answers, **extra)
    return screen(
        [one], [f"m{k}" for k in range(len(answers))], limits or Limits(), offsets=offsets, also=also
    ).verdicts[0]


def test_thresholds_and_reasons(crystals):
    atoms = crystals[0]
    same, other = made_up(atoms, -3, 1), made_up(atoms, -3.2, 1.041, 0.7)
    assert judged(atoms, same, other).reasons == ("|ΔPV| 0.041 > 0.04 eV/atom",)
    assert judged(atoms, same, made_up(atoms, -3, 1.039)).reasons == ()
    assert len(judged(atoms, same, other, limits=Limits(pv=None, energy=0.1, force=0.5)).reasons) == 2
    three = judged(atoms, same, same, other)
    assert three.delta_pv == pytest.approx(0.041)
    assert three.delta_energy == pytest.approx(0.2)
    with pytest.raises(ConfigError, match="nothing to screen by"):
        Limits(pv=None)


def test_order_is_by_how_far_a_threshold_is_exceeded(crystals):
    answers = [(0.05, 0.0), (0.0, 0.0), (0.2, 0.0), (0.01, 4.0)]
    seen = [
        Seen(entry(atoms, k), structure(atoms), (made_up(atoms, 0, 1), made_up(atoms, 0, 1 + pv, force)))
        for k, (atoms, (pv, force)) in enumerate(zip(crystals, answers, strict=False))
    ]
    found = screen(seen, ["a", "b"], Limits(force=0.5), offsets=False)
    assert [verdict.entry.id for verdict in found.verdicts] == [3, 2, 0, 1]
    assert [verdict.entry.id for verdict in found.chosen] == [3, 2, 0]


def flagged(atoms: Atoms, **keywords) -> dict[str, str]:
    far = made_up(atoms, 0, 5)
    verdict = judged(atoms, made_up(atoms, 0, 1), far, **keywords)
    return verdict.flags, verdict.reasons


def test_what_cannot_be_computed_is_flagged_and_not_asked_for(crystals):
    close = crystals[0].copy()
    close.positions[1] = close.positions[0] + (0.4, 0, 0)
    flags, reasons = flagged(close)
    assert "0.400 Å apart" in flags["short"]
    assert reasons == ()
    dense = crystals[0].copy()
    dense.set_cell(0.6 * dense.cell, scale_atoms=True)
    assert "dense" in flagged(dense, limits=Limits(ratio=0.1))[0]
    assert set(flagged(bulk("Ni") * (1, 1, 4))[0]) == {"elongated"}
    flags, reasons = flagged(bulk("Ni") * (1, 1, 4), also=("elongated",))
    assert len(reasons) == 2
    assert flagged(bulk("Ni") * (1, 1, 3))[0] == {}


def test_flags_from_the_record_the_hull_and_the_training_set(crystals):
    record = Recorded("unconverged", (), ("m",), -1.0, 0.31, 0.1, 60, 1.0, 0)
    flags, reasons = flagged(crystals[0], record=record)
    assert "0.31" in flags["unconverged"]
    assert len(reasons) == 1
    assert len(flagged(crystals[0], record=record, also=("unconverged",))[1]) == 2
    assert "outside" in flagged(crystals[0], novelty=1.5)[0]
    assert "outside" not in flagged(crystals[0], novelty=1.5, limits=Limits(novelty=2))[0]
    failed = judged(crystals[0], made_up(crystals[0], 0, 1), Prediction(problem="it broke"))
    assert failed.reasons == ("m1: it broke",)
    assert np.isnan(failed.delta_pv)


def test_energy_zeros_are_fitted_without_the_outliers():
    rng = np.random.default_rng(2)
    compositions = [
        tuple((s, int(n)) for s, n in zip(("Ca", "Fe", "Ni"), rng.integers(0, 5, 3), strict=True) if n)
        for _ in range(80)
    ]
    entries = [Entry("r", k, c) for k, c in enumerate(compositions) if c]
    zero = {"Ca": 1.2, "Fe": -7.5, "Ni": 0.25}
    apart = np.array([sum(zero[s] * n for s, n in e.composition) / e.natoms for e in entries])
    apart += rng.normal(0, 0.005, len(entries))
    apart[::9] += 10.0 ** rng.integers(0, 9, len(apart[::9]))
    apart[4] = np.nan
    fitted, used = fit_offsets(entries, apart)
    assert used == len(entries) - 1
    assert fitted == pytest.approx(zero, abs=0.01)


def test_offsets_change_energies_only(crystals):
    answers = [(made_up(a, -3 - 0.1 * k, 1), made_up(a, -8 - 0.1 * k, 1.2)) for k, a in enumerate(crystals)]
    seen = [Seen(entry(a, k), structure(a), answers[k]) for k, a in enumerate(crystals)]
    found = screen(seen, ["a", "b"], Limits(), offsets=True)
    assert all(v.delta_energy < 1e-6 for v in found.verdicts)
    assert all(v.delta_pv == pytest.approx(0.2) for v in found.verdicts)
    assert sum(found.offsets[0].values()) / 2 == pytest.approx(5, abs=1e-6)
    assert found.notes == ()
    assert "fitted to 3 structures only" in screen(seen[:3], ["a", "b"], Limits(), offsets=True).notes[0]


def test_a_run_that_was_stopped_goes_on(jobs, tmp_path):
    model = find_predictor(*toy("a"))
    half = dict(list(jobs.items())[:3])
    first = predict_all(model, half, tmp_path)
    (file,) = tmp_path.glob("*.jsonl")
    with file.open("a") as stream:
        stream.write('{"structure": "half a li')
    counts = []
    answers = predict_all(model, jobs, tmp_path, progress=counts.append)
    assert counts[0] == 3
    assert sum(counts) == 7
    assert len(file.read_text().splitlines()) == 8
    for key in half:
        assert np.array_equal(answers[key].forces, first[key].forces)
    counts.clear()
    predict_all(model, jobs, tmp_path, progress=counts.append)
    assert counts == [7]
    assert set(read_predictions(tmp_path, model, jobs)) == set(jobs)


def test_answers_belong_to_one_model_with_its_settings(jobs, tmp_path):
    predict_all(find_predictor(*toy("a")), jobs, tmp_path)
    assert find_predictor(*toy("other name")).key == find_predictor(*toy("a")).key
    assert read_predictions(tmp_path, find_predictor(*toy("a", epsilon=0.7)), jobs) == {}
    with pytest.raises(ModelError):
        find_predictor("mace", CalculatorSettings(model="nowhere.model"))


def test_processes_side_by_side_give_the_same(jobs, tmp_path):
    model = find_predictor(*toy("a"))
    alone = predict_all(model, jobs, tmp_path / "one")
    several = predict_all(model, jobs, tmp_path / "two", workers=2)
    assert set(alone) == set(several)
    for key, answer in alone.items():
        assert several[key].energy == pytest.approx(answer.energy)
        assert several[key].forces == pytest.approx(answer.forces)


def test_the_workers_of_a_dask_cluster_give_the_same(jobs, tmp_path):
    distributed = pytest.importorskip("distributed")
    model = find_predictor(*toy("a"))
    alone = predict_all(model, jobs, tmp_path / "one")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as there:
        spread = {"scheduler": there.scheduler_address}
        counts = []
        several = predict_all(model, jobs, tmp_path / "two", **spread, progress=counts.append)
        assert set(alone) == set(several)
        assert sum(counts) == 7
        for key, answer in alone.items():
            assert several[key].energy == pytest.approx(answer.energy)
            assert several[key].forces == pytest.approx(answer.forces)
        raising = predict_all(find_predictor(*toy("a", raise_after=0)), jobs, tmp_path, **spread)
        assert all("RuntimeError" in answer.problem for answer in raising.values())
        other = replace(model, key="of other weights")
        with pytest.raises(ModelError, match="not those here"):
            predict_all(other, jobs, tmp_path, **spread)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_model_that_fails_is_an_answer(jobs, tmp_path, workers):
    nan = predict_all(find_predictor(*toy("a", nan_after=0)), jobs, tmp_path, workers=workers)
    assert {answer.problem for answer in nan.values()} == {"the model gave NaN or infinity"}
    raising = predict_all(find_predictor(*toy("a", raise_after=0)), jobs, tmp_path, workers=workers)
    assert all("RuntimeError" in answer.problem for answer in raising.values())
    nickel = structure(bulk("Ni"))
    mixed = jobs | {"nickel": nickel}
    narrow = predict_all(find_predictor(*toy("a", elements=["Ni"])), mixed, tmp_path, workers=workers)
    assert narrow["nickel"].problem == ""
    assert all("does not know Ca" in narrow[key].problem for key in jobs)


def test_failures_are_kept_until_they_are_tried_again(jobs, tmp_path):
    model = find_predictor(*toy("a"))
    key = next(iter(jobs))
    record_file.append(tmp_path / f"{model.key}.jsonl", {"structure": key, "problem": "out of memory"})
    assert predict_all(model, jobs, tmp_path)[key].problem == "out of memory"
    assert predict_all(model, jobs, tmp_path, retry=True)[key].problem == ""
    assert predict_all(model, jobs, tmp_path)[key].problem == ""


def test_distance_to_the_training_set():
    training = [structure(bulk("CaNi", "cesiumchloride", a=3.0 + 0.05 * k)) for k in range(9)]
    reach = reach_of(training, SoapSettings())
    known, near, far, strange = reach.novelty(
        [training[4], structure(bulk("CaNi", "cesiumchloride", a=3.22)), structure(bulk("Ca")), structure(bulk("Au"))]
    )
    assert known == pytest.approx(0, abs=1e-6)
    assert 0 < near < 1
    assert far > 3
    assert strange == np.inf


def test_one_training_structure_is_enough():
    reach = reach_of([structure(bulk("Ni"))], SoapSettings())
    assert reach.novelty([structure(bulk("Ni"))])[0] == pytest.approx(0, abs=1e-6)
    assert reach.novelty([structure(bulk("Ni", a=3.0))])[0] > 0


def test_keys_and_files_are_plain(jobs, tmp_path):
    predict_all(find_predictor(*toy("a")), jobs, tmp_path)
    (file,) = tmp_path.glob("*.jsonl")
    line = json.loads(file.read_text().splitlines()[0])
    assert {"structure", "energy", "forces", "stress"} <= set(line)
    assert len(to_atoms(jobs[line["structure"]])) == len(line["forces"])
    assert Path(file).stem == find_predictor(*toy("a")).key
