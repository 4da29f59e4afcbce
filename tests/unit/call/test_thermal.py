"""What a folder of free energies is asked for again, and what it has."""

from dataclasses import replace

from ase.build import bulk
from calling import TOY

from uspex_bridge.base.atoms import to_structure
from uspex_bridge.call.config import load_config
from uspex_bridge.call.thermal import LINES, FreeEnergyTask, Rest, asked_of, free_energies


def test_phonons_are_kept_whatever_is_asked_of_scha(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bridge.toml").write_text('protocol = "single.toml"\n' + TOY)
    (tmp_path / "single.toml").write_text('[[stage]]\nname = "accurate"\ncalculator = "model"\nfmax = 0.01\n')
    rest = Rest("one", to_structure(bulk("Ni", "fcc", a=2.5)), -1.0)
    asked = {"supercell": (2, 2, 2), "mesh": 4}
    task = FreeEnergyTask(load_config(tmp_path), tmp_path / "out", 0.0, (300.0,), asked_of(**asked), keep_models=True)

    def lines(**more):
        list(free_energies([rest], "harmonic", replace(task, asked=asked_of(**asked, **more))))
        return len((task.out / LINES).read_text().splitlines())

    assert lines() == 1
    assert lines(g_error=0.001, upscale=True, final_configs=500) == 1
    assert lines(isotopes={"Ni": 60.0}) == 2
    assert lines(seed=1) == 3
