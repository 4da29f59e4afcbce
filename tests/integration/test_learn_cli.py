"""The commands between generations, as they are typed."""

import json
from pathlib import Path

import ase.io
import pytest

from uspex_bridge.cli.main import main

DATA = Path(__file__).parents[1] / "data" / "uspex_results"


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run a command in an empty folder; return exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        out = capsys.readouterr()
        return int(ended.value.code or 0), out.out, out.err

    return call


def test_map(run, tmp_path):
    assert run("results", "export", DATA / "301", "some.extxyz")[0] == 0
    ase.io.write("some.extxyz", ase.io.read("some.extxyz", index="3:7"))
    code, out, _ = run("map", DATA / "301", "--colour", "distance", "--chosen", "some.extxyz", "-o", "m.pdf")
    assert code == 0
    assert "without cross terms" in out
    assert "the 4 chosen reach 4 of 13 bins" in out
    assert (tmp_path / "m.pdf").stat().st_size > 1000
    code, out, _ = run("map", DATA / "301", "--json", "--r-cut", 3.5, "--cross", "--scaling", "none")
    found = json.loads(out)
    assert found["descriptor"]["r_cut"] == 3.5
    assert found["descriptor"]["features"] == 144
    assert len(found["structures"]) == 21
    assert (tmp_path / "map.png").exists()


def test_map_says_what_is_wrong(run):
    assert run("map", DATA / "301", "-o", "map.bmp")[0] == 4
    assert run("map", "nowhere")[0] == 3
    code, _, err = run("map", DATA / "301", "--colour", "pressure")
    assert code == 4
    assert "pressure" in err
