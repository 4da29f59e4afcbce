"""The example search, run as its README says, on the toy potential."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from uspex_bridge.results.hulls.stability import Question, assess
from uspex_bridge.results.reading import lookup
from uspex_bridge.results.reading.folder import open_results
from uspex_bridge.results.reading.model import Pool

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "search_cafeni" / "search.py"
TOY = 'protocol = "single"\n[calculators.model]\nkind = "toy"\n'


def search(folder, line, generations):
    words = [folder, "--line", line, "--generations", generations, "--population", 4, "--atoms", 2, 4]
    done = subprocess.run([sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("line", ["matlab", "python"])
def test_search_and_what_the_commands_make_of_it(tmp_path, line):
    folder = tmp_path / "search"
    executable = Path(sys.executable).parent / "uspex-bridge"
    words = [executable, "init", line, folder, "--elements", "Ca,Fe,Ni", "--pressure", "50", "--parallel", "2"]
    subprocess.run([*words, "--steps", "3"], check=True, stdout=subprocess.DEVNULL)
    (folder / "Specific" / "bridge.toml").write_text(TOY)
    assert [text.partition(":")[0] for text in search(folder, line, 1)] == ["generation 1"]
    assert open_results(folder / "results1").state == "finished"
    shutil.rmtree(folder / "results1")
    told = search(folder, line, 2)
    assert [text.partition(":")[0] for text in told] == ["generation 1", "generation 2"]
    results = open_results(folder / "results1")
    assert results.notes == []
    assert (results.line, results.settings.pressure_gpa) == (line, 50.0)
    made = [entry for entry in results.entries if entry.origin != "convexHull" and entry.valid]
    assert 6 <= len(made) <= 8
    for entry in made:
        assert entry.record is not None
        assert entry.level == "toy"
        steps = [call["enthalpy"] for call in lookup.find(folder, str(entry.id)) if call["status"] == "converged"]
        assert steps == pytest.approx(entry.steps, abs=6e-4)
    answer = assess(Pool([results]), Question(within=0.5))
    assert {"Ca", "Fe", "Ni"} <= {symbol for phase in answer.phases for symbol, _ in phase.entry.composition}
