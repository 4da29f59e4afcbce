"""What a search lost, from the bridge's record: counted once each, and as structures to screen and label."""

import json

import numpy as np
import pytest

from uspex_bridge.base.errors import InputError
from uspex_bridge.call import record_file
from uspex_bridge.results.reading.failures import read_failures


def line(key: str, status: str, code: str = "", time: str = "2026-11-20T10:00:00+00:00", **more) -> dict:
    given = {"symbols": ["Ca", "Fe"], "cell": (np.eye(3) * 3).tolist(), "scaled": [[0, 0, 0], [0.5, 0.5, 0.5]]}
    fields = {"key": key, "status": status, "time": time, "pressure_gpa": 50.0, "input": given, "seconds": 1.0}
    return fields | ({"code": code} if code else {}) | more


@pytest.fixture
def search(tmp_path):
    lines = [
        line("a", "rejected", "hole", id=7),
        line("a", "rejected", "hole", id=7),
        line("b", "failed", "CalculationError", slot="CalcFold2"),
        line("b", "converged", enthalpy=-1.0),
        line("c", "unconverged", enthalpy=-1.0),
        line("d", "penalty", "collapse", time="2026-11-22T10:00:00+00:00", enthalpy=1e5),
        line("e", "converged", enthalpy=-2.0),
    ]
    record_file.append(tmp_path / record_file.FILENAME, *lines)
    return tmp_path


def test_each_lost_structure_counts_once_and_begins_as_it_was_given(search):
    found = read_failures([str(search)])
    assert found.counts == {"hole": 1, "collapse": 1, "unconverged": 1}, "b worked in the end"
    assert found.total == 3
    (source,) = found.sources
    assert [entry.origin for entry in source.entries] == ["lost: hole", "lost: collapse"]
    assert next(source.names[entry.id] for entry in source.entries) == "EA7 lost (hole)"
    ((entry, structure), _) = source.structures(source.entries)
    assert structure.formula == "CaFe"
    assert (entry.pressure_gpa, entry.valid, entry.record.status) == (50.0, False, "rejected")


def test_only_what_was_lost_since_then(search):
    assert read_failures([str(search)], "2026-11-21").counts == {"collapse": 1}


def test_a_place_without_a_record_is_said(tmp_path):
    (tmp_path / "f.extxyz").touch()
    with pytest.raises(InputError, match="there is no bridge.record"):
        read_failures([str(tmp_path / "f.extxyz")])


def test_lost_structures_are_screened_and_listed(search, tmp_path, monkeypatch):
    from click.testing import CliRunner

    from uspex_bridge.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "bridge.toml").write_text(
        '[calculators.a]\nkind = "toy"\n[calculators.b]\nkind = "toy"\n[calculators.b.options]\nepsilon = 0.41\n'
    )
    import ase.io
    from ase.build import bulk

    ase.io.write("s.extxyz", bulk("CaFe", "cesiumchloride", a=3.2))
    words = ["screen", "s.extxyz", str(search), "-m", "a", "-m", "b", "--failures", "--b-max", "2", "--json"]
    (search / "results1").mkdir()
    result = CliRunner().invoke(main.command, words)
    assert result.exit_code == 0, (result.output, result.exception)
    facts = json.loads(result.stdout)
    assert facts["retrain"] is True
    assert facts["failures"]["hole"] == 1
    assert facts["flags"]["rejected"] == 2
    assert "lost in the search (hole)" in " ".join(row["reasons"] for row in facts["label"])
    frames = ase.io.read("screened/label.extxyz", ":")
    assert all("own_pressure_gpa" in atoms.info for atoms in frames)
