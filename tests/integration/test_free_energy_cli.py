"""``uspex-bridge free-energy``: phases of a search at temperatures, its tables, files, figures and restarts."""

import json
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from calling import TOY
from click.testing import CliRunner

from uspex_bridge import load_model
from uspex_bridge.base.errors import ConfigError, InputError
from uspex_bridge.base.units import pv_energy
from uspex_bridge.cli.free_energy import command

PROTOCOL = '[[stage]]\nname = "accurate"\ncalculator = "model"\nfmax = 0.01\n'
ASKED = ["structures.extxyz", "-p", "10", "--min-image", "4.5"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with hcp and fcc nickel, fcc iron and FeNi3, and a toy potential."""
    folder = tmp_path_factory.mktemp("free-energy")
    alloy = bulk("Ni", "fcc", a=3.5, cubic=True)
    alloy.symbols[3] = "Fe"  # nickel first: formulas have their own order
    named = {
        "hcp": bulk("Ni", "hcp", a=2.5, c=4.1),
        "fcc": bulk("Ni", "fcc", a=3.5),
        "iron": bulk("Fe", "fcc", a=3.5),
        "alloy": alloy,
    }
    for name, atoms in named.items():
        atoms.info["name"] = name
    write(folder / "structures.extxyz", list(named.values()))
    (folder / "bridge.toml").write_text('protocol = "thermal.toml"\n' + TOY)
    (folder / "thermal.toml").write_text(PROTOCOL)
    return folder


def run(*words: str) -> str:
    done = CliRunner().invoke(command, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def harmonic(place) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return json.loads(run(*ASKED, "-T", "0,300,1000", "--json"))


def free(document: dict, name: str, temperature: float, method: str = "harmonic") -> dict:
    (phase,) = [p for p in document["phases"] if p["name"].endswith(name)]
    (line,) = [f for f in phase["free_energies"] if (f["method"], f["temperature"]) == (method, temperature)]
    return line | {"rest": phase["enthalpy_per_atom"]}


def test_g_falls_with_temperature_and_begins_at_the_zero_point(harmonic):
    for name in ("EA1", "EA2", "EA3", "EA4"):
        g = [free(harmonic, name, t)["g"] - free(harmonic, name, t)["rest"] for t in (0.0, 300.0, 1000.0)]
        assert 0.01 < g[0] < 0.1
        assert g[0] > g[1] > g[2]
        assert free(harmonic, name, 0.0)["g_error"] is None  # nothing is sampled


def test_each_temperature_has_a_hull_of_its_own(harmonic):
    """The distance of fcc to hcp nickel is the difference of their G, at rest of their H."""
    assert set(harmonic["stable"]) == {"rest", "0", "300", "1000"}
    for temperature in (0.0, 1000.0):
        hcp, fcc = (free(harmonic, name, temperature) for name in ("EA1", "EA2"))
        assert fcc["above_hull"] == pytest.approx(fcc["g"] - hcp["g"], abs=2e-6)
        assert hcp["above_hull"] == 0.0
    hcp, fcc = (free(harmonic, name, 0.0) for name in ("EA1", "EA2"))
    assert abs((fcc["g"] - hcp["g"]) - (fcc["rest"] - hcp["rest"])) > 1e-5


def test_what_is_there_is_not_computed_again(place, harmonic, monkeypatch):
    """And a new temperature costs phonons only; the same numbers come back."""
    monkeypatch.chdir(place)
    lines = (place / "free-energy" / "free-energy.jsonl").read_text()
    again = json.loads(run(*ASKED, "-T", "0,300,1000", "--json"))
    assert again == harmonic
    assert (place / "free-energy" / "free-energy.jsonl").read_text() == lines


def test_the_table_fits_a_terminal_and_names_what_is_stable(place, harmonic, monkeypatch):
    monkeypatch.chdir(place)
    text = run(*ASKED, "-T", "0,300,1000")
    assert max(map(len, text.splitlines())) <= 80
    assert "4 phases at 10 GPa, toy, harmonic" in text
    assert "stable at 1000 K:" in text
    assert "FeNi3" in text  # one formula for one phase, whatever order the file has


def test_scha_has_error_bars_and_figures_are_drawn(place, harmonic, monkeypatch):
    """Only what is near the harmonic hull is sampled; at 0 K and in a stiff crystal both methods nearly agree."""
    monkeypatch.chdir(place)
    found = json.loads(
        run(
            *ASKED, "-T", "300", "--method", "scha", "--promote", "0.02", "--figures", "--g-error", "0.001", "--json"
        ).partition("free-energy/")[0]
    )
    assert found["method"] == "scha"
    assert [name[-3:] for name in found["not_promoted"]] == ["EA4"]
    for name in ("EA1", "EA2", "EA3"):
        line = free(found, name, 300.0, "scha")
        assert 0.0 < line["g_error"] < 0.002
        assert line["g"] == pytest.approx(free(harmonic, name, 300.0)["g"], abs=0.004)
        assert line["status"] == "converged"
    drawn = list((place / "free-energy").glob("*.png"))
    assert {"free-energy.png"} < {path.name for path in drawn}
    assert len([path for path in drawn if path.name.startswith("phonons-")]) == 4


def test_scha_is_corrected_to_a_second_model_and_to_labels(place, harmonic, monkeypatch):
    """To the same model: nothing changes. To labels that lie 0.1 eV/atom higher, of the harvest alone: G does too."""
    monkeypatch.chdir(place)
    words = [*ASKED, "-T", "300", "--method", "scha", "--promote", "0.02", "--g-error", "0.001"]
    text = run(*words, "--correct", "model", "--samples", "8", "--harvest", "wanted.extxyz", "--json", "--force")
    same = json.loads(text[: text.rindex("}") + 1])
    assert same["method"] == "corrected"
    for name in ("EA1", "EA2", "EA3"):
        g = [free(same, name, 300.0, method)["g"] for method in ("scha", "corrected")]
        assert g[1] == pytest.approx(g[0], abs=2e-6)
        assert free(same, name, 300.0, "corrected")["above_hull"] is not None
    again = [*words, "--correct", "model", "--samples", "10", "--json"]
    stopped = free(json.loads(run(*again, "--time-limit", "1e-9")), "EA1", 300.0, "corrected")
    assert (stopped["status"], "time limit reached" in stopped["reason"]) == ("failed", True)
    assert free(json.loads(run(*again)), "EA1", 300.0, "corrected")["evaluations"] == 10
    wanted = read("wanted.extxyz", ":")
    assert len(wanted) == 3 * 8
    assert all(atoms.calc is None for atoms in wanted)  # nothing that could be taken for a label
    labels = []
    for atoms in wanted:
        if len(atoms) != len(wanted[0]):
            continue  # one phase alone is labelled
        energy = load_model("model", config="bridge.toml").evaluate_many([atoms])[0]["energy"]
        turned = atoms[np.argsort(atoms.numbers, kind="stable")]
        turned.positions += turned.cell[0]  # as another program may wrap it
        turned.calc = SinglePointCalculator(turned, energy=energy + 0.1 * len(atoms))
        labels.append(turned)
    write("labels.extxyz", labels)
    labelled = json.loads(run(*words, "--correct", "labels.extxyz", "--json"))
    (name,) = {"EA1", "EA2", "EA3"} - {
        name for name in ("EA1", "EA2", "EA3") if free(labelled, name, 300.0, "corrected")["status"] == "rejected"
    }
    one = free(labelled, name, 300.0, "corrected")
    assert one["g"] == pytest.approx(free(labelled, name, 300.0, "scha")["g"] + 0.1, abs=1e-5)
    assert "8.0 of them count" in one["reason"]
    with pytest.raises(ConfigError, match="only free energies of scha"):
        run(*ASKED, "-T", "300", "--correct", "model")


def test_a_diagram_of_one_pressure_is_harvested(place, monkeypatch):
    """Python's list of one pressure has a folder of its own too."""
    from uspex_bridge import api

    monkeypatch.chdir(place)
    how = {"method": "scha", "min_image": 4.5, "most": 1, "out": "one", "harvest": "of-one.extxyz", "on": 8}
    diagram = api.free_energies("structures.extxyz", pressure=[10.0], **how)
    assert [answer.folder for answer in diagram.answers] == [Path("one") / "10GPa"]
    assert len(read("of-one.extxyz", ":")) == 8


def test_quasi_harmonic_crystals_expand(place, harmonic, monkeypatch):
    """The volume grows with temperature, and G lies below that at the volume at rest, by little when it is cold."""
    monkeypatch.chdir(place)
    found = json.loads(run(*ASKED, "-T", "0,300,1000", "--method", "qha", "-n", "3", "--json"))
    assert found["method"] == "qha"
    for name in ("EA1", "EA2", "EA3"):
        volumes = [free(found, name, t, "qha")["volume"] for t in (0.0, 300.0, 1000.0)]
        assert volumes[0] < volumes[1] < volumes[2] < 1.05 * volumes[0]
        gained = [free(harmonic, name, t)["g"] - free(found, name, t, "qha")["g"] for t in (0.0, 300.0, 1000.0)]
        assert -2e-4 < gained[0] < 2e-3
        assert gained[0] < gained[2] < 0.02
        assert free(found, name, 300.0, "qha")["g_error"] < 1e-3


def test_without_an_element_the_others_have_a_hull(place, harmonic, monkeypatch):
    """Iron is missing: nickel has its hull, the alloy no place on it; table, JSON and figure say so."""
    monkeypatch.chdir(place)
    write("no-iron.extxyz", [image for image in read("structures.extxyz", ":") if set(image.symbols) != {"Fe"}])
    words = ["no-iron.extxyz", *ASKED[1:], "-T", "0,300", "-o", "no-iron"]
    found = json.loads(run(*words, "--json"))
    assert found["stable"]["300"] == ["no-iron.extxyz:EA1"]
    assert "no entry of pure Fe" in found["problems"]["300"]
    assert free(found, "EA2", 300.0)["above_hull"] == free(harmonic, "EA2", 300.0)["above_hull"]
    assert free(found, "EA3", 300.0)["above_hull"] is None
    text = " ".join(run(*words, "--figures").split())
    assert "hull of Ni alone at rest, 0 K, 300 K: no entry of pure Fe" in text
    assert (place / "no-iron" / "free-energy.png").is_file()


def test_a_hull_shows_what_is_dynamically_unstable(tmp_path, monkeypatch):
    """Simple cubic nickel with its symmetry kept: flagged in the table, its frequency in JSON."""
    from uspex_bridge.cli.hull import command as hull

    folder = tmp_path
    cubic = bulk("Ni", "sc", a=2.2)
    write(folder / "sc.extxyz", [cubic, bulk("Ni", "fcc", a=3.35)])
    (folder / "bridge.toml").write_text('protocol = "kept.toml"\n' + TOY)
    (folder / "kept.toml").write_text(PROTOCOL)
    monkeypatch.chdir(folder)
    text = run("sc.extxyz", "-p", "10", "--min-image", "4.5", "-T", "300", "--keep-symmetry")
    assert "no harmonic free energy (imaginary modes): EA1" in text
    assert "stable at 300 K: EA2 Ni" in text
    images = read("free-energy/relaxed.extxyz", ":")
    write("relaxed.extxyz", images)
    shown = CliRunner().invoke(hull, ["free-energy", "--stability", "free-energy", "--within", "5"])
    assert isinstance(shown.exception, InputError)  # those were structures of sc.extxyz
    for image in images:
        image.info["energy"] = image.get_potential_energy()
        image.calc = None
    write("sc.extxyz", images)
    shown = CliRunner().invoke(
        hull, ["sc.extxyz", "-p", "10", "--stability", "free-energy", "--within", "5", "--json"], catch_exceptions=False
    )
    by_id = {phase["id"]: phase for phase in json.loads(shown.stdout)["phases"]}
    assert "unstable" in by_id[1]["flags"]
    assert by_id[1]["lowest_thz"] < -0.2
    assert "unstable" not in (by_id[2]["flags"] or "")


def test_an_imaginary_mode_leads_to_a_stable_phase(tmp_path, monkeypatch):
    """Simple cubic nickel slides down to a phase that has phonons and a place on the hull; the file can be read."""
    write(tmp_path / "sc.extxyz", [bulk("Ni", "sc", a=2.2)])
    (tmp_path / "bridge.toml").write_text('protocol = "kept.toml"\n' + TOY)
    (tmp_path / "kept.toml").write_text(PROTOCOL)
    monkeypatch.chdir(tmp_path)
    words = ["sc.extxyz", "-p", "10", "--min-image", "3.5", "-T", "300", "--keep-symmetry"]
    assert "followed" not in run(*words)
    found = json.loads(run(*words, "--follow", "--json"))
    first = found["followed"][0]
    assert first["from"] == "sc.extxyz:EA1"
    assert first["gain"] > 0.01
    by_name = {phase["name"]: phase for phase in found["phases"]}
    last = next(one["to"] for one in reversed(found["followed"]) if one["to"])
    assert not by_name[last]["unstable"]
    assert by_name[last]["above_hull_at_rest"] == 0.0
    assert by_name["sc.extxyz:EA1"]["unstable"]
    image = read("free-energy/followed.extxyz", "-1")
    assert image.get_potential_energy() + pv_energy(10.0, image.get_volume()) == pytest.approx(
        len(image) * by_name[last]["enthalpy_per_atom"], abs=1e-4
    )
    text = " ".join(run(*words, "--follow").split())
    assert "followed sc.extxyz:EA1: to followed.extxyz:EA1 Ni P6_3/mmc" in text
    assert "meV/atom lower at rest" in text


def test_python_does_what_the_command_does(place, harmonic, monkeypatch):
    from uspex_bridge import api

    monkeypatch.chdir(place)
    found = api.free_energies("structures.extxyz", pressure=10.0, temperatures=(0, 300, 1000), min_image=4.5)
    assert found.method == "harmonic"
    (hcp,) = [phase for phase in found.phases if phase.entry.id == 1]
    assert hcp.g("harmonic", 300.0) == pytest.approx(free(harmonic, "EA1", 300.0)["g"], abs=1e-6)
    assert np.isnan(hcp.g("scha", 600.0))
    assert [entry.name for entry in found.stable(300.0)] == harmonic["stable"]["300"]


def test_several_pressures_give_a_phase_diagram(place, harmonic, monkeypatch):
    """A folder for each; what one pressure alone gives stands in it; Python does what the command does."""
    from uspex_bridge import api

    monkeypatch.chdir(place)
    words = ["structures.extxyz", "--min-image", "4.5", "-T", "0,300,1000", "-p", "10,40", "-o", "diagram"]
    found = json.loads(run(*words, "--json"))
    low, high = found["pressures"]
    assert (low["pressure_gpa"], high["pressure_gpa"]) == (10.0, 40.0)
    for name in ("EA1", "EA2", "EA4"):
        for temperature in (0.0, 1000.0):
            assert free(low, name, temperature)["g"] == pytest.approx(free(harmonic, name, temperature)["g"], abs=2e-6)
    assert (place / "diagram" / "40GPa" / "free-energy.jsonl").is_file()
    text = run(*words, "--figures")
    assert max(map(len, text.partition("results in")[0].splitlines())) <= 80
    assert "Ni: phase of lowest G" in text
    lowest = [min(("EA1", "EA2"), key=lambda name: free(one, name, 1000.0)["g"]) for one in (low, high)]
    grid = text[text.index("Ni: phase of lowest G") :]
    row = next(line for line in grid.splitlines() if line.startswith("1000 K")).split()
    assert row[2:] == lowest
    drawn = {path.stem.rpartition("-")[2] for path in (place / "diagram").glob("phase-diagram-*.png")}
    assert drawn == {line.partition(":")[0] for line in text.splitlines() if ": phase of lowest G" in line}
    assert {"Fe", "Ni"} <= drawn
    diagram = api.free_energies(
        "structures.extxyz", pressure=[40, 10], temperatures=(0, 300, 1000), min_image=4.5, out="diagram"
    )
    values, errors = diagram.surface(low["phases"][0]["name"])
    assert values[:, 1] == pytest.approx([free(one, low["phases"][0]["name"], 300.0)["g"] for one in (low, high)])
    assert not errors.any()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-T", "warm"], "temperatures warm"),
        (["-T", "300", "--isotope", "H2.0"], "--isotope H2.0"),
        (["-T", "-5"], "temperature"),
        (["-T", "300", "--harvest", "wanted.xyz"], "only configurations of scha"),
        (["-T", "300", "--isotope", "Xx=2.0"], "isotopes: Xx"),
    ],
)
def test_impossible_settings_are_one_line(place, harmonic, monkeypatch, words, said):
    monkeypatch.chdir(place)
    with pytest.raises(ConfigError, match=said):
        run(*ASKED, *words)


def test_without_a_pressure_there_is_no_g(place, monkeypatch):
    monkeypatch.chdir(place)
    with pytest.raises((ConfigError, InputError), match="pressure"):
        run("structures.extxyz", "-T", "300")
