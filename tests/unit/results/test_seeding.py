"""Seeds: which structures are handed on, and what each line of USPEX reads of them."""

import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from phase_families import h3s
from results_making import Made, write_matlab

from uspex_bridge.base.errors import InputError
from uspex_bridge.results.hulls.seeds import beyond, choose, format_seeds, unreadable
from uspex_bridge.results.hulls.stability import Question, assess
from uspex_bridge.results.reading.folder import open_results
from uspex_bridge.results.reading.model import Pool
from uspex_bridge.results.reading.seeding import place_for

MATLAB = """{method} : calculationMethod
{calculation} : calculationType
% atomType
H S
% EndAtomType
% numSpecies
{blocks}
% EndNumSpecies
{more}
"""
PYTHON = """{{optimizer: {{type: GlobalOptimizer
 target: {{type: Atomistic conditions: {{externalPressure: 200.0}}
  compositionSpace: {{symbols: [H S] blocks: [[3 1]]}}{seeds}}}}}
 stages: [] numParallelCalcs: 1}}
"""


def matlab(folder: Path, method="USPEX", calculation="300", blocks="3 1", more="") -> Path:
    text = MATLAB.format(method=method, calculation=calculation, blocks=blocks, more=more)
    (folder / "INPUT.txt").write_text(text)
    return folder


def python(folder: Path, seeds="") -> Path:
    (folder / "input.uspex").write_text(PYTHON.format(seeds=seeds))
    return folder


def test_the_matlab_line_reads_seeds_of_the_next_generation_or_of_one(tmp_path):
    matlab(tmp_path)
    assert place_for(tmp_path).path == tmp_path / "Seeds" / "POSCARS"
    assert place_for(tmp_path, generation=4).path == tmp_path / "Seeds" / "POSCARS_4"
    assert place_for(tmp_path).notes == ()
    (tmp_path / "USPEX_IS_DONE").touch()
    assert "this search has ended" in place_for(tmp_path).notes[0]


@pytest.mark.parametrize(
    ("method", "calculation", "word"),
    [
        ("META", "300", "META reads no seeds"),
        ("VCNEB", "110", "VCNEB reads no seeds"),
        ("USPEX", "310", "molecular"),
        ("USPEX", "311", "molecular"),
        ("USPEX", "201", "surfaces"),
    ],
)
def test_searches_that_read_no_crystals_as_seeds_are_refused(tmp_path, method, calculation, word):
    matlab(tmp_path, method, calculation)
    for anti in (False, True):
        with pytest.raises(InputError, match=word):
            place_for(tmp_path, anti=anti)


def test_anti_seeds_need_their_keys(tmp_path):
    matlab(tmp_path)
    place = place_for(tmp_path, anti=True)
    assert place.path == tmp_path / "AntiSeeds" / "POSCARS"
    assert [re.findall(r"'(.*)'", note)[0] for note in place.notes] == ["1.0 : antiSeedsMax", "0.1 : antiSeedsSigma"]
    matlab(tmp_path, more="0.0 : antiSeedsMax\n0.05 : antiSeedsSigma")
    assert ["antiSeedsMax" in note for note in place_for(tmp_path, anti=True).notes] == [True]
    matlab(tmp_path, more="2.0 : antiSeedsMax\n0.05 : antiSeedsSigma")
    assert place_for(tmp_path, anti=True).notes == ()
    (tmp_path / "ANTISEEDS.mat").touch()
    with pytest.raises(InputError, match="has begun"):
        place_for(tmp_path, anti=True)


@pytest.mark.parametrize(("calculation", "blocks"), [("301", "1 0\n0 1"), ("301", "3 1"), ("300", "1 0\n0 1")])
def test_anti_seeds_never_count_in_variable_compositions(tmp_path, calculation, blocks):
    matlab(tmp_path, calculation=calculation, blocks=blocks, more="2.0 : antiSeedsMax\n0.05 : antiSeedsSigma")
    with pytest.raises(InputError, match="anti-seeds have no effect"):
        place_for(tmp_path, anti=True)


def test_the_python_line_reads_the_folders_that_its_target_names(tmp_path):
    python(tmp_path)
    place = place_for(tmp_path)
    assert place.path == tmp_path / "Seeds" / "POSCARS"
    assert "seeds: {generations: [0] seedsFolders: ['Seeds']}" in place.notes[0]
    python(tmp_path, "\n  seeds: {generations: [2 5] seedsFolders: ['first' 'second']}")
    assert place_for(tmp_path) == place_for(tmp_path, generation=2)
    assert place_for(tmp_path).path == tmp_path / "first" / "POSCARS"
    assert place_for(tmp_path, generation=5).path == tmp_path / "second" / "POSCARS"
    assert place_for(tmp_path).notes == ()
    asked = place_for(tmp_path, generation=7)
    assert asked.path == tmp_path / "Seeds_7" / "POSCARS"
    assert "seeds: {generations: [2 5 7] seedsFolders: ['first' 'second' 'Seeds_7']}" in asked.notes[0]
    with pytest.raises(InputError, match="no anti-seeds"):
        place_for(tmp_path, anti=True)


def test_the_python_line_reads_every_file_of_a_folder(tmp_path):
    python(tmp_path, "\n  seeds: {generations: [0] seedsFolders: ['Seeds']}")
    (tmp_path / "Seeds").mkdir()
    (tmp_path / "Seeds" / "old_POSCARS").touch()
    assert "old_POSCARS too" in place_for(tmp_path).notes[0]
    (tmp_path / "Seeds" / "old.uspex").touch()
    with pytest.raises(InputError, match="reads no POSCARs"):
        place_for(tmp_path)


def test_a_folder_without_an_input_says_so(tmp_path):
    assert "the format of its seeds is unknown" in place_for(tmp_path).notes[0]


def answer(tmp_path, name, pressure, made, species=("H", "S")):
    return assess(Pool([open_results(write_matlab(tmp_path / name, made, species, pressure))]), Question(within=0.2))


def test_no_corner_of_a_hull_is_lost_and_nothing_is_joined_that_one_search_keeps_apart(tmp_path):
    """H3S: R3m is stable at 130 GPa, Im-3m at 200, and each search has both; a plain matcher takes them for one."""
    h, s = bulk("H", "fcc", 4.2), bulk("S", "bcc", 3.4)
    low = [Made(1, h, -1.0), Made(2, s, -2.0), Made(3, h3s(0.1, 3.05), -6.02), Made(4, h3s(0.0, 3.05), -6.0)]
    high = [Made(1, h, 0.0), Made(2, s, -1.0), Made(3, h3s(0.05), -2.0), Made(4, h3s(0.0), -2.02)]
    answers = [answer(tmp_path, "p130", 130.0, low), answer(tmp_path, "p200", 200.0, high)]
    assert [[point.entry.id for point in one.hull.vertices] for one in answers] == [[1, 3, 2], [1, 4, 2]]
    seeds = choose(answers, None)
    kept = {(Path(seed.entry.run).name, seed.entry.id) for seed in seeds}
    assert {("p130", 1), ("p130", 2), ("p130", 3), ("p200", 1), ("p200", 2), ("p200", 4)} <= kept
    for one in answers:  # what one comparison kept apart: both phases of H3S are there in some form
        alone = choose([one], None)
        assert len(alone) == len(one.phases) == 4
    assert beyond(answers, seeds, 5) == [f"corners of a hull left out by the limit of 5: {seeds[5].entry.name}"]
    assert beyond(answers, seeds, 6) == beyond(answers, seeds, None) == []


def test_the_same_phase_of_two_pressures_is_written_once_where_it_is_no_corner(tmp_path):
    cani = Atoms("CaNi", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[3.0] * 3, pbc=True)
    squeezed = cani.copy()
    squeezed.set_cell(cani.cell * 0.95, scale_atoms=True)
    ca, ni = bulk("Ca", "fcc", 5.4), bulk("Ni", "fcc", 3.3)
    species = ("Ca", "Ni")
    low = answer(tmp_path, "low", 0.0, [Made(1, ca, -2.0), Made(2, ni, -5.0), Made(3, cani, -6.9)], species)
    high = answer(tmp_path, "high", 50.0, [Made(1, ca, -1.0), Made(2, ni, -4.0), Made(3, squeezed, -4.8)], species)
    seeds = choose([low, high], None)
    assert [seed.entry.formula for seed in seeds] == ["Ca", "Ni", "Ca", "Ni", "CaNi"]
    assert Path(seeds[-1].entry.run).name == "low"


def test_a_structure_that_cannot_be_read_is_named(tmp_path):
    made = [Made(1, bulk("H", "fcc", 4.2), -1.0), Made(2, bulk("S", "bcc", 3.4), -2.0)]
    folder = write_matlab(tmp_path / "results1", made, ("H", "S"), 0.0)
    path = folder / "gatheredPOSCARS"
    path.write_text(path.read_text().replace("EA2", "EA9"))
    one = assess(Pool([open_results(folder)]), Question())
    assert unreadable([one]) == [f"left out, since there is no readable structure of them: {folder}:EA2"]


def test_titles_are_harmless_to_the_shell_that_uspex_hands_them_to(tmp_path):
    """USPEX 9.4.4: echo "TITLE" | cut -d[ -f2 | cut -d] -f1, and what comes back is evaluated."""
    folder = tmp_path / 'run $(touch x) `y` "z" \\ [1 2]' / "results1"
    write_matlab(folder, [Made(1, bulk("H", "fcc", 4.2), -1.0)], ("H", "S"), 0.0)
    text = format_seeds(choose([assess(Pool([open_results(folder)]), Question())], None))
    title = text.splitlines()[0]
    assert title.startswith("EA1 H 0.0000 eV/atom above the hull at 0 GPa, ")
    assert not re.search(r"[$`\"\\\[\]'!|&;<>*?~#%]", title)
    lattice = np.array([line.split() for line in text.splitlines()[2:5]], dtype=float)
    np.testing.assert_allclose(lattice, bulk("H", "fcc", 4.2).cell.array, atol=1e-8)
