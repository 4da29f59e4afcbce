"""Failed or killed at any file operation, no command leaves stale, half, foreign or lost results."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
#: In sweeps.py; with the number of cases that there are at least.
NAMES = {
    "executable": 300,
    "adding": 100,
    "making": 130,
    "labels": 300,
    "collecting": 150,
    "preparing": 400,
    "screening": 150,
    "relaxing": 350,
    "cycling": 1200,
    "training": 250,
    "database": 100,
}
#: Those that are swept whole only.
MORE = {
    "rescoring": 300,
    "free-energies": 200,
    **dict.fromkeys(("extxyz", "table", "crystals", "hull", "page", "seeds", "figure", "history", "systems"), 40),
    **dict.fromkeys(("frames", "selection", "copies", "evaluation", "inputs"), 40),
}


def sweep(folder: Path, count: int, *names: str) -> dict[str, int]:
    """Try cases of sweeps; return how many of each there were, and let the test fail with all that was wrong."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("sweeps.py")), str(folder), str(count), *names],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    wrong = [f"{name}: {each}" for name, (_, faults) in found.items() for each in faults]
    assert not wrong, "\n".join(wrong)
    return {name: tried for name, (tried, _) in found.items()}


@pytest.mark.timeout(900)
def test_a_few_cases_of_each(tmp_path):
    tried = sweep(tmp_path, 6, *NAMES)
    assert set(tried) == set(NAMES)
    assert all(6 <= count <= 12 for count in tried.values()), tried


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [*NAMES, *MORE])
def test_every_case(tmp_path, name):
    tried = sweep(tmp_path, 0, name)
    print(tried)
    assert tried[name] >= (NAMES | MORE)[name]
